"""Settings of a cost, from the words of the command line to what alpha descends on and what is derived."""

import json
from dataclasses import replace

import pytest
import torch

from fastnas.bilevel.problem import differentiate
from fastnas.cli.main import main
from fastnas.costs.config import CostConfig, average_cost, find_costs, limit_cost
from fastnas.costs.latency import Entry, LatencyTable, save_table
from fastnas.costs.limit import DeriveWithin
from fastnas.costs.tables import NetworkSize, derived_cost, list_distinct_candidates, parameter_table
from fastnas.methods.library import darts, p_darts, parsec, proxyless_nas, proxyless_nas_r, snas
from fastnas.spaces.cell_space import NASBENCH201, S1, S2
from fastnas.spaces.formats import read_genotype
from fastnas.spaces.sampling import random_genotype

SIZE = NetworkSize(channels=8, cells=1, resolution=8, image_channels=1)
TABLE = parameter_table(NASBENCH201, SIZE)
PENALTIES = ("linear", "log", "product")


def priced(method, penalty, **more):
    config = CostConfig(of="parameters", penalty=penalty, **more)
    return limit_cost(method, config, find_costs(config, NASBENCH201, SIZE))


def test_no_cost_leaves_a_method_as_it_is():
    assert limit_cost(darts(), CostConfig(), find_costs(CostConfig(), NASBENCH201, SIZE)) == darts()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_three_penalties_have_their_formulas(penalty):
    method = priced(darts(), penalty, target=9000.0, **({"strength": 0.2} if penalty == "linear" else {}))
    alpha = torch.randn(6, 5, dtype=torch.float64)
    mix, loss = {"normal": alpha.softmax(-1)}, torch.tensor(1.7, dtype=torch.float64)
    cost = (mix["normal"] * TABLE.candidates["normal"]).sum() + TABLE.constant
    terms = sum(term.weight(None) * term.penalty(mix) for term in method.penalties)
    expected = {
        "linear": loss + 0.2 * cost / 9000,  # (C - target) / target but for the constant, which has no slope
        "log": loss * (cost.log() / torch.tensor(9000.0).log()) ** 0.3,
        "product": loss * (cost / 9000) ** 0.07,
    }[penalty]
    joined = loss if method.objective is None else method.objective(loss, mix)
    torch.testing.assert_close(joined + terms, expected, rtol=1e-6, atol=0)


def test_the_price_of_a_product_falls_on_the_reward_where_there_is_one():
    for settings, exponent in (({}, 0.1), ({"exponent": 0.5}, 0.5)):
        method = priced(proxyless_nas_r(), "product", target=9000.0, **settings)
        genotype = random_genotype(NASBENCH201, 3)
        rows = [gene for node in genotype.canonical().normal.nodes for gene in node]
        columns = torch.tensor([NASBENCH201.primitives.index(primitive) for primitive, _ in rows])
        one_hot = {"normal": torch.nn.functional.one_hot(columns, 5).double()}
        worth = 0.8 * (9000 / derived_cost(genotype, TABLE)) ** exponent
        assert method.reward(torch.tensor(0.8).double(), one_hot).item() == pytest.approx(worth, rel=1e-6)
    with pytest.raises(ValueError, match="objective does not work with hypergradient=Reinforce"):
        priced(proxyless_nas_r(), "log", target=9000.0)


def test_without_a_target_an_undecided_network_costs_one_target():
    target = average_cost(TABLE)
    method = priced(darts(), "linear", strength=1.0)
    even = {"normal": torch.full((6, 5), 0.2, dtype=torch.float64)}
    assert method.penalties[0].penalty(even).item() == pytest.approx(1.0)
    draws = [derived_cost(random_genotype(NASBENCH201, seed), TABLE) for seed in range(400)]
    spread = torch.tensor(draws).std().item() / len(draws) ** 0.5
    assert abs(sum(draws) / len(draws) - target) < 4 * spread  # four standard errors of the mean


@pytest.mark.parametrize("method", [snas(), proxyless_nas(), parsec(draws=2), p_darts()], ids=lambda m: m.name)
def test_a_linear_price_is_taken_at_the_relaxation_and_reaches_every_logit(method):
    term = priced(method, "linear").penalties[-1]
    assert term.expected
    alpha = {"a": torch.zeros(6, 5, requires_grad=True)}
    slope = differentiate(term.penalty({"normal": alpha["a"].softmax(-1)}), alpha)["a"]
    assert (slope != 0).all()
    largest = TABLE.candidates["normal"].argmax(-1)
    assert torch.equal(slope.argmax(-1), largest)  # descending on it holds the dearest candidate down


