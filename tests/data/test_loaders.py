"""Two data loaders of one's own: taken as they are, checked, searched and trained on, and resumed."""

import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, SubsetRandomSampler, TensorDataset

import fastnas
from fastnas.data import from_loaders
from fastnas.data.prepare import DataWarning
from fastnas.selection import LadderConfig, select
from fastnas.spaces import NASBENCH201
from fastnas.spaces.sampling import random_genotype
from fastnas.training.config import RetrainConfig, SearchConfig
from fastnas.training.retrain import retrain

COUNT = 24
X, Y = torch.randn(COUNT, 1, 8, 8), torch.arange(COUNT) % 3
SEARCH = SearchConfig(channels=4, cells=1, epochs=2, warmup_epochs=0, device="cpu")
RETRAIN = RetrainConfig(channels=4, cells=1, epochs=2)


class Augmented(Dataset):
    """Images that change at random, drawn from all generators that people draw from."""

    classes = ("a", "b", "c")

    def __init__(self, indices):
        self.indices = indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, i):
        noise = random.random() + np.random.rand() + float(torch.rand(()))
        return X[self.indices[i]] + noise, int(Y[self.indices[i]])


def loaders(workers=0, batch_size=4, **options):
    halves = range(0, COUNT, 2), range(1, COUNT, 2)
    options = {"batch_size": batch_size, "shuffle": True, "num_workers": workers} | options
    return tuple(DataLoader(Augmented(half), **options) for half in halves)


def shared_set():
    """The way of the published code of DARTS: one data set, two samplers."""
    dataset = TensorDataset(X, Y)
    samplers = [SubsetRandomSampler(range(start, COUNT, 2)) for start in (0, 1)]
    return tuple(DataLoader(dataset, batch_size=4, sampler=sampler) for sampler in samplers)


