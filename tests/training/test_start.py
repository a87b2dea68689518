"""Trainings that start from the weights of another run, or of the supernet."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import fastnas
from fastnas.cli.main import main
from fastnas.spaces import random_genotype
from fastnas.spaces.formats import as_genotype
from fastnas.training.config import RetrainConfig, SearchConfig

RNG = np.random.default_rng(0)
LABELS = np.arange(80) % 2
IMAGES = (RNG.integers(0, 100, (80, 1, 16, 16)) + 100 * LABELS[:, None, None, None]).astype(np.uint8)
TINY = RetrainConfig(channels=4, cells=1, epochs=1, batch_size=16)
GENOTYPE = as_genotype("|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|none~1|nor_conv_3x3~2|")


def data(classes):
    return fastnas.data.from_arrays((IMAGES, LABELS), classes=classes)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    return folder, fastnas.retrain(GENOTYPE, data(["dark", "light"]), TINY, folder=folder)


def test_a_training_starts_where_another_ended(first, tmp_path):
    folder, before = first
    config = replace(TINY, init_from=str(folder), lr=1e-9)
    after = fastnas.retrain(GENOTYPE, data(["dark", "light"]), config, folder=tmp_path)
    assert (after.start.share, after.start.fresh, after.start.unused) == (1.0, [], [])
    assert after.start.score == before.score
    assert json.loads((tmp_path / "init.json").read_text())["source"] == str(folder)
    weights = dict(before.network.named_parameters())
    assert all(torch.allclose(p, weights[name], atol=1e-6) for name, p in after.network.named_parameters())
    again = fastnas.retrain(GENOTYPE, data(["dark", "light"]), config, folder=tmp_path)
    assert again.start == after.start  # nothing is measured twice
    with pytest.raises(ValueError, match="must belong to this configuration"):
        fastnas.retrain(GENOTYPE, data(["dark", "light"]), TINY, folder=tmp_path)


def test_the_head_is_fresh_where_classes_differ_and_the_line_says_so(first):
    folder, _ = first
    after = fastnas.retrain(GENOTYPE, data(["cat", "dog"]), TINY, init=fastnas.load(folder))
    assert after.start.fresh == ["classifier.weight", "classifier.bias"]
    assert after.start.score is None
    assert 0.9 < after.start.share < 1
    line = after.start.describe(after.score_kind.show)
    assert "fresh: classifier.weight, classifier.bias; 2 tensors of it not used" in line


def test_other_genotypes_take_the_operations_that_both_have(first):
    folder, _ = first
    other = as_genotype("|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|none~0|none~1|avg_pool_3x3~2|")
    after = fastnas.retrain(other, data(["dark", "light"]), TINY, init=folder)
    fresh = {name for name in after.start.fresh if name.startswith("stages.0.0.nodes.")}
    assert {name[: len("stages.0.0.nodes.0.0")] for name in fresh} == {"stages.0.0.nodes.1.0", "stages.0.0.nodes.1.1"}
    assert 0 < after.start.share < 1


def test_what_cannot_be_started_from_is_refused(first, tmp_path):
    narrow = RetrainConfig(channels=3, cells=1, epochs=1, batch_size=16)
    with pytest.raises(ValueError, match="a weight of the same name and shape"):
        fastnas.retrain(GENOTYPE, data(["cat", "dog"]), narrow, init=first[0])
    with pytest.raises(ValueError, match=r"must hold a model.json"):
        fastnas.retrain(GENOTYPE, data(["dark", "light"]), TINY, init=tmp_path)
    with pytest.raises(ValueError, match="supernet needs a search"):
        fastnas.retrain(GENOTYPE, data(["dark", "light"]), TINY, init="supernet")


def test_a_child_inherits_from_its_supernet_and_is_measured_before_training(tmp_path):
    config = SearchConfig(channels=4, cells=1, epochs=2, warmup_epochs=0, batch_size=16, device="cpu")
    found = fastnas.search("nasbench201", "darts", data(["dark", "light"]), config)
    quiet = replace(TINY, lr=1e-9)
    child = fastnas.retrain(found.genotype, data(["dark", "light"]), quiet, init=found.supernet)
    assert child.start.source == "supernet"
    assert child.start.score >= 0.9  # learnt by the supernet
    weights = dict(found.supernet.named_parameters())
    assert torch.allclose(child.network.classifier.weight, weights["classifier.weight"], atol=1e-6)
    stranger = random_genotype(fastnas.spaces.DARTS, 0)
    with pytest.raises(ValueError, match="a supernet must have the space"):
        fastnas.retrain(stranger, data(["dark", "light"]), replace(TINY, cells=3), init=found.supernet)


def test_the_command_line_starts_from_runs_and_supernets(tmp_path, capsys):
    np.savez(tmp_path / "data.npz", x_train=IMAGES, y_train=LABELS)
    tiny = f"--data arrays:{tmp_path / 'data.npz'} --device cpu --batch-size 16 --epochs 1".split()
    search = "--space nasbench201 --channels 4 --cells 1 --warmup-epochs 0 --no-random-halving --random-genotypes 0"
    search += " --retrain.channels 4 --retrain.cells 1 --retrain.epochs 1 --retrain.batch-size 16"
    search = [*tiny, *search.split(), "--retrain.init-from", "supernet"]
    run = tmp_path / "run"
    assert main(["search", *search, "--method", "darts", "--run", str(run)]) == 0
    assert "started from supernet" in (said := " ".join(capsys.readouterr().out.split()))
    assert "before any training" in said
    assert (run / "retrain" / "searched" / "init.json").is_file()
    genotype = str(run / "genotype.json")
    retrain = ["retrain", genotype, *tiny, "--channels", "4", "--cells", "1", "--run", str(tmp_path / "more")]
    assert main([*retrain, "--init-from", str(run)]) == 0
    assert f"started from {run}: 100.0% of the weights taken" in " ".join(capsys.readouterr().out.split())
    assert main(["search", *search, "--method", "pc_darts", "--run", str(tmp_path / "partial")]) == 1
    assert "partial channels have other shapes" in capsys.readouterr().err
    assert not (tmp_path / "partial").exists()
