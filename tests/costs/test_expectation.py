import itertools

import pytest
import torch

from fastnas.costs.expectation import (
    CostObjective,
    CostReward,
    RelativeCost,
    even_edge_share,
    expected_cost,
    sampled_cost,
)
from fastnas.costs.penalties import LinearPenalty, LogPenalty, ProductPenalty
from fastnas.costs.tables import derived_cost, multiply_add_table, parameter_table
from fastnas.spaces.cell_space import DARTS, NASBENCH201, S1
from fastnas.spaces.genotype import CellGenotype, Gene, Genotype
from tests.helpers import only_candidates

PENALTIES = [
    LinearPenalty(strength=1e-4),
    LinearPenalty(strength=0.1, target=9000),
    LogPenalty(target=9000, exponent=0.3, strength=0.2),
    ProductPenalty(target=9000, exponent=0.07),
]


def logits(space, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(space.edges), len(space.primitives))
    return {t: torch.randn(shape, dtype=torch.float64, generator=generator) for t in space.cell_types}


def relaxed(space, alpha):
    named = only_candidates(space, {f"alpha.{t}": a for t, a in alpha.items()})
    return {t: named[f"alpha.{t}"].softmax(-1) for t in alpha}


def choices_of_a_node(space, target):
    """Every way to decide a node: its genes, with the probability that its edges are kept."""
    kept = space.kept_edges or target
    subsets = list(itertools.combinations(range(target), kept))
    for sources in subsets:
        for columns in itertools.product(range(len(space.primitives)), repeat=kept):
            yield list(zip(sources, columns, strict=True)), 1 / len(subsets)


def enumerated_expectation(space, table, mix):
    """The mean cost over all architectures, edges kept evenly and primitives drawn from ``mix``, node by node."""
    total = table.constant
    for cell_type in space.cell_types:
        costs = table.candidates[cell_type].tolist()
        for target in range(space.num_inputs, space.num_inputs + space.num_nodes):
            rows, seen = space.rows(target), 0.0
            for genes, probability in choices_of_a_node(space, target):
                for source, column in genes:
                    probability *= mix[cell_type][rows[source], column].item()  # noqa: PLW2901
                total += probability * sum(costs[rows[source]][column] for source, column in genes)
                seen += probability
            assert abs(seen - 1) < 1e-12
    return total


def test_the_expected_cost_is_the_mean_over_all_architectures(small_space, size_of):
    for space in (small_space, NASBENCH201):
        table = parameter_table(space, size_of(space))
        mix = relaxed(space, logits(space))
        exact = enumerated_expectation(space, table, mix)
        assert abs(expected_cost(mix, table).item() - exact) < 1e-12 * exact


@pytest.mark.parametrize("space", [DARTS, NASBENCH201, S1], ids=lambda space: space.name)
@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_every_penalty_has_the_slope_in_alpha_that_finite_differences_have(space, penalty, size_of):
    table, alpha = parameter_table(space, size_of(space)), logits(space)

    def penalised(values):
        mix = relaxed(space, dict(zip(alpha, values, strict=True)))
        loss = 1.5 + 0.1 * mix["normal"].square().sum()
        return penalty(loss, expected_cost(mix, table))

    values = [a.clone().requires_grad_() for a in alpha.values()]
    gradients = torch.autograd.grad(penalised(values), values)
    step = 1e-5
    for position, gradient in enumerate(gradients):
        alive = torch.tensor(space.alive(list(alpha)[position]))
        assert (gradient[~alive] == 0).all()
        for row, column in ((0, 0), (1, 1), (len(space.edges) - 1, len(space.primitives) - 1)):
            sides = []
            for sign in (1, -1):
                moved = [a.clone() for a in alpha.values()]
                moved[position][row, column] += sign * step
                sides.append(penalised(moved).item())
            difference = (sides[0] - sides[1]) / (2 * step)
            # central differences err by step squared and by rounding of the value over the step
            tolerance = 1e-6 * (1 + abs(difference)) + 1e-15 * abs(sides[0]) / step
            assert abs(gradient[row, column].item() - difference) < tolerance


def test_a_penalty_pushes_towards_the_cheaper_candidate(size_of):
    table, alpha = parameter_table(DARTS, size_of(DARTS)), logits(DARTS)["normal"].requires_grad_()
    mix = {"normal": alpha.softmax(-1), "reduction": logits(DARTS)["reduction"].softmax(-1)}
    skip, convolution = DARTS.primitives.index("skip_connect"), DARTS.primitives.index("sep_conv_5x5")
    for penalty in PENALTIES:
        total = penalty(torch.tensor(1.0, dtype=torch.float64), expected_cost(mix, table))
        (gradient,) = torch.autograd.grad(total, alpha, retain_graph=True)
        assert (gradient[:, skip] < 0).all()
        assert (gradient[:, convolution] > 0).all()


