"""Derivatives along a direction by PyTorch, a part of a cell at a time, next to forward mode through its definition."""

import pytest
import torch

from fastnas_kernels.mixed_op.tangents import tangent_of_nodes, tangents_of_gradients
from tests.kernels.dual_points import a_plan, by_definition, random_point, random_statistics

EXACT = 1e-11
"""Relative, in float64: of sums of a few hundred roundings of 1e-16 each, twice differentiated."""


def by_parts(plan, x, u, dnodes, nodes, statistics=None, needed=None):
    """The tangents of the nodes and of the gradients of those of ``x`` that are needed."""
    tangent = tangent_of_nodes(plan, statistics, nodes, x, u)
    needed = [True] * len(x) if needed is None else needed
    return tangent, tangents_of_gradients(plan, statistics, needed, (nodes, tangent), dnodes, x, u)


def assert_alike(mine, theirs):
    assert (mine - theirs).norm() <= EXACT * theirs.norm().clamp_min(1e-3)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("channels", "k", "stride"), [(4, 1, 1), (6, 1, 2), (8, 2, 2), (16, 4, 1)])
def test_tangents_are_those_of_the_definition(channels, k, stride, frozen):
    plan = a_plan(channels, k, stride)
    x, u, random = random_point(plan)
    statistics = random_statistics(plan, random) if frozen else None
    dnodes = tuple(random(3, *plan.size_after(6, 5), 2 * channels) for _ in range(2))
    (nodes, *_), (along, of_inputs, of_weights, of_mix, of_edges) = by_definition(plan, x, u, dnodes, statistics)
    tangent, (inputs, mix, edges, *weights) = by_parts(plan, x, u, dnodes, nodes, statistics)
    assert_alike(tangent, along)
    assert_alike(inputs, of_inputs)
    assert_alike(torch.cat([w.flatten() for w in weights]), of_weights)
    assert_alike(mix, of_mix)
    if k > 1:  # without them nothing reads edge weights
        assert_alike(edges, of_edges)


@pytest.mark.parametrize("moved", [0, 1, 2, 3, -1])
def test_what_does_not_move_is_as_if_along_zeros_and_what_nobody_needs_is_left_out(moved):
    plan = a_plan(8, 2, 2)
    x, u, random = random_point(plan)
    dnodes = random(3, 3, 3, 16), None
    alone = [t if i == moved % len(u) else None for i, t in enumerate(u)]
    zeros = [torch.zeros_like(v) if t is None else t for v, t in zip(x, alone, strict=True)]
    (nodes, *_), (along, _, of_weights, of_mix, _) = by_definition(plan, x, zeros, (dnodes[0], 0 * dnodes[0]))
    needed = [False, True, False, *(True for _ in x[3:])]
    tangent, (mix, *weights) = by_parts(plan, x, alone, dnodes, nodes, needed=needed)
    assert_alike(tangent, along)
    assert_alike(mix, of_mix)
    assert_alike(torch.cat([w.flatten() for w in weights]), of_weights)


def test_bfloat16_states_are_differentiated_in_float32():
    plan = a_plan(8, 2, 1)
    x, u, random = random_point(plan, dtype=torch.float32)
    x[0], u[0] = x[0].bfloat16(), u[0].bfloat16()
    dnodes = random(3, 6, 5, 16).bfloat16(), None
    wide = [v.float() for v in x], [t.float() for t in u], (dnodes[0].float(), torch.zeros(3, 6, 5, 16))
    (nodes, *_), (along, of_inputs, _, of_mix, _) = by_definition(plan, *wide)
    nodes = nodes.bfloat16()
    tangent, (inputs, mix, *_) = by_parts(plan, x, u, dnodes, nodes)
    assert (tangent.dtype, inputs.dtype, mix.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    for mine, theirs in ((tangent, along), (inputs, of_inputs), (mix, of_mix)):
        # The second node sees the first one rounded to 2^-9 of itself
        assert (mine.float() - theirs).norm() <= 0.03 * theirs.norm()