KINDS = {
    "augmented": loaders,
    "workers": lambda: loaders(1),
    "lasting workers": lambda: loaders(1, persistent_workers=True),
    "own generator": lambda: loaders(generator=torch.Generator().manual_seed(3)),
    "samplers": shared_set,
    "unequal": lambda: (loaders(batch_size=5)[0], loaders(batch_size=3)[1]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_repeats_and_goes_on_from_any_step(kind, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = fastnas.search("nasbench201", "darts", KINDS[kind](), SEARCH)
        again = KINDS[kind]()
        torch.rand(1), random.random()
        for batch in again[0]:  # whatever was taken from it before
            assert len(batch) == 2

        def stop(done, total):
            if done == 4 if kind != "unequal" else 2:
                raise KeyboardInterrupt

        config = replace(SEARCH, checkpoint_steps=1)
        with pytest.raises(KeyboardInterrupt):
            fastnas.search("nasbench201", "darts", again, config, folder=tmp_path, on_step=stop)
        found = fastnas.search("nasbench201", "darts", KINDS[kind](), config, folder=tmp_path)
    assert all(torch.equal(found.alpha[name], expected.alpha[name]) for name in expected.alpha)
    assert [r["outer_loss"] for r in found.history] == [r["outer_loss"] for r in expected.history]


def test_a_search_uses_the_batches_of_the_loaders_alone():
    weights, alpha = shared_set()
    data = from_loaders(weights, alpha)
    assert data.loaders.batch_size == 4
    assert [len(half) for half in data.loaders.halves()] == [12, 12]
    pairs = list(data.loaders.paired(data.loaders.halves()[0], 0, 0, 3, 1, torch.device("cpu")))
    assert [pair[1] is None for pair in pairs] == [True, False, False]
    seen = torch.cat([first.images for first, _ in pairs]).flatten(1).sum(1)
    torch.testing.assert_close(seen.sort().values, X[::2].flatten(1).sum(1).sort().values)
    state = torch.random.get_rng_state(), random.getstate()
    next(data.loaders.training[0].batches(0))
    assert torch.equal(torch.random.get_rng_state(), state[0])
    assert random.getstate() == state[1]


def test_whatever_else_stops_a_checkpoint_from_being_taken_for_another(tmp_path):
    fastnas.search("nasbench201", "darts", shared_set(), SEARCH, folder=tmp_path)
    moved = [DataLoader(TensorDataset(X + 1, Y), batch_size=4, sampler=loader.sampler) for loader in shared_set()]
    with pytest.raises(ValueError, match="these images"):
        fastnas.search("nasbench201", "darts", moved, SEARCH, folder=tmp_path)


def test_selection_and_retraining_follow(tmp_path):
    weights, alpha = shared_set()
    with pytest.warns(DataWarning, match="share 12 images"):
        data = from_loaders(weights, alpha, test=DataLoader(weights.dataset, batch_size=10))
    assert any("share 12 images" in note for note in data.notes)
    found = fastnas.search("nasbench201", "darts", data, SEARCH)
    ladder = LadderConfig(proposals=3, entrants=2, steps=2, images=8)
    chosen = select(found, NASBENCH201, fastnas.methods.darts(), data, SEARCH, RETRAIN, ladder)
    result = retrain(chosen.genotype, data, RETRAIN, SEARCH, folder=tmp_path)
    assert sum(map(sum, result.confusion)) == COUNT
    model = fastnas.load(tmp_path)
    torch.testing.assert_close(model(model.preprocessing.normalize(X)), result.network(X))
    with pytest.raises(ValueError, match="must have been trained on images"):
        model.preprocessing("photo.png")


def test_two_loaders_train_and_test():
    dataset = TensorDataset(X, Y)
    train, test = (DataLoader(dataset, batch_size=8, shuffle=shuffle) for shuffle in (True, False))
    with pytest.warns(DataWarning, match="share 24 images"):
        result = fastnas.retrain(random_genotype(NASBENCH201, 0), (train, test), RETRAIN, SEARCH)
    assert sum(map(sum, result.confusion)) == COUNT
    with pytest.raises(ValueError, match="must have a loader of test images"):
        fastnas.retrain(random_genotype(NASBENCH201, 0), from_loaders(train), RETRAIN, SEARCH)


def test_a_method_that_moves_both_at_once_takes_all_batches():
    result = fastnas.search("nasbench201", "snas", shared_set(), SEARCH)
    assert result.history[-1]["step"] == 2 * 6


class Counting:
    """Batches that depend on how often it was asked."""

    def __init__(self):
        self.passes = 0

    def __len__(self):
        return 3

    def __iter__(self):
        self.passes += 1
        return iter([(X[:4] + self.passes, Y[:4])] * 3)


def test_what_cannot_be_repeated_is_said():
    with pytest.warns(
        DataWarning, match=r"loader for weights gives other batches for the same seed.*neither repeated nor"
    ):
        data = from_loaders(Counting(), [(X[:4], Y[:4])] * 3, classes=3)
    assert any("neither repeated nor" in note for note in data.notes)
    assert fastnas.search("nasbench201", "darts", data, SEARCH).history[-1]["step"] == 6


class Endless(torch.utils.data.IterableDataset):
    classes = ("a", "b")

    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def batches(images=X, labels=Y, **options):
    return DataLoader(TensorDataset(images, labels), batch_size=4, **options)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (DataLoader(Endless(), batch_size=4), "must have a length"),
        (batches((X * 10).to(torch.uint8)), "images must be floating-point"),
        (batches(labels=Y.float()), "labels must be whole numbers"),
        (DataLoader(TensorDataset(X), batch_size=4), "pair of tensors"),
        (DataLoader(Subset(TensorDataset(X, Y), range(3)), batch_size=4, drop_last=True), "must give batches"),
        ([(X[:4], Y[:4])], "must know its classes"),
        (batches(images=X.flatten(1)), "must have the shape"),
    ],
)
def test_what_is_no_loader_of_images_is_one_line(weights, message):
    with pytest.raises(ValueError, match=message) as error:
        from_loaders(weights, batches())
    assert str(error.value).count("\n") == 0


def test_labels_and_shapes_of_every_batch_are_checked():
    wrong = Y.clone()
    wrong[20] = 3
    data = from_loaders(batches(labels=wrong), batches(), classes=3)
    with pytest.raises(ValueError, match=r"batch 5 of the loader for weights: labels must lie in \[0, 3\).*got 3"):
        fastnas.search("nasbench201", "darts", data, replace(SEARCH, epochs=1))


@pytest.mark.parametrize(
    "setting", [{"train_fraction": 0.5}, {"sampling": "balanced"}, {"workers": 2}, {"minutes": 1.0}]
)
def test_what_loaders_decide_is_no_setting(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} must not be set with data loaders"):
        fastnas.search("nasbench201", "darts", shared_set(), replace(SEARCH, **setting))


def test_one_loader_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="must be a pair"):
        fastnas.search("nasbench201", "darts", batches(), SEARCH)
    with pytest.raises(ValueError, match="augment and colour must not be set"):
        retrain(random_genotype(NASBENCH201, 0), (batches(), batches()), replace(RETRAIN, augment="crop"), SEARCH)
