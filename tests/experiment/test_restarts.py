"""Several searches of one run, whose coefficients are averaged."""

from dataclasses import replace

import pytest

from fastnas.cli.main import main
from fastnas.data import load_data
from fastnas.engine import search
from fastnas.experiment.experiment import SEEDS_APART, run_experiment
from fastnas.experiment.minutes import add_up_seconds
from fastnas.experiment.progress import Display
from fastnas.files import read_json_lines
from fastnas.methods.library import darts
from fastnas.selection import LadderConfig, derive_from_average
from fastnas.spaces import NASBENCH201
from tests.experiment.test_select import TINY

SETTINGS = replace(TINY.config, epochs=2, evaluation_images=16)
ALONE = {"random_genotypes": 0, "retrain_searched": False}
THREE = replace(TINY, select="average", ladder=LadderConfig(), restarts=3, config=SETTINGS, data="digits", **ALONE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run_experiment(THREE, folder, Display)


def test_the_architecture_is_derived_from_the_mean_of_searches_that_stand_alone(run):
    digits = load_data("digits")
    configs = [replace(SETTINGS, seed=SEEDS_APART * number) for number in range(3)]
    alone = [search(NASBENCH201, darts(), digits, config).history for config in configs]
    folder, outcome = run
    assert outcome.genotype == derive_from_average(NASBENCH201, darts(), *alone)
    kept = [read_json_lines(place / "metrics.jsonl") for place in (folder, *sorted((folder / "restarts").iterdir()))]
    assert [[epoch["mix"] for epoch in one] for one in kept] == [[epoch["mix"] for epoch in one] for one in alone]


def test_what_a_search_costs_counts_all_of_them(run):
    folder, _ = run
    of_first = sum(epoch["seconds"] for epoch in read_json_lines(folder / "metrics.jsonl"))
    of_others = [
        epoch["seconds"] for n in (1, 2) for epoch in read_json_lines(folder / "restarts" / str(n) / "metrics.jsonl")
    ]
    assert len(of_others) == 4
    assert add_up_seconds(folder) == pytest.approx(of_first + sum(of_others))


def test_a_run_that_was_stopped_goes_on_in_the_search_that_it_was_in(run, tmp_path, monkeypatch):
    calls = []

    def stopping(*arguments, **options):
        calls.append(options["folder"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return search(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr("fastnas.experiment.experiment.search", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(THREE, tmp_path, Display)
    assert main(["search", "--resume", str(tmp_path)]) == 0
    folder, _ = run
    for name in ("genotype.json", "alpha.pt"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_the_report_says_how_many_searches_there_were(run):
    folder, _ = run
    assert "the mean coefficients of 3 searches" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--restarts", "2", "--select", "argmax"], "restarts need select=average, got argmax"),
        (["--restarts", "0"], "restarts must lie between 1 and 100, got 0"),
        (["--restarts", "2", "--method", "spos"], "--restarts needs a method that derives from coefficients, got spos"),
    ],
)
def test_what_cannot_be_averaged_is_refused(options, message, capsys, tmp_path):
    assert main(["search", "--run", str(tmp_path / "run"), *options]) != 0
    assert message in capsys.readouterr().err
