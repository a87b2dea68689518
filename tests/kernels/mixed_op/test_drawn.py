"""Cells of which only drawn candidates run: the same numbers as cells of these candidates alone, bit for bit."""

import pytest
import torch
import triton

from fastnas_audit.meter import Meter
from fastnas_audit.recorder import recorded
from fastnas_kernels.mixed_op.drawn import DrawnPaths
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan

pytestmark = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="launches are interpreted")

SEPARABLE, FIVE = Candidate("depthwise", 3, 1, 2), Candidate("depthwise", 5, 1, 2)
DARTS = (
    Candidate("max_pool"), Candidate("avg_pool"), Candidate("skip"), SEPARABLE, FIVE, Candidate("depthwise", 3, 2),
)  # fmt: skip


def alone(plan, positions):
    """The cell of what was drawn, and which of all coefficients and weights are its own."""
    kept = [sorted({int(p) for p in row if p >= 0}) for row in positions]
    edges = tuple(
        edge._replace(candidates=tuple(edge.candidates[p] for p in row))
        for edge, row in zip(plan.edges, kept, strict=True)
    )
    coefficients = [plan.first_coefficient[e] + p for e, row in enumerate(kept) for p in row]
    weights, number = [], 0
    for edge, position, _ in plan.each():
        for _ in plan.weight_shapes[edge, position]:
            weights += [number] * (position in kept[edge])
            number += 1
    return CellPlan(plan.channels, plan.num_inputs, plan.num_nodes, edges, plan.stride, plan.k), coefficients, weights


def positions_of(plan, paths, seed):
    """A draw without replacement for every edge; with one path, an edge may have nothing but a node never."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(len(edge.candidates), generator=generator)[:paths] for edge in plan.edges]
    positions = torch.stack(rows)
    if paths == 1:
        positions[2] = -1
    return positions


def results(cell, given, plan, **more):
    nodes, _ = cell(*given, plan, **more)
    dnodes = torch.linspace(-1, 2, nodes.numel(), dtype=nodes.dtype).sin().view_as(nodes)
    return nodes, torch.autograd.grad(nodes, given.leaves, dnodes, materialize_grads=True)


def assert_as_alone(cell, plan, given, positions):
    few, coefficients, chosen = alone(plan, positions)
    own = given._replace(
        weights=[given.weights[i] for i in chosen], mix=given.mix[coefficients].detach().requires_grad_()
    )
    nodes, found = results(cell, given, plan, drawn=DrawnPaths(positions))
    expected_nodes, expected = results(cell, own, few)
    assert torch.equal(nodes, expected_nodes)
    states, mix = 2, len(given.weights) + 2
    assert all(map(torch.equal, found[:states], expected[:states]))
    of_weights = dict(zip(chosen, expected[states : states + len(chosen)], strict=True))
    for number, gradient in enumerate(found[states:mix]):
        assert torch.equal(gradient, of_weights.get(number, torch.zeros_like(gradient))), number
    full = torch.zeros_like(given.mix).index_put((torch.tensor(coefficients),), expected[states + len(chosen)])
    assert torch.equal(found[mix], full)
    assert all(map(torch.equal, found[mix + 1 :], expected[states + len(chosen) + 1 :]))


@pytest.mark.parametrize(("stride", "k", "paths"), [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (1, 1, 2), (2, 1, 2)])
def test_a_draw_is_the_cell_of_what_was_drawn(in_triton, plans, arguments, stride, k, paths):
    plan = plans["complete"](channels=4, stride=stride, k=k, candidates=DARTS)
    given = arguments(plan, 4)
    for seed in (0, 1):
        assert_as_alone(in_triton, plan, given, positions_of(plan, paths, seed))


def small(plans, arguments, paths=1):
    plan = plans["complete"](channels=4, stride=2, candidates=(Candidate("avg_pool"), Candidate("skip"), SEPARABLE))
    return plan, arguments(plan, 3)


@pytest.mark.parametrize("paths", [1, 2])
def test_no_access_leaves_its_tensor_and_no_two_programs_write_to_one_place(
    in_triton, use_tiles, plans, arguments, paths
):
    use_tiles(pixels=16, channels=16, edges=1)
    plan, given = small(plans, arguments)
    with Meter() as meter:
        results(in_triton, given, plan, drawn=DrawnPaths(positions_of(plan, paths, 0)))
    for traffic in meter.launches:
        assert (traffic.write_races, traffic.order_dependences, traffic.own_rereads) == (0, 0, 0), traffic.conflict


def test_every_draw_launches_the_same(in_triton, plans, arguments):
    plan, given = small(plans, arguments)
    seen = []
    for seed in range(3):
        with recorded() as launches:
            results(in_triton, given, plan, drawn=DrawnPaths(positions_of(plan, 1, seed)))
        numbers = [{n: x for n, x in one.arguments.items() if not isinstance(x, torch.Tensor)} for one in launches]
        seen.append([(one.name, one.grid, of_one) for one, of_one in zip(launches, numbers, strict=True)])
    assert seen[0] == seen[1] == seen[2]


def test_the_definition_knows_draws(in_triton, monkeypatch, plans, arguments):
    plan, given = small(plans, arguments)
    drawn = DrawnPaths(positions_of(plan, 2, 3))
    nodes, found = results(in_triton, given, plan, drawn=drawn)
    monkeypatch.setenv("FASTNAS_BACKEND", "reference")
    defined_nodes, defined = results(in_triton, given, plan, drawn=drawn)
    for mine, theirs in zip((nodes, *found), (defined_nodes, *defined), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_a_second_derivative_of_a_draw_is_refused(in_triton, plans, arguments):
    plan, given = small(plans, arguments)
    nodes, _ = in_triton(*given, plan, drawn=DrawnPaths(positions_of(plan, 1, 0)))
    (slope,) = torch.autograd.grad(nodes.square().sum(), given.mix, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_given_statistics_and_a_draw_are_refused(in_triton, plans, arguments):
    plan, given = small(plans, arguments)
    statistics = torch.zeros(len(plan.norms), 2, plan.mixed_channels, dtype=torch.float64)
    with pytest.raises(ValueError, match="statistics must be None where candidates are drawn"):
        in_triton(*given, plan, statistics, drawn=DrawnPaths(positions_of(plan, 1, 0)))
