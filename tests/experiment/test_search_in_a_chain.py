"""The loop in the chain of ProxylessNAS: every method that has a meaning there, and a clear line for the others."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fastnas.cli.main import main
from fastnas.costs.expectation import RelativeCost, expected_cost
from fastnas.costs.latency import load_table, save_table
from fastnas.costs.limit import DeriveWithin
from fastnas.costs.measurement import check_table, measure_table
from fastnas.costs.tables import NetworkSize, derived_cost, multiply_add_table, parameter_table
from fastnas.engine import build_stage, search
from fastnas.experiment.experiment import run_experiment
from fastnas.experiment.recipes import RECIPES
from fastnas.experiment.settings import Experiment
from fastnas.files import read_json
from fastnas.mechanisms.control import FirstOf, RankStable, SkipCount
from fastnas.mechanisms.schedules import Constant
from fastnas.methods.library import METHODS, darts, gdas, pc_darts, proxyless_nas
from fastnas.methods.method import Term
from fastnas.networks.chain import ChainNetwork
from fastnas.networks.derived import build_network
from fastnas.report.draw import svg
from fastnas.report.page import write_report
from fastnas.spaces.cell_space import S2
from fastnas.spaces.chain_space import PROXYLESS, proxyless
from fastnas.spaces.formats import genotype_from_json
from fastnas.supernet.chain import ChainSupernet
from fastnas.supernet.supernets import build_supernet
from fastnas.training.config import RetrainConfig, SearchConfig
from tests.helpers import DIGITS, Killed, quick_method, uniform_mix, without_seconds

TINY = SearchConfig(channels=2, cells=1, epochs=2, warmup_epochs=0, batch_size=8, train_fraction=0.03, device="cpu")
CHAIN = proxyless(1)
REFUSED = {
    "darts_plus": r"control=SkipCount\(.*\) does not work in the space proxyless",
    "p_darts": "a stage with added_cells does not work in the space proxyless",
    "darts_minus": "auxiliary_skip does not work in the space proxyless",
    "lambda_darts": "alignment does not work in the space proxyless",
    "pc_darts": "partial_channels=4 does not work in the space proxyless",
    "pc_darts_imagenet": "partial_channels=2 does not work in the space proxyless",
}


KINDS = (
    "darts",
    "snas",
    "gdas",
    "parsec",
    "asap",
    "nasp",
    "dso_nas",
    "proxyless_nas",
    "proxyless_nas_r",
)  # differ in draws and pruning


@pytest.mark.parametrize("name", KINDS)
def test_a_search_in_the_chain_is_finite_and_derives_a_network_that_runs(name):
    result = search(PROXYLESS, quick_method(name), DIGITS, TINY)
    assert result.alpha["alpha.normal"].shape == (6, 7)  # the depth is that of the configuration
    assert all(tensor.isfinite().all() for tensor in [*result.alpha.values(), *result.supernet.parameters()])
    CHAIN.check(result.genotype)
    network = build_network(result.genotype, 10, 2, 1, 1, 8, False, False)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert result.history[0]["alpha"] != result.history[-1]["alpha"] or result.stopped


def test_every_other_method_has_a_meaning_in_the_chain():
    for name in METHODS.keys() - REFUSED.keys():
        with torch.device("meta"):
            assert build_stage(PROXYLESS, METHODS[name](), DIGITS, TINY, 0).space == CHAIN


@pytest.mark.parametrize(("name", "message"), REFUSED.items())
def test_methods_without_a_meaning_in_a_chain_are_refused_with_the_reason(name, message):
    with pytest.raises(ValueError, match=f"method {name}: {message}"):
        search(PROXYLESS, METHODS[name](), DIGITS, replace(TINY, epochs=3))


def test_rules_that_count_skip_connections_are_refused_where_there_are_none():
    counting = FirstOf((RankStable(), SkipCount()))
    for space in (PROXYLESS, S2):
        method = replace(darts(), control=counting)
        context = nullcontext() if space is S2 else pytest.raises(ValueError, match="It counts skip connections, of")
        with context:
            search(space, method, DIGITS, replace(TINY, cells=3, channels=4, epochs=1))
    with pytest.raises(ValueError, match="Its blocks change their channels"):
        search(ChainSupernet(10, 2, 1, space=CHAIN), pc_darts(), DIGITS, TINY)


@pytest.mark.parametrize("method", [proxyless_nas(alpha_every=1), gdas()], ids=lambda method: method.name)
def test_a_search_that_is_killed_goes_on_bit_for_bit(method, tmp_path):
    def kill(done, total):
        if done == 3:
            raise Killed

    config = replace(TINY, cells=2, checkpoint_steps=1)
    whole = search(PROXYLESS, method, DIGITS, config)
    with pytest.raises(Killed):
        search(PROXYLESS, method, DIGITS, config, folder=tmp_path, on_step=kill)
    resumed = search(PROXYLESS, method, DIGITS, config, folder=tmp_path)
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert all(torch.equal(resumed.alpha[name], alpha) for name, alpha in whole.alpha.items())
    assert resumed.genotype == whole.genotype


def test_proxyless_moves_two_logits_of_a_block_and_the_others_keep_their_probability():
    config = replace(TINY, epochs=1, batch_size=16, alpha_weight_decay=0.0, alpha_beta1=0.0)
    steps = []
    result = search(PROXYLESS, proxyless_nas(alpha_every=1), DIGITS, config, on_step=lambda done, _: steps.append(done))
    assert max(steps) == 1
    start = search(PROXYLESS, proxyless_nas(alpha_every=2), DIGITS, config).alpha["alpha.normal"]  # it never moves
    moved = result.alpha["alpha.normal"] != start
    assert ((moved.sum(1) == 2) | (moved.sum(1) == 0)).all()
    assert moved.any()
    alive = torch.tensor(CHAIN.alive("normal"))
    assert not moved[~alive].any()
    before, after = (x.masked_fill(~alive, -torch.inf).softmax(1) for x in (start, result.alpha["alpha.normal"]))
    torch.testing.assert_close(after[~moved], before[~moved], rtol=1e-5, atol=1e-7)  # float32


# ---- cost -----------------------------------------------------------------------------------------------------------

SIZE = NetworkSize(channels=4, cells=1, resolution=8, image_channels=1)


def test_the_expected_cost_has_a_slope_in_every_candidate_and_it_is_that_of_the_table():
    table = parameter_table(CHAIN, SIZE)
    mix = {"normal": uniform_mix(CHAIN).candidates["normal"].double().requires_grad_()}
    expected_cost(mix, table).backward()
    assert torch.equal(mix["normal"].grad, table.candidates["normal"])
    assert (table.candidates["normal"][:, :6] > 0).all()


def test_a_strong_price_leads_to_candidates_that_cost_less_than_their_block_did_in_the_mean():
    table = multiply_add_table(proxyless(2), replace(SIZE, cells=2))
    priced = replace(gdas(), penalties=(Term(RelativeCost(table, 1e4), Constant(100.0), expected=True),))
    result = search(PROXYLESS, priced, DIGITS, replace(TINY, cells=2, alpha_lr=0.3))
    costs, mix = table.candidates["normal"], uniform_mix(proxyless(2)).candidates["normal"]
    for row, ((primitive, _),) in enumerate(result.genotype.normal.nodes):
        assert costs[row, PROXYLESS.primitives.index(primitive)] < (mix[row] * costs[row]).sum()


def test_a_search_under_a_limit_ends_within_it():
    table = parameter_table(CHAIN, SIZE)
    choices = table.candidates["normal"][:, :6]
    cheapest, dearest = (int(table.constant + x.sum()) for x in (choices.amin(1), choices.amax(1)))
    for limit in (cheapest, (cheapest + dearest) // 2):
        method = replace(proxyless_nas(), derivation=DeriveWithin(table, limit))
        genotype = search(PROXYLESS, method, DIGITS, TINY).genotype
        network = ChainNetwork(genotype, 10, 4, 1, space=CHAIN)
        assert sum(p.numel() for p in network.parameters()) == derived_cost(genotype, table) <= limit
    with pytest.raises(ValueError, match="limit must be at least what the cheapest architecture costs"):
        DeriveWithin(table, cheapest - 1)


def test_a_latency_table_of_a_chain_comes_back_from_its_file(tmp_path):
    size, cpu = replace(SIZE, channels=2), torch.device("cpu")
    table = check_table(measure_table(CHAIN, size, cpu, repeats=1, minutes=0, fit=1), CHAIN, cpu, genotypes=2)
    save_table(tmp_path / "table.json", table)
    assert load_table(tmp_path / "table.json", CHAIN, size) == table
    assert all(entry.outputs is not None and entry.primitive != "none" for entry in table.entries)
    seconds = table.costs(CHAIN).candidates["normal"]
    assert (seconds[:, :6] > 0).all()
    assert not seconds[:, 6].any()


# ---- the whole way --------------------------------------------------------------------------------------------------


def whole_way(**changes):
    retrain = RetrainConfig(channels=2, cells=2, epochs=1, batch_size=32, evaluate_every=1)
    config = replace(TINY, cells=2, epochs=1)
    return Experiment(
        method="proxyless_nas", space="proxyless", random_genotypes=1, config=config, retrain=retrain, **changes
    )


def quiet(title):
    shown = {name: lambda *_: None for name in ("step", "epoch", "compiled", "chosen")}
    return nullcontext(SimpleNamespace(**shown))


def test_an_experiment_in_the_chain_goes_the_whole_way_and_can_be_repeated_and_reported(tmp_path, capsys, monkeypatch):
    outcome = run_experiment(whole_way(), tmp_path / "run", quiet)
    again = run_experiment(whole_way(), tmp_path / "run", quiet)  # everything is there already
    assert again.genotype == outcome.genotype
    genotype = genotype_from_json(read_json(tmp_path / "run" / "genotype.json"))
    assert genotype == outcome.genotype
    assert genotype.space == "proxyless_2"
    monkeypatch.setattr("fastnas.report.page.svg", svg)  # its figures are read below
    page = write_report(tmp_path / "run").read_text()
    for part in ("chain of blocks", "stage 5, block 2", "mbconv_7x7_e6", "proxyless_2"):
        assert part in page
    table = parameter_table(proxyless(2), replace(SIZE, channels=2, cells=2))
    assert outcome.searched.num_params == derived_cost(genotype, table)
    assert main(["show", str(tmp_path / "run" / "genotype.json"), "--out", str(tmp_path / "chain.svg")]) == 0
    assert "stage  block  primitive" in capsys.readouterr().out
    assert "stage 6" in (tmp_path / "chain.svg").read_text()


def test_a_retraining_of_another_depth_is_refused_before_anything_is_searched(tmp_path):
    experiment = whole_way()
    experiment = replace(experiment, retrain=replace(experiment.retrain, cells=3))
    with pytest.raises(ValueError, match=r"retrain\.cells must be 2, as cells, .*, got 3\. Set --retrain\.cells 2\."):
        run_experiment(experiment, tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_the_recipe_for_imagenet_builds_the_published_networks():
    recipe = RECIPES["proxyless_imagenet"]
    with torch.device("meta"):
        supernet = build_supernet(PROXYLESS, 1000, recipe.config.channels, recipe.config.cells, 1, 3, True)
        assert sum(p.numel() for p in supernet.parameters()) == 16_034_168
    assert supernet.space == PROXYLESS
    assert recipe.retrain.cells == recipe.config.cells
    assert round(1_281_167 * (1 - recipe.config.weight_share)) == 50_000
    assert METHODS[recipe.method]().warmup_share * recipe.config.epochs == 41  # 40, and one of the search
