import itertools

import numpy as np
import pytest
import torch

from fastnas.costs.limit import DeriveWithin, _edges, _ways
from fastnas.costs.tables import CostTable, NetworkSize, activation_table, derived_cost, parameter_table
from fastnas.mechanisms.derivation import AboveThreshold, SkipCap, derive, nonzero
from fastnas.spaces.cell_space import DARTS, NASBENCH201, S1, SHARPERDARTS
from fastnas.spaces.sampling import random_genotype


def random_mix(space, rng, sharpness=1.0):
    """Coefficients of alive candidates that sum to one on every edge."""
    mix = {}
    for cell_type in space.cell_types:
        rows = rng.dirichlet(np.full(len(space.primitives), sharpness), size=len(space.edges))
        rows = rows * np.array(space.alive(cell_type))
        mix[cell_type] = (rows / rows.sum(1, keepdims=True)).tolist()
    return mix


def random_table(space, rng, whole_numbers):
    """Costs that have nothing to do with networks; whole numbers make many ties."""
    shape = (len(space.edges), len(space.primitives))

    def costs():
        drawn = rng.integers(0, 5, shape).astype(float) if whole_numbers else rng.exponential(size=shape)
        return torch.from_numpy(drawn)

    return CostTable(space, "coins", [(cell_type, costs()) for cell_type in space.cell_types], 3.0)


def score(genotype, space, mix, edge_mix=None):
    total = 0.0
    for cell_type, cell in genotype.cells.items():
        for target, genes in enumerate(cell.nodes, start=space.num_inputs):
            for primitive, source in genes:
                row = space.rows(target)[source]
                share = 1 if edge_mix is None else edge_mix[cell_type][row]
                total += share * mix[cell_type][row][space.primitives.index(primitive)]
    return total


def all_architectures(space, table, mix):
    """Cost and score of every architecture, by brute force: two arrays."""
    costs, scores = np.array([table.constant]), np.zeros(1)
    for cell_type in space.cell_types:
        cost_EK, mix_EK = table.candidates[cell_type].numpy(), np.array(mix[cell_type])
        for target in range(space.num_inputs, space.num_inputs + space.num_nodes):
            rows, choices = space.rows(target), []
            for sources in itertools.combinations(range(target), space.kept_edges or target):
                for columns in itertools.product(range(len(space.primitives)), repeat=len(sources)):
                    places = [(rows[source], column) for source, column in zip(sources, columns, strict=True)]
                    choices.append((sum(cost_EK[p] for p in places), sum(mix_EK[p] for p in places)))
            of_node = np.array(choices)
            costs = (costs[:, None] + of_node[:, 0]).ravel()
            scores = (scores[:, None] + of_node[:, 1]).ravel()
    return costs, scores


