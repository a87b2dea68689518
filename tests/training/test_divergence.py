"""What a search and a training say when a number is no longer finite."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import fastnas
from fastnas.methods import method_by_name
from fastnas.spaces import DARTS
from fastnas.spaces.sampling import random_genotype
from fastnas.training.config import RetrainConfig, SearchConfig

X, Y = torch.randn(48, 1, 8, 8), torch.arange(48) % 3
BROKEN = X.clone()
BROKEN[21] = float("nan")  # in batch 5
SEARCH = SearchConfig(channels=4, cells=3, epochs=2, warmup_epochs=0, device="cpu")
RETRAIN = RetrainConfig(channels=4, cells=3, epochs=1)
METHODS = ["darts", "gdas"]


def loaders(weights=X, alpha=X + 1):
    return [DataLoader(TensorDataset(x, Y), batch_size=4) for x in (weights, alpha)]


def said(action, *arguments, **options):
    with pytest.raises(FloatingPointError) as error:
        action(*arguments, **options)
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 300
    return line


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("term", "half"), [("weight", (BROKEN, X)), ("alpha", (X, BROKEN))])
def test_images_that_are_not_finite_are_named_by_their_step(method, term, half):
    line = said(fastnas.search, "darts", method, loaders(*half), SEARCH)
    expected = f"images must be finite, got NaN or infinity in 1 of the 4 of the {term} step 5. Look at the data first."
    assert line == f"search: {expected}"


@pytest.mark.parametrize("method", METHODS)
def test_a_rate_that_is_too_high_is_named(method):
    line = said(fastnas.search, "darts", method, loaders(), replace(SEARCH, weight_lr=1e6, grad_clip=0))
    assert "search: the loss of the" in line
    assert "step must be finite, got" in line
    assert "The images of that step are finite" in line
    endless = replace(method_by_name(method), alpha_optimizer=lambda alpha, settings: torch.optim.SGD(alpha, math.inf))
    line = said(fastnas.search, "darts", endless, loaders(), replace(SEARCH, alpha_lr=10.0))
    assert "alpha must stay finite, got NaN or infinity behind finite losses. Lower --alpha-lr (10) first." in line


def test_the_last_checkpoint_stays_and_is_gone_on_from(tmp_path):
    config = replace(SEARCH, checkpoint_steps=1)
    line = said(fastnas.search, "darts", "darts", loaders(BROKEN), config, folder=tmp_path)
    assert f"{tmp_path / 'checkpoint.pt'} stays as it was." in line
    step = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["step"]
    assert 0 < step <= 5
    assert said(fastnas.search, "darts", "darts", loaders(BROKEN), config, folder=tmp_path) == line


def test_a_retraining_says_it_too():
    genotype = random_genotype(DARTS, 0)
    assert "images must be finite, got NaN or infinity in 1 of the 4 of the weight step 5" in said(
        fastnas.retrain, genotype, loaders(BROKEN), RETRAIN, SEARCH
    )
    line = said(fastnas.retrain, genotype, loaders(), replace(RETRAIN, lr=1e6, grad_clip=0), SEARCH)
    assert "Lower the learning rate (1e+06) first" in line


def test_errors_of_other_kinds_pass():
    def fail(record):
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        fastnas.search("darts", "darts", loaders(), SEARCH, on_epoch=fail)


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 1200

    def __getitem__(self, i):
        return X[i % 48] * (float("nan") if i == 77 else 1), i % 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_names_the_image_that_is_not_finite_and_can_do_without_it(workers):
    data = fastnas.data.from_dataset(Numbers())
    config = replace(SEARCH, epochs=1, batch_size=100, workers=workers)
    with pytest.raises(ValueError, match=r"image 77 of the data set must be a readable image, got NaN or infinity"):
        fastnas.search("darts", "darts", data, config)
    fastnas.search("darts", "darts", data, replace(config, max_broken=1))
