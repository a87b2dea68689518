"""Selection by evaluation: proposals, their scores on the supernet, and the rungs."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastnas.engine import search
from fastnas.methods.library import METHODS, darts, pc_darts
from fastnas.selection import LadderConfig, climb, select
from fastnas.selection.evaluation import ShortTraining
from fastnas.selection.ladder import load_selection, save_selection
from fastnas.selection.proposals import Proposal, draw_samples, list_neighbours, propose
from fastnas.spaces import DARTS, NASBENCH201, SPACES
from fastnas.spaces.formats import genotype_to_text
from fastnas.spaces.sampling import random_genotype
from fastnas.supernet.mix import Mix, select_path
from fastnas.supernet.supernets import build_supernet
from fastnas.training.config import RetrainConfig, SearchConfig
from tests.helpers import DIGITS, Killed, quick_method

SEARCH = SearchConfig(channels=4, cells=1, epochs=1, warmup_epochs=0, batch_size=16, train_fraction=0.1, device="cpu")
TRAINING = RetrainConfig(channels=4, cells=1, batch_size=16)
LADDER = LadderConfig(proposals=8, entrants=4, steps=2, images=32)
ladder = importlib.import_module("fastnas.selection.ladder")
evaluation = importlib.import_module("fastnas.selection.evaluation")


@pytest.fixture(scope="module")
def found():
    return search(NASBENCH201, darts(), DIGITS, SEARCH)


def record(space, seed=0):
    rng = np.random.default_rng(seed)
    mix = {name: rng.dirichlet(np.ones(len(space.primitives)), len(space.edges)) for name in space.cell_types}
    for name in space.cell_types:
        mix[name] = (mix[name] * np.array(space.alive(name))).tolist()
    return {"genotype": genotype_to_text(random_genotype(space, seed)), "mix": mix, "edge_mix": {}}


# ---- configuration ----------------------------------------------------------------------------------------------
def test_rungs_halve_the_architectures_and_double_the_steps():
    config = LadderConfig(entrants=5, steps=100)
    assert config.rungs == [(5, 100), (3, 200), (2, 400)]
    assert config.total_steps == 5 * 100 + 3 * 100 + 2 * 200


def test_one_entrant_trains_nothing():
    assert LadderConfig(entrants=1).rungs == []


@pytest.mark.parametrize("name", ["proposals", "entrants", "steps", "images"])
def test_a_number_below_one_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        LadderConfig(**{name: 0})


# ---- proposals --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(SPACES))
def test_proposals_differ_and_belong_to_the_space(name):
    space = SPACES[name].with_depth(1)
    argmax = random_genotype(space, 100)
    found = propose(space, darts(), argmax, [record(space, 1), record(space, 2)], 16, seed=0)
    for proposal in found:
        space.check(proposal.genotype)
    assert found[0] == Proposal(argmax, "argmax")
    assert len({proposal.genotype.canonical() for proposal in found}) == 16
    assert {"argmax", "epoch", "neighbour"} <= {proposal.origin for proposal in found}


def test_only_accepted_architectures_are_proposed():
    def accept(genotype):
        return genotype.normal.count("nor_conv_3x3") == 0

    found = propose(NASBENCH201, darts(), random_genotype(NASBENCH201, 0), [record(NASBENCH201)], 20, 0, accept)
    assert len(found) == 20
    assert all(accept(proposal.genotype) for proposal in found[1:])


def test_a_small_space_ends_the_proposals():
    space = replace(NASBENCH201, name="tiny", primitives=("skip_connect", "nor_conv_3x3"))
    found = propose(space, darts(), random_genotype(space, 0), [], 100, 0)
    assert len(found) == 2**6


@pytest.mark.parametrize("space", [NASBENCH201, DARTS, SPACES["s1"]], ids=lambda space: space.name)
def test_a_neighbour_differs_in_one_edge(space):
    genotype = random_genotype(space, 3)

    def genes(one):
        return [gene for cell in one.cells.values() for node in cell.nodes for gene in node]

    for neighbour in list_neighbours(space, genotype, np.random.default_rng(0)):
        assert sum(a != b for a, b in zip(genes(genotype), genes(neighbour), strict=True)) == 1


def test_samples_follow_the_coefficients():
    shares = [0.1, 0.2, 0.3, 0.4, 0.0]
    mix = {"normal": [shares] * 6}
    draws = draw_samples(NASBENCH201, darts(), {"mix": mix, "edge_mix": {}}, np.random.default_rng(0))
    counts = dict.fromkeys(NASBENCH201.primitives, 0)
    for _ in range(500):
        for node in next(draws).normal.nodes:
            for gene in node:
                counts[gene.primitive] += 1
    found = np.array(list(counts.values())) / 3000
    assert np.abs(found - shares).max() < 0.03  # three deviations of a share of 3,000 draws


# ---- scores on the supernet -------------------------------------------------------------------------------------
@pytest.mark.parametrize("space", [NASBENCH201, DARTS, SPACES["s4"]], ids=lambda space: space.name)
def test_the_path_is_the_supernet_with_one_candidate_an_edge(space):
    cells = 1 if space == NASBENCH201 else 3
    net = build_supernet(space, 3, 4, cells, 1, 1, False).double()
    genotype, images = random_genotype(space, 5), torch.randn(4, 1, 8, 8, dtype=torch.float64)
    mix = select_path(space, genotype, {}, torch.device("cpu"))
    everything = Mix({name: x.double() for name, x in mix.candidates.items()}, {})
    assert sum(float(x.sum()) for x in mix.candidates.values()) == sum(
        len(node) for cell in genotype.cells.values() for node in cell.nodes
    )
    path = mix._replace(candidates=everything.candidates)
    torch.testing.assert_close(net(images, path), net(images, everything))


def test_edges_that_are_left_out_leave_their_weight_to_the_others():
    genotype = random_genotype(DARTS, 1)
    values = np.random.default_rng(0).dirichlet(np.ones(2)).tolist() * 7
    edges = select_path(DARTS, genotype, {"normal": values, "reduction": values}, torch.device("cpu")).edges["normal"]
    for node, genes in enumerate(genotype.normal.nodes):
        rows = DARTS.rows(2 + node)
        assert float(edges[rows.start : rows.stop].sum()) == pytest.approx(1)
        assert int((edges[rows.start : rows.stop] > 0).sum()) == len(genes)


# ---- rungs ------------------------------------------------------------------------------------------------------
def test_the_better_half_goes_on_and_the_best_wins(found):
    chosen = select(found, NASBENCH201, darts(), DIGITS, SEARCH, TRAINING, LADDER)
    rungs = [[one for one in chosen.rungs if one.rung == rung] for rung in range(3)]
    assert [len(rung) for rung in rungs] == [8, 4, 2]
    assert [{one.steps for one in rung} for rung in rungs] == [{0}, {2}, {4}]
    assert rungs[1][0].origin == "argmax"
    scored = sorted(rungs[0], key=lambda one: one.loss)
    best = [one.genotype for one in scored if one.origin != "argmax"][:3]
    assert [one.genotype for one in rungs[1][1:]] == best
    halved = sorted(rungs[1], key=lambda one: one.loss)[:2]
    assert [one.genotype for one in rungs[2]] == [one.genotype for one in halved]
    assert genotype_to_text(chosen.genotype) == min(rungs[2], key=lambda one: one.loss).genotype


@pytest.mark.parametrize("method", ["pc_darts", "gdas", "dso_nas"])
def test_every_kind_of_supernet_is_scored(method):
    space, cells = {"dso_nas": (SPACES["dso"], 1)}.get(method, (DARTS, 3))
    config = replace(SEARCH, cells=cells)
    result = search(space, METHODS[method](), DIGITS, config)
    training = replace(TRAINING, cells=cells)
    few = replace(LADDER, proposals=3, entrants=2, steps=1)
    chosen = select(result, space, METHODS[method](), DIGITS, config, training, few)
    assert all(np.isfinite(one.loss) for one in chosen.rungs)
    assert len({one.loss for one in chosen.rungs if one.rung == 0}) == 3


@pytest.mark.parametrize("after", [3, 9, 12, 13])
def test_a_selection_that_is_killed_goes_on_bit_for_bit(found, tmp_path, after):
    whole = select(found, NASBENCH201, darts(), DIGITS, SEARCH, TRAINING, LADDER)
    seen = []

    def kill(rung):
        seen.append(rung)
        if len(seen) == after:
            raise Killed

    arguments = (found, NASBENCH201, darts(), DIGITS, SEARCH, TRAINING, LADDER)
    with pytest.raises(Killed):
        select(*arguments, folder=tmp_path, on_rung=kill)
    measured = []
    again = select(*arguments, folder=tmp_path, on_step=lambda done, total: measured.append((done, total)))
    assert again == whole
    assert measured[-1] == (LADDER.total_steps, LADDER.total_steps)


def test_what_is_measured_is_not_measured_again(found, tmp_path, monkeypatch):
    arguments = (found, NASBENCH201, darts(), DIGITS, SEARCH, TRAINING, LADDER)
    first = select(*arguments, folder=tmp_path)
    monkeypatch.setattr(ladder.HeldOut, "measure", lambda *_: pytest.fail("it is known"))
    assert select(*arguments, folder=tmp_path) == first


@pytest.mark.parametrize("keeps_networks", [False, True])
def test_a_network_that_diverges_loses_and_does_not_end_the_ladder(tmp_path, monkeypatch, keeps_networks):
    proposals = [Proposal(random_genotype(NASBENCH201, seed), "uniform") for seed in (0, 1)]
    build = evaluation.build_network_for

    def build_network_for(data, genotype, *sizes):
        network = build(data, genotype, *sizes)
        if genotype == proposals[0].genotype:
            with torch.no_grad():
                next(network.parameters()).fill_(float("nan"))
        return network

    monkeypatch.setattr(evaluation, "build_network_for", build_network_for)
    folder = tmp_path if keeps_networks else None
    chosen = climb(proposals, NASBENCH201, DIGITS, SEARCH, TRAINING, replace(LADDER, entrants=2), folder=folder)
    assert chosen.genotype == proposals[1].genotype
    assert [rung.loss == ladder.DIVERGED for rung in chosen.rungs] == [True, False]


def test_random_architectures_climb_without_a_search():
    entrants = [Proposal(random_genotype(NASBENCH201, seed), "uniform") for seed in range(4)]
    chosen = climb(entrants, NASBENCH201, DIGITS, SEARCH, TRAINING, LADDER)
    assert [one.rung for one in chosen.rungs] == [1, 1, 1, 1, 2, 2]


def test_a_ladder_of_one_returns_the_argmax(found):
    one = replace(LADDER, entrants=1)
    chosen = select(found, NASBENCH201, darts(), DIGITS, SEARCH, TRAINING, one)
    assert chosen.genotype == found.genotype


def test_a_saved_selection_is_read_back(found, tmp_path):
    chosen = select(found, NASBENCH201, darts(), DIGITS, SEARCH, TRAINING, LADDER)
    assert load_selection(tmp_path, NASBENCH201) is None
    save_selection(chosen, tmp_path)
    assert load_selection(tmp_path, NASBENCH201) == chosen


def test_partial_channels_keep_their_edge_weights():
    config = replace(SEARCH, cells=3)
    result = search(DARTS, pc_darts(k=2), DIGITS, config)
    edges = result.history[-1]["edge_mix"]
    assert set(edges) == {"normal", "reduction"}
    mix = select_path(DARTS, result.genotype, edges, torch.device("cpu"))
    assert result.supernet(torch.randn(2, 1, 8, 8), mix).isfinite().all()


def test_a_path_reads_its_own_inputs_where_a_search_drew_others(monkeypatch):
    method, seen = quick_method("parsec"), []
    choosing = importlib.import_module("fastnas.engine.choosing")
    plain_evaluate, plain_measure = choosing.evaluate_supernet, ladder.HeldOut.measure

    def choice(space, judge, seed):
        genotype = random_genotype(space, seed)
        judge.measure_path(genotype)
        return genotype

    def evaluate(run, mix, images):
        seen.append(mix.edges)
        return plain_evaluate(run, mix, images)

    def measure(held_out, network, mix=None):
        seen.append(mix.edges)
        return plain_measure(held_out, network, mix)

    monkeypatch.setattr(choosing, "evaluate_supernet", evaluate)
    monkeypatch.setattr(ladder.HeldOut, "measure", measure)
    config = replace(SEARCH, cells=3)
    result = search(DARTS, replace(method, choice=choice), DIGITS, config)
    assert result.history[-1]["edge_mix"]
    select(result, DARTS, method, DIGITS, config, TRAINING, replace(LADDER, proposals=1, entrants=1))
    assert seen == [{}, {}]


def test_short_trainings_spare_the_scales_that_do_not_decay():
    size = RetrainConfig(channels=4, cells=1, decay_norms=False)
    arguments = random_genotype(NASBENCH201, 0), DIGITS, np.arange(32)
    training = ShortTraining(*arguments, size, SearchConfig(), torch.device("cpu"), NASBENCH201)
    assert [group["weight_decay"] for group in training.optimizer.param_groups] == [size.weight_decay, 0.0]
