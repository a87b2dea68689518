"""Searches on images in files: which of them, those that are broken, and a disk that is full."""

import errno
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastnas.cli.main import main
from fastnas.data import BrokenImages, DataConfig, load_data, paired_batches, write_index
from fastnas.engine import search
from fastnas.experiment.recipes import RECIPES
from fastnas.files import read_json_lines
from fastnas.methods.library import darts, snas
from fastnas.spaces.registry import space_by_name
from fastnas.spaces.sampling import random_genotype
from fastnas.training.config import RetrainConfig, SearchConfig, TrainingSetup
from fastnas.training.retrain import retrain

LOOP = sys.modules["fastnas.engine.loop"]  # the package gives its name to a function of it
SPACE = space_by_name("nasbench201")
TINY = SearchConfig(channels=4, cells=1, epochs=2, batch_size=4, warmup_epochs=0, device="cpu")


def data_of(photos):
    return load_data(f"imagenet:{photos}", DataConfig(resolution=32))


def found(photos, **changes):
    folder = changes.pop("folder", None)
    return search(SPACE, darts(), data_of(photos), replace(TINY, **changes), folder=folder)


def same(one, other):
    return all(torch.equal(a, other.alpha[name]) for name, a in one.alpha.items())


def test_an_index_file_decides_the_images_of_a_search_and_of_its_resume(photos, tmp_path):
    halves = write_index(tmp_path / "a.json", data_of(photos), (0.5, 0.5), seed=7)
    write_index(tmp_path / "b.json", data_of(photos), (0.5, 0.5), seed=8)
    searched = found(photos, index=tmp_path / "a.json", folder=tmp_path / "run")
    assert len(halves.weights) == len(halves.alpha) == 8
    assert same(searched, found(photos, fractions=(0.5, 0.5), seed=0, index=None)) is False
    shutil.copy(tmp_path / "a.json", tmp_path / "moved.json")
    assert same(searched, found(photos, index=tmp_path / "moved.json", folder=tmp_path / "run"))
    with pytest.raises(ValueError, match="a checkpoint of another configuration"):
        found(photos, index=tmp_path / "b.json", folder=tmp_path / "run")


def test_a_method_that_trains_both_at_once_uses_both_halves(photos, monkeypatch):
    seen = []
    monkeypatch.setattr(LOOP, "paired_batches", lambda data, *halves, **rest: seen.append(halves) or iter(()))
    with pytest.raises(RuntimeError, match="StopIteration"):  # the batches end at once
        search(SPACE, snas(), data_of(photos), replace(TINY, fractions=(0.5, 0.25)))
    assert len(seen[0][0]) == 12
    assert set(seen[0][1]) < set(seen[0][0])


def test_fractions_are_of_the_search_alone(photos):
    searched_on = RECIPES["pc_darts_imagenet"].config
    assert (searched_on.fractions, searched_on.train_fraction) == ((0.1, 0.025), 1.0)
    genotype, config = random_genotype(SPACE, 0), RetrainConfig(channels=4, cells=1, epochs=1, batch_size=16)
    # All sixteen images fill its one batch
    assert 0 <= retrain(genotype, data_of(photos), config, TrainingSetup(device="cpu")).test_accuracy <= 1


@pytest.fixture
def one_broken(photos):
    victim = photos / "train" / "dog" / "2.JPEG"
    victim.write_bytes(victim.read_bytes()[:300])
    return victim


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_skipped_and_counted_up_to_the_limit(photos, one_broken, tmp_path, workers):
    skipped = found(photos, max_broken=1, workers=workers, folder=tmp_path / "run")
    assert same(skipped, found(photos, max_broken=5))
    (record,) = read_json_lines(tmp_path / "run" / "broken.jsonl")
    assert record["image"] == str(one_broken)
    assert "runcated" in record["reason"]
    # A search that goes on knows those that were counted already
    (photos / "train" / "cat" / "5.JPEG").write_bytes(b"no image")
    for checkpoint in (tmp_path / "run").glob("checkpoint*"):
        checkpoint.unlink()
    with pytest.raises(ValueError, match=r"at most 1 images may be unreadable, got .*cat/5.* after 1 others\. Replace"):
        found(photos, max_broken=1, workers=workers, folder=tmp_path / "run")


def test_without_a_limit_the_first_broken_image_ends_the_search(photos, one_broken):
    with pytest.raises(ValueError, match=r"dog/2\.JPEG must be a readable image"):
        found(photos)


def test_another_image_of_the_same_half_takes_the_place_of_a_broken_one(photos, one_broken):
    data = data_of(photos)
    broken = next(i for i, name in enumerate(data.train.names) if name.endswith("dog/2.JPEG"))
    others = [i for i in range(16) if i != broken]
    told = replace(data, train=replace(data.train, labels=np.arange(16)))
    halves = np.array([*others[:3], broken]), np.array(others[3:7])
    for weights, alpha in paired_batches(
        told,
        *halves,
        batch_size=4,
        seed=0,
        first_step=0,
        num_steps=3,
        search_from_step=0,
        workers=0,
        broken=BrokenImages(1),
    ):
        assert len(weights.labels) == 4
        assert set(weights.labels.tolist()) == set(others[:3])
        assert set(alpha.labels.tolist()) == set(others[3:7])