def test_a_limit_wraps_the_rule_of_the_method():
    costs = [derived_cost(random_genotype(NASBENCH201, seed), TABLE) for seed in range(20)]
    config = CostConfig(of="parameters", limit=sorted(costs)[5])
    method = limit_cost(p_darts(), config, TABLE)
    assert isinstance(method.derivation, DeriveWithin)
    assert method.derivation.derivation == p_darts().derivation
    for seed in range(20):
        mix = torch.rand(6, 5, generator=torch.Generator().manual_seed(seed)).tolist()
        assert derived_cost(method.derivation(NASBENCH201, {"normal": mix}), TABLE) <= config.limit


def latency_table(space, size):
    candidates = enumerate(list_distinct_candidates(space, size), start=1)
    entries = [Entry(**candidate._asdict(), seconds=1e-4 * number) for number, candidate in candidates]
    return LatencyTable(
        space=space.name,
        primitives=space.primitives,
        size=size,
        device="imagined",
        torch_version="0",
        threads=1,
        date="2020-01-01",
        repeats=1,
        entries=tuple(entries),
        constant=0.002,
        fitted_on=(),
    )


def test_a_measured_table_counts_in_milliseconds_whatever_its_batch(tmp_path):
    table = latency_table(NASBENCH201, replace(SIZE, batch_size=32))
    save_table(tmp_path / "latency.json", table)
    config = CostConfig(of=str(tmp_path / "latency.json"), penalty="log", target=3.0)
    costs = find_costs(config, NASBENCH201, SIZE)
    assert costs.unit == "milliseconds"
    genotype = random_genotype(NASBENCH201, 1)
    seconds = derived_cost(genotype, table.costs(NASBENCH201))
    assert derived_cost(genotype, costs) == pytest.approx(1000 * seconds)
    with pytest.raises(ValueError, match="must be a table of a network with channels 9, got channels 8"):
        find_costs(config, NASBENCH201, replace(SIZE, channels=9))
    with pytest.raises(ValueError, match="must be a table of the space s2"):
        find_costs(config, S2, SIZE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"of": "parameters"}, "--cost.of needs --cost.penalty or --cost.limit, got neither"),
        ({"penalty": "linear"}, "--cost.penalty and --cost.limit need --cost.of, got --cost.penalty linear"),
        ({"limit": 3.0}, "--cost.penalty and --cost.limit need --cost.of, got --cost.limit 3.0. Say what"),
        ({"of": "parameters", "penalty": "linear", "strength": -1.0}, "strength must be positive, got -1"),
        ({"of": "parameters", "limit": 0.0}, "limit must be positive, got 0"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"cost: {message}"):
        CostConfig(**settings)


def test_what_cannot_be_counted_or_met_is_refused():
    with pytest.raises(ValueError, match="cost: of must be one of parameters, multiply-adds, activation-bytes, or"):
        find_costs(CostConfig(of="flops", penalty="linear"), S1, SIZE)
    with pytest.raises(ValueError, match="limit must be at least what the cheapest architecture costs"):
        priced(darts(), None, limit=1.0)
    with pytest.raises(ValueError, match="objective does not work with hypergradient=ImportanceWeighted"):
        priced(parsec(), "log")
    with pytest.raises(ValueError, match=r"--cost.strength needs --cost.penalty linear, got 0.2"):
        priced(darts(), "log", strength=0.2)


SETTINGS = {
    "method": "snas",
    "space": "nasbench201",
    "channels": 4,
    "cells": 1,
    "epochs": 1,
    "batch-size": 32,
    "train-fraction": 0.1,
    "device": "cpu",
    "select": "argmax",
    "recipe": "digits_darts",
    "random-genotypes": 1,
    "retrain.channels": 8,
    "retrain.cells": 1,
    "retrain.epochs": 1,
    "retrain.batch-size": 32,
    "cost.of": "parameters",
}
OPTIONS = [f"--{name}={value}" for name, value in SETTINGS.items()]


def test_a_search_with_a_price_and_a_limit_ends_within_it(capsys, tmp_path):
    folder, limit = tmp_path / "run", 22_000  # of 18,594 for the cheapest network, all skips, and many more
    arguments = [*OPTIONS, "--cost.penalty", "linear", "--cost.limit", str(limit), "--run", str(folder)]
    assert main(["search", *arguments]) == 0, capsys.readouterr().err
    genotype = read_genotype(str(folder / "genotype.json"))
    cost = derived_cost(genotype, TABLE)
    assert cost <= limit
    output = capsys.readouterr().out
    assert f"it costs {cost:,.6g} parameters" in output
    networks = json.loads((folder / "comparison.json").read_text())["networks"]
    assert len(networks) == 2
    assert all(network["num_params"] <= limit for network in networks)  # the random one plays by the same rule


def test_a_limit_that_nothing_meets_is_said_before_anything_runs(capsys, tmp_path):
    status = main(["search", *OPTIONS, "--cost.limit", "10", "--run", str(tmp_path / "run")])
    assert status == 1
    errors = capsys.readouterr().err
    assert errors.startswith("fastnas: DeriveWithin: limit must be at least")
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()
