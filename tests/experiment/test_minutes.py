"""A run in a given time."""

from dataclasses import replace

import pytest

from fastnas.cli.main import parse
from fastnas.data import load_data
from fastnas.engine import search
from fastnas.engine.budget import StepTimes
from fastnas.experiment.experiment import run_experiment
from fastnas.experiment.minutes import LADDER, RETRAINING, SEARCH, find_share, fit_ladder
from fastnas.experiment.progress import Display
from fastnas.experiment.selecting import Scene
from fastnas.files import read_json, read_json_lines
from fastnas.methods.library import darts
from fastnas.ranks import ALONE
from fastnas.selection import LadderConfig
from fastnas.spaces import NASBENCH201
from tests.experiment.test_select import TINY

DIGITS = load_data("digits")


def test_shares_add_up_to_the_whole_whatever_a_run_leaves_out():
    for ladder in (True, False):
        for retraining in (True, False):
            parts = SEARCH + LADDER * ladder + RETRAINING * retraining
            assert find_share(parts, ladder=ladder, retraining=retraining) == pytest.approx(1)
    beside_random_search = 2 * SEARCH + RETRAINING
    assert find_share(beside_random_search, ladder=False, retraining=True, halving=True) == pytest.approx(1)


def test_minutes_is_an_option_of_a_search():
    assert parse(["search", "--minutes", "15"]).experiment.config.minutes == 15


def test_the_plan_is_written_down_and_a_resume_keeps_it(tmp_path, monkeypatch):
    config = replace(TINY.config, minutes=0.15, evaluation_images=32, batch_size=16, train_fraction=1.0)
    timed = replace(TINY, config=config, ladder=LadderConfig(steps=2, images=32))
    # what a slow machine might measure: few steps fit
    monkeypatch.setattr("fastnas.engine.budget.time_steps", lambda *_: StepTimes(0.15, 0.06, 0.03))
    monkeypatch.setattr("fastnas.experiment.minutes._time_step", lambda *_: 0.15)
    first = run_experiment(timed, tmp_path, Display)
    budget = read_json(tmp_path / "budget.json")
    assert set(budget) == {"search", "ladder", "retraining"}
    assert len(read_json_lines(tmp_path / "metrics.jsonl")) == budget["search"]["epochs"]
    rungs = read_json_lines(tmp_path / "selection.jsonl")
    assert sum(one["rung"] == 0 for one in rungs) == budget["ladder"]["proposals"]
    assert sum(one["rung"] == 1 for one in rungs) in (0, budget["ladder"]["entrants"])
    epochs = read_json_lines(tmp_path / "retrain" / "searched" / "metrics.jsonl")
    assert len(epochs) == budget["retraining"]["epochs"]
    monkeypatch.setattr("fastnas.experiment.minutes._time_step", lambda *_: pytest.fail("it is planned"))
    monkeypatch.setattr("fastnas.engine.budget.time_steps", lambda *_: pytest.fail("it is planned"))
    again = run_experiment(timed, tmp_path, Display)
    assert again.genotype == first.genotype
    assert again.searched.test_accuracy == first.searched.test_accuracy


def test_a_ladder_without_time_keeps_the_argmax(tmp_path, monkeypatch):
    found = search(NASBENCH201, darts(), DIGITS, TINY.config)
    scene = Scene(NASBENCH201, darts(), DIGITS, TINY.config, TINY.retrain)
    monkeypatch.setattr("fastnas.experiment.minutes._time_step", lambda *_: 0.05)
    assert fit_ladder(TINY.ladder, 0.0, found, scene, tmp_path, ALONE).entrants == 1


def test_random_search_with_halving_has_the_time_of_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr("fastnas.experiment.minutes._time_step", lambda *_: 0.05)
    opposed = replace(TINY, select="argmax", ladder=LadderConfig(), random_genotypes=1, random_halving=True)
    outcome = run_experiment(opposed, tmp_path, Display)
    budget = read_json(tmp_path / "budget.json")["halving"]
    searched = sum(epoch["seconds"] for epoch in read_json_lines(tmp_path / "metrics.jsonl"))
    assert budget["seconds"]["all"] == pytest.approx(searched)
    rungs = read_json_lines(tmp_path / "halving" / "selection.jsonl")
    assert sum(one["rung"] == 1 for one in rungs) == budget["entrants"] >= 2
    names = [network["name"] for network in read_json(tmp_path / "comparison.json")["networks"]]
    assert names == ["searched", "random_1", "halving"]
    assert outcome.halving is not None
    assert "random search with halving" in (tmp_path / "report.html").read_text()
    monkeypatch.setattr("fastnas.experiment.minutes._time_step", lambda *_: pytest.fail("it is planned"))
    assert run_experiment(opposed, tmp_path, Display).halving.test_accuracy == outcome.halving.test_accuracy


def test_minutes_for_many_steps_are_those_of_several_searches(tmp_path, monkeypatch):
    monkeypatch.setattr("fastnas.engine.budget.time_steps", lambda *_: StepTimes(0.15, 0.06, 0.03))
    monkeypatch.setattr("fastnas.engine.budget.STEPS_OF_A_SEARCH", 20)
    config = replace(TINY.config, minutes=0.15, evaluation_images=32, batch_size=16, train_fraction=1.0)
    averaged = replace(
        TINY, config=config, select="average", ladder=LadderConfig(), random_genotypes=0, retrain_searched=False
    )
    run_experiment(averaged, tmp_path, Display)
    budget = read_json(tmp_path / "budget.json")["search"]
    assert budget["searches"] == 2
    records = read_json_lines(tmp_path / "restarts" / "1" / "metrics.jsonl")
    assert len(records) == budget["epochs"]
