import gzip
import importlib.util
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from fastnas.data import load_data
from fastnas.methods.library import METHODS, darts, gdas, snas
from fastnas.spaces.cell_space import NASBENCH201
from fastnas.spaces.formats import genotype_to_text
from fastnas.spaces.sampling import random_genotype
from fastnas.training.config import SearchConfig

FILE = Path(__file__).parents[2] / "profiling" / "searches.py"


@pytest.fixture(scope="module")
def searches():
    spec = importlib.util.spec_from_file_location("searches", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def options(searches, tmp_path):
    return searches.Searches(
        methods=("snas",),
        seeds=1,
        random=1,
        train_fraction=0.05,
        epochs=2,
        batch_size=16,
        retrain_epochs=1,
        results=tmp_path / "results.jsonl",
    )


def lines_of(options):
    return [json.loads(line) for line in options.results.read_text().splitlines()]


def write_table(path):
    """Every architecture of the space, the later ones the better; returns their accuracies."""
    names = NASBENCH201.primitives
    texts = ["|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*choice) for choice in product(names, repeat=6)]
    accuracies = {text: 60 + i / 1000 for i, text in enumerate(texts)}
    path.write_bytes(
        gzip.compress("\n".join(["architecture,test", *(f"{t},{a}" for t, a in accuracies.items())]).encode())
    )
    return accuracies


def test_what_was_found_is_looked_up_and_a_resume_does_only_what_is_left(searches, options, tmp_path, capsys):
    options = replace(options, table=tmp_path / "table.csv.gz", methods=("gdas",))
    accuracies = write_table(options.table)
    searches.main(options)
    first = lines_of(options)
    assert [(line["method"], line["seed"]) for line in first] == [("random", 0), ("gdas", 0)]
    assert first[0]["genotype"] == genotype_to_text(random_genotype(NASBENCH201, 0))
    for line in first:
        assert line["accuracy"] == accuracies[line["genotype"]]
        assert line["rank"] == 1 + sum(other > line["accuracy"] for other in accuracies.values())
        assert line["regret"] == max(accuracies.values()) - line["accuracy"]
        assert line["skips"] == line["genotype"].count("skip_connect")
    assert (first[1]["epochs"], first[1]["steps"]) == (2, 4)
    assert "| mean of the space | 67.81 |" in capsys.readouterr().out  # 60 + 15,624 / 2 / 1000

    searches.main(replace(options, resume=True, random=2))
    assert lines_of(options)[:2] == first
    assert [(line["method"], line["seed"]) for line in lines_of(options)[2:]] == [("random", 1)]


def searched_config(options):
    return SearchConfig(
        channels=options.channels,
        cells=options.cells,
        epochs=options.epochs,
        batch_size=options.batch_size,
        train_fraction=options.train_fraction,
        weight_lr=options.weight_lr,
        alpha_lr=options.alpha_lr,
        device="cpu",
    )


def test_without_a_table_what_was_found_is_trained(searches, options, capsys):
    searches.main(replace(options, random=0))
    (line,) = lines_of(options)
    assert (line["epochs"], line["steps"]) == (1, 4)  # as many steps as the others take in two epochs of half as many
    assert 0 < line["accuracy"] <= 100
    assert "rank" not in line
    assert capsys.readouterr().out.count("| with it |") == 1  # snas


def test_a_failure_is_a_row_and_is_tried_again(searches, options, capsys):
    options = replace(options, methods=("p_darts",), random=0)  # three stages do not fit into two epochs
    searches.main(options)
    assert (
        "| p_darts | failed with seed 0: ValueError: search: epochs must be at least the 3" in capsys.readouterr().out
    )
    searches.main(replace(options, resume=True))
    assert [line["method"] for line in lines_of(options)] == ["p_darts", "p_darts"]


def test_results_of_other_settings_or_of_an_older_run_are_refused(searches, options, tmp_path):
    options = replace(options, methods=(), random=1, table=tmp_path / "table.csv.gz")
    write_table(options.table)
    searches.main(options)
    with pytest.raises(ValueError, match="must be new, got an older one"):
        searches.main(options)
    with pytest.raises(ValueError, match="must hold results of these settings"):
        searches.main(replace(options, resume=True, channels=8))
    with pytest.raises(ValueError, match=r"methods must be among darts, .*, got nope"):
        searches.main(replace(options, methods=("nope",)))
    assert set(searches.Searches().methods) == set(METHODS)


def test_saved_bytes_are_those_that_live_at_once(searches):
    w = torch.ones(1000, requires_grad=True)

    def graph(x):
        return (x.exp() * w).sum()  # saves the result of exp, for both factors; w is permanent

    x = torch.ones(1000, requires_grad=True)
    assert searches.peak_saved_bytes(lambda: graph(x), [w]) == 4000
    one_after_another = [lambda: torch.autograd.grad(graph(x), x)] * 2
    assert searches.peak_saved_bytes(lambda: [run() for run in one_after_another], [w]) == 4000
    assert searches.peak_saved_bytes(lambda: [graph(x), graph(x)], [w]) == 8000


def test_a_sampled_path_saves_less_than_the_mixture_of_all(searches, options):
    data, config = load_data("digits"), searched_config(options)
    dense, sampled, joint = (
        searches.bytes_of_steps(method, NASBENCH201, data, config) for method in (darts(), gdas(), snas())
    )
    assert sampled.weight_step < dense.weight_step / 2  # one of five candidates on every edge
    assert joint.alpha_step is None


def test_a_budget_of_seconds_becomes_as_many_epochs_as_fit(searches, monkeypatch):
    clock, tried = [100.0], []

    def search(space, method, data, config, on_epoch):
        tried.append((config.epochs, config.warmup_epochs, method.control))
        for epoch in range(config.epochs):
            clock[0] += 3.0 if epoch % 2 else 1.0  # alpha waits in the first epoch of a stage
            on_epoch({})

    monkeypatch.setattr(searches, "search", search)
    monkeypatch.setattr(searches, "process_time", lambda: clock[0])
    config = SearchConfig()

    def epochs(method, seconds):
        return searches.epochs_within(seconds, method, NASBENCH201, None, config)

    assert epochs(replace(darts(), warmup_share=0.25), 25) == 10  # 0.25 * 1 + 0.75 * 3 s each
    assert epochs(METHODS["darts_plus"](), 31) == 10
    assert epochs(METHODS["p_darts"](), 22) == 10  # 0.4 * 1 + 0.6 * 3 s each
    assert epochs(METHODS["p_darts"](), 1) == 6  # two of each of three stages
    assert tried == [(2, 1, None), (2, 1, None), (6, 1, None), (6, 1, None)]


def test_seconds_decide_the_epochs_and_a_part_of_a_run_goes_on_later(searches, options, tmp_path, capsys):
    options = replace(options, table=tmp_path / "table.csv.gz", methods=("darts",), seconds=1.0, epochs=1)
    write_table(options.table)
    searches.main(replace(options, minutes=0.0))
    assert "2 of 2 are left: run it again with --resume" in capsys.readouterr().err
    assert not options.results.exists()
    searches.main(replace(options, resume=True))
    random, found = lines_of(options)
    assert random["method"] == "random"
    assert found["epochs"] >= 2
    assert "The budget is the CPU time" in capsys.readouterr().out
