"""Choices at the end of a search, against judges whose opinion is known."""

import numpy as np
import pytest

from fastnas.mechanisms.choice import Evolution, Judge, Perturbation
from fastnas.spaces.cell_space import DARTS, NASBENCH201
from fastnas.spaces.chain_space import PROXYLESS
from fastnas.spaces.sampling import random_genotype
from fastnas.spaces.space import Edge


def even(space):
    return {name: np.full((len(space.edges), len(space.primitives)), 1.0) for name in space.cell_types}


class Tally:
    """A judge with a worth for every candidate of every edge: the loss falls with what is there."""

    def __init__(self, space, seed=0):
        rng = np.random.default_rng(seed)
        self.space, self.worth, self.tunings, self.seen = space, {}, [], 0
        for name in space.cell_types:
            self.worth[name] = rng.permutation(len(space.edges) * len(space.primitives)).reshape(
                len(space.edges), len(space.primitives)
            )

    def loss_at(self, mix):
        self.seen += 1
        return -sum(float((self.worth[name] * x).sum()) for name, x in mix.items())

    def measure_path(self, genotype):
        mix = {name: np.zeros((len(self.space.edges), len(self.space.primitives))) for name in self.space.cell_types}
        for name, cell in genotype.cells.items():
            for node, genes in enumerate(cell.nodes):
                for primitive, source in genes:
                    row = self.space.row(Edge(source, self.space.num_inputs + node))
                    mix[name][row, self.space.primitives.index(primitive)] = 1
        return self.loss_at(mix)

    def judge(self, **others):
        def tune(mix, epochs, share):
            self.tunings.append((epochs, round(share, 6)))

        return Judge(even(self.space), self.measure_path, self.loss_at, tune, **others)


def test_perturbation_keeps_what_is_missed_most_on_every_edge():
    tally = Tally(NASBENCH201)
    found = Perturbation(tune_epochs=2)(NASBENCH201, tally.judge(), 0)
    NASBENCH201.check(found)
    for node, genes in enumerate(found.normal.nodes):
        for primitive, source in genes:
            row = NASBENCH201.row(Edge(source, 1 + node))
            assert NASBENCH201.primitives.index(primitive) == int(tally.worth["normal"][row].argmax())
    assert tally.seen == 6 * 5
    assert tally.tunings == [(2, round((i + 1) / 6, 6)) for i in range(6)]


def test_perturbation_keeps_the_two_edges_of_a_node_that_are_missed_most():
    tally = Tally(DARTS)
    found = Perturbation(0.0)(DARTS, tally.judge(), 0)
    DARTS.check(found)
    for name, cell in found.cells.items():
        worth = tally.worth[name][:, 1:].max(1)  # of the best candidate that is not `none`
        for target, genes in zip(DARTS.targets, cell.nodes, strict=True):
            rows = DARTS.rows(target)
            best = sorted(DARTS.sources(target), key=lambda s, rows=rows: -worth[rows[s]])[:2]
            assert {gene.source for gene in genes} == set(best)
    assert len(tally.tunings) == 14 + 3
    with pytest.raises(ValueError, match="tune_epochs must not be negative"):
        Perturbation(-1)


@pytest.mark.parametrize("space", [NASBENCH201, DARTS, PROXYLESS.with_depth(2)], ids=lambda space: space.name)
def test_evolution_finds_better_paths_than_as_many_random_ones(space):
    tally = Tally(space)
    found = Evolution(population=20, generations=10, parents=5)(space, tally.judge(), 1)
    space.check(found)
    drawn = min(tally.measure_path(random_genotype(space, i)) for i in range(200))
    assert tally.measure_path(found) < drawn


def test_evolution_stays_within_what_is_accepted_and_measures_no_path_twice():
    tally = Tally(NASBENCH201)

    def accept(genotype):
        return genotype.normal.count("nor_conv_3x3") == 1

    found = Evolution(10, 5, 3)(NASBENCH201, tally.judge(accept=accept), 0)
    assert accept(found)
    assert tally.seen <= 50
    assert found == Evolution(10, 5, 3)(NASBENCH201, Tally(NASBENCH201).judge(accept=accept), 0)
    with pytest.raises(ValueError, match="within the limit of the cost"):
        Evolution(2, 2, 1)(NASBENCH201, tally.judge(accept=lambda genotype: False), 0)


@pytest.mark.parametrize("options", [{"population": 0}, {"generations": 0}, {"parents": 0}, {"mutation": 0.0}])
def test_an_evolution_without_meaning_is_refused(options):
    with pytest.raises(ValueError, match=f"Evolution: {next(iter(options))} must"):
        Evolution(**options)


def test_perturbation_keeps_no_candidate_that_the_search_removed():
    mix = even(NASBENCH201)
    mix["normal"][:, 0] = 0  # `none`, which nobody misses; all others do harm
    judge = Judge(mix, lambda genotype: 0.0, lambda at: float(at["normal"].sum()), lambda *_: None)
    assert Perturbation()(NASBENCH201, judge, 0).normal.count("none") == 0


@pytest.mark.parametrize(
    ("choice", "space", "total"),
    [(Perturbation(0.0), DARTS, 14 + 3), (Perturbation(0.0), NASBENCH201, 6), (Evolution(4, 3, 2), NASBENCH201, 3)],
    ids=["perturbation", "perturbation of a full graph", "evolution"],
)
def test_a_choice_says_how_far_it_is(choice, space, total):
    said = []
    choice(space, Tally(space).judge(report=lambda *numbers: said.append(numbers)), 0)
    assert said == [(done, total) for done in range(total)]
