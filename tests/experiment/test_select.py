"""The ladder as the end of an experiment."""

from dataclasses import replace

import pytest

from fastnas.cli.main import main, parse
from fastnas.engine import search
from fastnas.experiment.experiment import run_experiment
from fastnas.experiment.progress import Display
from fastnas.experiment.recipes import RECIPES
from fastnas.experiment.settings import Experiment, load_experiment, require_used
from fastnas.files import read_json, read_json_lines
from fastnas.selection import LadderConfig, load_selection
from fastnas.spaces import NASBENCH201, random_genotype
from fastnas.training.config import RetrainConfig, SearchConfig

TINY = Experiment(
    method="darts",
    space="nasbench201",
    select="ladder",
    random_genotypes=1,
    config=SearchConfig(channels=4, cells=1, epochs=1, batch_size=16, train_fraction=0.1, device="cpu"),
    retrain=RetrainConfig(channels=4, cells=1, epochs=1, batch_size=16),
    ladder=LadderConfig(proposals=6, entrants=3, steps=2, images=32),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run_experiment(TINY, folder, Display)


def test_the_winner_of_the_ladder_is_retrained_and_reported(run):
    folder, outcome = run
    chosen = load_selection(folder, NASBENCH201)
    assert outcome.genotype == chosen.genotype == outcome.searched.genotype
    assert len(read_json_lines(folder / "selection.jsonl")) == 6 + 3 + 2
    assert "The ladder" in (folder / "report.html").read_text()
    assert load_experiment(folder / "config.json") == TINY


def test_a_finished_selection_is_not_repeated(run, monkeypatch):
    folder, outcome = run
    monkeypatch.setattr("fastnas.experiment.selecting.select", lambda *_, **__: pytest.fail("it is there"))
    assert run_experiment(TINY, folder, Display).genotype == outcome.genotype


def test_the_terminal_shows_the_rungs(run, capsys):
    folder, _ = run
    assert main(["search", "--resume", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "rung 0: 6 architectures scored on the supernet" in printed
    assert "rung 2: 2 architectures trained to 4 steps" in printed


def test_a_limit_of_the_cost_holds_on_the_ladder(tmp_path):
    cost = replace(TINY.cost, of="parameters", limit=6500)
    limited = replace(TINY, cost=cost, random_genotypes=0, retrain_searched=False)
    outcome = run_experiment(limited, tmp_path, Display)
    assert outcome.cost[0] <= 6500


def test_an_epoch_that_the_method_went_back_to_is_not_averaged_away(tmp_path, monkeypatch):
    other = random_genotype(NASBENCH201, 7)
    monkeypatch.setattr(
        "fastnas.experiment.experiment.search",
        lambda *arguments, **options: replace(search(*arguments, **options), genotype=other, returned=0),
    )
    averaged = replace(TINY, select="average", ladder=LadderConfig(), random_genotypes=0, retrain_searched=False)
    assert run_experiment(averaged, tmp_path, Display).genotype == other


def test_a_genotype_is_retrained_at_sizes_that_fit_every_space():
    assert parse(["retrain", "DARTS_V2"]).config.cells == 5
    assert parse(["search"]).experiment.config.cells == 1
    assert parse(["search", "--space", "darts"]).experiment.config.cells == 5


def test_a_method_keeps_its_rate_of_alpha_under_the_default_recipe():
    assert parse(["search", "--method", "gaea"]).experiment.config.alpha_lr is None


def test_published_recipes_derive_as_published():
    assert {recipe.select for name, recipe in RECIPES.items() if name != "digits"} == {"argmax"}


def test_the_option_is_named_select():
    assert parse(["search", "--select", "ladder", "--ladder.entrants", "4"]).experiment.ladder.entrants == 4
    assert parse(["search", "--select", "argmax"]).experiment.select == "argmax"


def test_selection_json_holds_every_measurement(run):
    folder, _ = run
    assert len(read_json(folder / "selection.json")["rungs"]) == 11


def test_perturbation_does_not_pass_over_a_cap_of_skip_connections(capsys, tmp_path):
    arguments = ["--select", "perturbation", "--space", "darts", "--run", str(tmp_path / "run")]
    assert main(["search", "--method", "p_darts", *arguments]) == 1
    assert "--select perturbation does not work with a cap of skip connections" in capsys.readouterr().err


def test_a_run_that_was_given_a_ladder_in_vain_can_still_be_read():
    vain = replace(TINY, select="argmax", retrain_searched=False)
    assert vain.ladder == TINY.ladder
    with pytest.raises(ValueError, match="settings of the ladder need select=ladder, got argmax"):
        require_used(vain)