@pytest.mark.parametrize("whole_numbers", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_the_best_within_the_limit_is_the_best_of_all_architectures_within_it(small_space, seed, whole_numbers):
    rng = np.random.default_rng(seed)
    for space in (small_space, NASBENCH201):
        table, mix = random_table(space, rng, whole_numbers), random_mix(space, rng)
        costs, scores = all_architectures(space, table, mix)
        assert len(costs) == (243**2 if space is small_space else 15_625)
        for quantile in (0, 0.001, 0.03, 0.3, 0.8):
            limit = np.quantile(costs, quantile)
            limit = float(costs[costs <= limit + 1e-9].max() + (0 if whole_numbers else 1e-9))  # met exactly, or nearly
            found = DeriveWithin(table, limit)(space, mix)
            space.check(found)
            assert derived_cost(found, table) <= limit
            best = scores[costs <= limit].max()
            assert score(found, space, mix) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("space", [DARTS, NASBENCH201, S1, SHARPERDARTS], ids=lambda space: space.name)
def test_every_derivation_meets_its_limit_and_a_loose_one_changes_nothing(space, size_of):
    rng = np.random.default_rng(0)
    for table in (parameter_table(space, size_of(space)), activation_table(space, size_of(space))):
        typical = sorted(derived_cost(random_genotype(space, seed), table) for seed in range(20))
        for sharpness in (0.1, 1, 100):
            mix = random_mix(space, rng, sharpness)
            for limit in (typical[1], typical[10]):
                found = DeriveWithin(table, limit)(space, mix)
                space.check(found)
                assert derived_cost(found, table) <= limit
            assert DeriveWithin(table, 1e12)(space, mix) == derive(space, mix)


def test_no_architecture_that_a_random_search_finds_within_the_limit_is_better():
    rng = np.random.default_rng(1)
    table, mix = random_table(DARTS, rng, whole_numbers=False), random_mix(DARTS, rng)
    edge_mix = {cell_type: rng.random(14).tolist() for cell_type in DARTS.cell_types}
    genotypes = [random_genotype(DARTS, seed) for seed in range(1500)]
    limit = float(np.median([derived_cost(genotype, table) for genotype in genotypes]))
    within = [genotype for genotype in genotypes if derived_cost(genotype, table) <= limit]
    best = score(DeriveWithin(table, limit)(DARTS, mix, edge_mix), DARTS, mix, edge_mix)
    assert best > max(score(genotype, DARTS, mix, edge_mix) for genotype in within)


@pytest.mark.parametrize("noise", [1.0, 0.03])
def test_the_ways_worth_knowing_stay_few_where_costs_have_no_structure_and_better_is_dearer(noise):
    rng = np.random.default_rng(2)
    table = random_table(DARTS, rng, whole_numbers=False)
    scores = {
        t: cost.numpy() / cost.numpy().max() + noise * rng.random(cost.shape) for t, cost in table.candidates.items()
    }
    ways = _ways(_edges(table, {t: x.tolist() for t, x in scores.items()}, {}), table.constant)
    # 10^18 architectures; 562 and 7,856 ways were seen
    assert max(len(front.costs) for fronts in ways for front in fronts.values()) < 20_000


def test_equal_coefficients_take_what_fits(small_space):
    rng = np.random.default_rng(3)
    table = random_table(small_space, rng, whole_numbers=True)
    mix = {t: np.full((5, 3), 1 / 3).tolist() for t in small_space.cell_types}
    limit = float(all_architectures(small_space, table, mix)[0].min())
    assert derived_cost(DeriveWithin(table, limit)(small_space, mix), table) == limit


def test_a_limit_that_nothing_meets_names_the_cheapest_there_is(small_space, size_of):
    rng = np.random.default_rng(4)
    table, mix = random_table(small_space, rng, whole_numbers=False), random_mix(small_space, rng)
    cheapest = all_architectures(small_space, table, mix)[0].min()
    with pytest.raises(ValueError, match=f"the cheapest architecture costs, {cheapest:.6g} coins, got 1. Raise it"):
        DeriveWithin(table, 1)
    assert derived_cost(DeriveWithin(table, float(cheapest) + 1e-9)(small_space, mix), table) <= cheapest + 1e-9
    parameters = parameter_table(DARTS, size_of(DARTS))
    with pytest.raises(ValueError, match=r"DeriveWithin: limit must be at least .*, [\d,]+ parameters, got 0"):
        DeriveWithin(parameters, 0)
    with pytest.raises(ValueError, match="the table must be one of the search's space, got darts and nasbench201"):
        DeriveWithin(parameters, 1e9)(NASBENCH201, random_mix(NASBENCH201, rng))


def test_a_limit_keeps_to_the_cap_of_skip_connections_and_to_what_none_counts():
    rng = np.random.default_rng(0)
    table = random_table(DARTS, rng, whole_numbers=False)
    mix = random_mix(DARTS, rng)
    skip = DARTS.primitives.index("skip_connect")
    mix["normal"] = [[x + (k == skip) for k, x in enumerate(row)] for row in mix["normal"]]
    limit = 0.9 * derived_cost(SkipCap(1)(DARTS, mix), table)
    capped = DeriveWithin(table, limit, SkipCap(1))(DARTS, mix)
    assert derived_cost(capped, table) <= limit
    assert (
        capped.normal.count("skip_connect") <= 1 < DeriveWithin(table, limit)(DARTS, mix).normal.count("skip_connect")
    )

    table = parameter_table(NASBENCH201, NetworkSize(channels=4, cells=1))
    convolutions = {"normal": [[1.0, 0.1, 0.2, 0.5, 0.3]] * 6}
    limit = 0.9 * derived_cost(nonzero(NASBENCH201, convolutions), table)
    within = DeriveWithin(table, limit, nonzero)(NASBENCH201, convolutions)
    assert derived_cost(within, table) <= limit
    assert within.normal.count("none") == 0 < within.normal.count("nor_conv_3x3")


def test_a_limit_keeps_the_threshold_of_fair_darts():
    table, rng = parameter_table(DARTS, NetworkSize(channels=4, cells=3)), np.random.default_rng(0)
    fair, mix = AboveThreshold(0.5), random_mix(DARTS, rng)
    limit = 0.9 * derived_cost(derive(DARTS, mix), table)
    within = DeriveWithin(table, limit, fair)(DARTS, mix)
    assert derived_cost(within, table) <= limit
    assert within.normal.count("none") > 0 == DeriveWithin(table, limit)(DARTS, mix).normal.count("none")
