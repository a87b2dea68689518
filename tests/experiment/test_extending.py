"""More epochs for what is finished, runs that move, and resumes from other working directories."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fastnas
from fastnas.cli.main import main
from fastnas.engine.extend import announce_more
from fastnas.methods import p_darts
from fastnas.spaces import NASBENCH201, random_genotype
from fastnas.training.config import RetrainConfig, SearchConfig

RNG = np.random.default_rng(0)
LABELS = np.arange(64) % 2
IMAGES = (RNG.integers(0, 100, (64, 1, 8, 8)) + 100 * LABELS[:, None, None, None]).astype(np.uint8)
SEARCH = SearchConfig(channels=4, cells=1, epochs=1, warmup_epochs=0, batch_size=16, device="cpu")
TRAINING = RetrainConfig(channels=4, cells=1, epochs=2, batch_size=16)


def epochs_of(path):
    return [json.loads(line)["epoch"] for line in path.read_text().splitlines()]


def test_a_finished_search_goes_on_and_says_what_becomes_of_its_schedules(tmp_path):
    short = fastnas.search("nasbench201", "darts", (IMAGES, LABELS), SEARCH, folder=tmp_path)
    longer = replace(SEARCH, epochs=3)
    with pytest.raises(ValueError, match="must belong to this configuration"):
        fastnas.search("nasbench201", "darts", (IMAGES, LABELS), longer, folder=tmp_path)
    with pytest.warns(RuntimeWarning, match=r"epoch 1 goes on as in a search of 3 epochs: .* is 0.075 after 0.1"):
        found = fastnas.search("nasbench201", "darts", (IMAGES, LABELS), longer, folder=tmp_path, extend=True)
    assert [record["epoch"] for record in found.history] == [0, 1, 2]
    assert found.history[0] == short.history[0]
    assert found.history[1]["weight_lr"] == pytest.approx(0.075)
    again = fastnas.search("nasbench201", "darts", (IMAGES, LABELS), longer, folder=tmp_path, extend=True)
    assert all(torch.equal(again.alpha[name], a) for name, a in found.alpha.items())


def test_a_finished_retraining_goes_on(tmp_path):
    genotype = random_genotype(NASBENCH201, 0)
    fastnas.retrain(genotype, (IMAGES, LABELS), TRAINING, folder=tmp_path)
    longer = replace(TRAINING, epochs=3)
    with pytest.warns(RuntimeWarning, match=r"from epoch 2 on the schedule is that of 3 epochs, with a rate of 0.0125"):
        trained = fastnas.retrain(genotype, (IMAGES, LABELS), longer, folder=tmp_path, extend=True)
    assert epochs_of(tmp_path / "metrics.jsonl") == [0, 1, 2]
    assert fastnas.load(tmp_path).metrics == trained.info.metrics
    other = replace(longer, epochs=4, lr=0.1)
    with pytest.raises(ValueError, match="must belong to this configuration"):
        fastnas.retrain(genotype, (IMAGES, LABELS), other, folder=tmp_path, extend=True)


def test_methods_whose_epochs_are_divided_are_refused():
    run = SimpleNamespace(method=p_darts(), config=replace(SEARCH, epochs=6))
    with pytest.raises(ValueError, match="more epochs need a method of one stage: p_darts"):
        announce_more(run, [], None)


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A run that was started with paths relative to the working directory."""
    np.savez(tmp_path / "data.npz", x_train=IMAGES, y_train=LABELS)
    monkeypatch.chdir(tmp_path)
    arguments = "search --data arrays:data.npz --space nasbench201 --method darts --device cpu --channels 4 --cells 1"
    arguments += " --epochs 1 --warmup-epochs 0 --batch-size 16 --random-halving --random-genotypes 0 --run run"
    arguments += " --retrain.channels 4 --retrain.cells 1 --retrain.epochs 1 --retrain.batch-size 16"
    assert main(arguments.split()) == 0
    return tmp_path


@pytest.mark.filterwarnings("ignore:search. epoch 1", "ignore:retrain. from epoch 1")
def test_a_run_that_moved_goes_on_from_another_working_directory(finished, monkeypatch, capsys):
    run = finished / "elsewhere" / "moved"
    run.parent.mkdir()
    shutil.move(finished / "run", run)
    monkeypatch.chdir(run.parent)
    assert fastnas.load("moved").metrics
    assert main(["search", "--resume", "moved", "--epochs", "2", "--retrain.epochs", "2"]) == 0
    assert epochs_of(run / "metrics.jsonl") == epochs_of(run / "retrain" / "searched" / "metrics.jsonl") == [0, 1]
    assert (run / "after-1-epochs" / "genotype.json").is_file()
    budgets = [json.loads((place / "budget.json").read_text()) for place in (run / "after-1-epochs", run)]
    shorter, longer = (budget["halving"]["seconds"]["all"] for budget in budgets)  # its opponent has its time
    assert longer > shorter
    assert (run / "halving" / "selection.json").is_file()
    assert json.loads((run / "config.json").read_text())["config"]["epochs"] == 2
    assert main(["compare", ".", "--out", "table.csv"]) == 0
    capsys.readouterr()
    assert main(["search", "--resume", "moved", "--epochs", "1"]) == 1
    assert "must not have fewer epochs than --epochs 2" in capsys.readouterr().err


def test_a_refused_extension_leaves_the_run_as_it_was(finished, capsys):
    run, data = finished / "run", finished / "data.npz"
    names = ("config.json", "genotype.json", "comparison.json", "report.html", "retrain/searched/metrics.jsonl")
    before = {name: (run / name).read_bytes() for name in names}
    np.savez(data, x_train=255 - IMAGES, y_train=LABELS)
    assert main(["search", "--resume", "run", "--epochs", "3"]) != 0
    assert "must belong to this configuration and these images" in capsys.readouterr().err
    assert {name: (run / name).read_bytes() for name in names} == before
    assert not (run / "after-1-epochs").exists()
    np.savez(data, x_train=IMAGES, y_train=LABELS)
    assert main(["search", "--resume", "run"]) == 0


def test_a_search_that_would_wait_again_is_left_as_it_was(finished, capsys):
    arguments = "search --data arrays:data.npz --space nasbench201 --method pc_darts --device cpu --channels 4"
    arguments += " --cells 1 --epochs 1 --batch-size 16 --no-retrain-searched --random-genotypes 0 --run waits"
    assert main(arguments.split()) == 0
    before = {path: path.read_bytes() for path in (finished / "waits").rglob("*") if path.is_file()}
    assert main(["search", "--resume", "waits", "--epochs", "12"]) != 0
    assert "more epochs must leave the warm-up within the 1 epochs that are done" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (finished / "waits").rglob("*") if path.is_file()} == before
    assert main(["search", "--resume", "waits"]) == 0