def test_a_sample_costs_what_its_genotype_costs_where_all_edges_are_kept(size_of):
    table = multiply_add_table(NASBENCH201, size_of(NASBENCH201))
    columns = torch.tensor([0, 1, 2, 3, 4, 2])
    genes = [Gene(NASBENCH201.primitives[k], source) for k, (source, _) in zip(columns, NASBENCH201.edges, strict=True)]
    cell = CellGenotype((tuple(genes[:1]), tuple(genes[1:3]), tuple(genes[3:])), NASBENCH201.concat)
    cost = sampled_cost({"normal": columns}, table)
    assert cost.item() == derived_cost(Genotype("nasbench201", cell), table)


def test_the_mean_of_samples_approaches_the_expectation(size_of):
    table, mix = parameter_table(NASBENCH201, size_of(NASBENCH201)), relaxed(NASBENCH201, logits(NASBENCH201))["normal"]
    draws = torch.multinomial(mix, 4000, replacement=True, generator=torch.Generator().manual_seed(0)).T
    costs = torch.stack([sampled_cost({"normal": draw}, table) for draw in draws])
    expected = expected_cost({"normal": mix}, table)
    assert abs(costs.mean() - expected) < 5 * costs.std() / len(costs) ** 0.5


def test_edges_may_be_weighted_by_how_likely_they_are_kept(size_of):
    table, mix = parameter_table(DARTS, size_of(DARTS)), relaxed(DARTS, logits(DARTS))
    even = even_edge_share(DARTS)["normal"]
    assert even.tolist() == [1, 1, *[2 / 3] * 3, *[2 / 4] * 4, *[2 / 5] * 5]
    all_edges = dict.fromkeys(DARTS.cell_types, torch.ones(14))
    kept_all, kept_two = expected_cost(mix, table, all_edges), expected_cost(mix, table)
    assert kept_all - table.constant > kept_two - table.constant > 0
    none = dict.fromkeys(DARTS.cell_types, torch.zeros(14))
    assert expected_cost(mix, table, none) == table.constant


def test_mixes_that_are_no_alpha_are_refused(size_of):
    table = parameter_table(DARTS, size_of(DARTS))
    with pytest.raises(ValueError, match=r"expected_cost: mix must have the cell type reduction, got \['normal'\]"):
        expected_cost({"normal": logits(DARTS)["normal"]}, table)
    with pytest.raises(ValueError, match=r"mix\['normal'\] must have shape \[14, 8\] \(that of alpha\), got \[6, 5\]"):
        expected_cost({"normal": torch.rand(6, 5)}, table)


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_descending_on_a_penalty_alone_ends_in_the_cheapest_architecture(penalty, size_of):
    table = parameter_table(NASBENCH201, size_of(NASBENCH201))
    alpha = logits(NASBENCH201)["normal"].requires_grad_()
    optimizer, costs = torch.optim.Adam([alpha], 0.3), []
    for _ in range(60):
        cost = expected_cost({"normal": alpha.softmax(-1)}, table)
        optimizer.zero_grad()
        penalty(torch.tensor(1.0, dtype=torch.float64), cost).backward()
        optimizer.step()
        costs.append(cost.item())
    free = [NASBENCH201.primitives.index(name) for name in ("none", "skip_connect", "avg_pool_3x3")]
    assert set(alpha.argmax(1).tolist()) <= set(free)
    assert costs[-1] - table.constant < 0.05 * (costs[0] - table.constant)


def test_a_relative_cost_and_an_objective_are_the_linear_penalty_but_for_a_constant(size_of):
    table, alpha = parameter_table(DARTS, size_of(DARTS)), logits(DARTS)
    values = [a.clone().requires_grad_() for a in alpha.values()]
    mix = {t: a.softmax(-1) for t, a in zip(alpha, values, strict=True)}
    loss = mix["normal"].square().sum()
    objective = CostObjective(table, LinearPenalty(strength=0.1, target=9000))(loss, mix)
    added = loss + 0.1 * RelativeCost(table, 9000)(mix)
    assert objective.item() == pytest.approx(added.item() - 0.1, rel=1e-12)
    for one, two in zip(*(torch.autograd.grad(y, values, retain_graph=True) for y in (objective, added)), strict=True):
        assert torch.allclose(one, two, rtol=1e-12)
    with pytest.raises(ValueError, match="RelativeCost: target must be positive, got 0"):
        RelativeCost(table, 0)
    with pytest.raises(ValueError, match=r"CostReward: exponent must be positive, got -0\.1"):
        CostReward(table, 9000, -0.1)