def test_a_broken_test_image_is_left_out_of_the_accuracy(photos, tmp_path):
    genotype, config = random_genotype(SPACE, 0), RetrainConfig(channels=4, cells=1, epochs=1, batch_size=16)
    for name in ("0", "1", "2", "3"):
        (photos / "val" / "cat" / f"{name}.JPEG").write_bytes(b"no image")
    result = retrain(genotype, data_of(photos), config, TrainingSetup(max_broken=4, device="cpu"), folder=tmp_path)
    assert result.test_accuracy in [i / 4 for i in range(5)]  # of the four dogs
    assert len(read_json_lines(tmp_path / "broken.jsonl")) == 4


def test_classes_without_images_keep_their_place(photos):
    (photos / "classes.txt").write_text("ant\ncat\ncow\ndog\n")
    data = data_of(photos)
    assert data.classes == ("ant", "cat", "cow", "dog")
    assert data.train.labels.tolist() == [1] * 8 + [3] * 8
    assert data.test.labels.tolist() == [1] * 4 + [3] * 4
    weights = search(SPACE, darts(), data, replace(TINY, epochs=1)).supernet.state_dict()
    assert list(weights.values())[-1].shape == (4,)  # the bias of the classifier


@pytest.mark.parametrize("content", ["ant\ncat\n", "cat\ndog\ndog\n", ""])
def test_a_list_of_classes_that_does_not_fit_is_refused(photos, content):
    (photos / "classes.txt").write_text(content)
    with pytest.raises(ValueError, match=r"classes\.txt must name every class that is there, one a line and each once"):
        data_of(photos)


def test_a_full_disk_leaves_the_checkpoint_before_and_the_search_goes_on_from_it(photos, tmp_path, monkeypatch):
    run, whole = tmp_path / "run", found(photos)
    with monkeypatch.context() as patched:
        saved = []

        def fills_up(content, file):
            if saved:
                file.write(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
            saved.append(1)
            kept(content, file)

        kept = torch.save
        patched.setattr(torch, "save", fills_up)
        with pytest.raises(OSError, match="No space left"):
            found(photos, folder=run)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint.pt", "metrics.jsonl"]
    assert torch.load(run / "checkpoint.pt", weights_only=True)["state"]["step"] == 2
    assert same(whole, found(photos, folder=run))
    assert [record["epoch"] for record in read_json_lines(run / "metrics.jsonl")] == [0, 1]


def test_index_shards_and_search_from_the_command_line(photos, tmp_path, capsys):
    (photos / "train" / "cat" / "5.JPEG").write_bytes(b"no image")
    index, run = tmp_path / "index.json", tmp_path / "run"
    assert main(["index", "--data", f"imagenet:{photos}", "--fractions", "0.5", "0.5", "--out", str(index)]) == 0
    assert "8 images for the weights, 8 for alpha" in capsys.readouterr().out
    words = [
        "--space",
        "nasbench201",
        "--method",
        "darts",
        "--select",
        "argmax",
        "--no-retrain-searched",
        "--index",
        str(index),
        "--device",
        "cpu",
    ]
    for setting, value in {"channels": 4, "cells": 1, "epochs": 1, "batch-size": 4, "warmup-epochs": 0}.items():
        words += [f"--{setting}", str(value)]
    words += ["--resolution", "32"]
    status = main(["search", "--data", f"imagenet:{photos}", "--max-broken", "2", "--run", str(run), *words])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert f"1 images could not be read and were skipped: {run / 'broken.jsonl'}" in printed.out
    assert main(["search", "--data", "digits", "--run", str(tmp_path / "other"), *words]) == 1
    assert "must belong to the data set, got the index of imagenet" in capsys.readouterr().err
    assert main(["shards", "--data", f"imagenet:{photos}", "--out", str(tmp_path / "shards")]) == 1
    assert "cat/5.JPEG must be a readable image" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "shards", ignore_errors=True)
    (photos / "train" / "cat" / "5.JPEG").write_bytes((photos / "train" / "cat" / "6.JPEG").read_bytes())
    assert main(["shards", "--data", f"imagenet:{photos}", "--out", str(tmp_path / "shards")]) == 0
    assert "16 images to train on, 8 to test on" in capsys.readouterr().out
    source = f"shards:{tmp_path / 'shards'}"
    assert main(["search", "--data", source, "--run", str(tmp_path / "third"), *words]) == 0
    assert json.loads((tmp_path / "third" / "config.json").read_text())["config"]["index"] == str(index)


def test_the_recipe_of_pc_darts_for_imagenet_has_the_numbers_of_its_code():
    recipe = RECIPES["pc_darts_imagenet"]
    search_on, training = recipe.config, recipe.retrain
    # train_search_imagenet.py of the published code
    assert (search_on.epochs, search_on.batch_size, search_on.channels, search_on.cells) == (50, 1024, 16, 8)
    assert (search_on.weight_lr, search_on.weight_lr_final, search_on.weight_lr_warmup_epochs) == (0.5, 0.0, 5)
    assert (search_on.momentum, search_on.nesterov, search_on.weight_decay) == (0.9, False, 3e-4)
    assert (search_on.grad_clip, search_on.alpha_grad_clip) == (5.0, 5.0)
    assert (search_on.alpha_lr, search_on.alpha_beta1, search_on.alpha_beta2) == (6e-3, 0.5, 0.999)
    assert search_on.alpha_weight_decay == 1e-3
    # train_imagenet.py
    assert (training.epochs, training.batch_size, training.channels, training.cells) == (250, 1024, 48, 14)
    assert (training.lr, training.schedule, training.lr_warmup_epochs) == (0.5, "linear", 5)
    assert (training.momentum, training.weight_decay, training.grad_clip) == (0.9, 3e-5, 5.0)
    assert (training.label_smoothing, training.auxiliary, training.drop_path, training.cutout) == (0.1, 0.4, 0.0, 0)
