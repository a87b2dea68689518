"""Numbers with a tangent through Triton's kernels, next to forward mode through the definition."""

import pytest
import torch

from fastnas_audit.meter import Meter
from fastnas_kernels.mixed_op import derivative
from fastnas_kernels.mixed_op.dual import launch as launch_dual
from fastnas_kernels.mixed_op.dual import launch_backward as launch_dual_backward
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan
from tests.kernels.dual_points import DILATED, SEPARABLE, a_plan, by_definition, random_point, random_statistics

EXACT = 1e-11
"""Relative, in float64: of sums of a few hundred roundings of 1e-16 each, twice differentiated."""
EVERYTHING = (True, True, True, True)
DTYPES = (torch.float64, torch.float32)
KERNELS = {
    "dual_stage_kernel",
    "dual_pool_sums_kernel",
    "dual_statistics_kernel",
    "dual_nodes_kernel",
    "dual_shared_sums_kernel",
    "dual_pointwise_backward_kernel",
    "dual_depthwise_weights_kernel",
    "dual_depthwise_backward_kernel",
    "dual_pool_backward_kernel",
    "dual_gather_kernel",
}
MAX, AVG, SKIP = Candidate("max_pool"), Candidate("avg_pool"), Candidate("skip")

pytestmark = pytest.mark.usefixtures("in_triton")


def by_duals(plan, x, u, dnodes, needs=EVERYTHING, statistics=None):
    """Nodes and all gradients, and their tangents, one after another."""
    inputs, mix, edge_mix = zip(x[:3], u[:3], strict=True)
    nodes, tangent, stats, packed, _ = launch_dual.run_dual_forward(
        inputs, x[3:], u[3:], mix, edge_mix, statistics, plan
    )
    found = launch_dual_backward.run_dual_backward(
        dnodes, inputs, (nodes, tangent), packed, mix, edge_mix, stats, statistics is not None, needs, plan
    )
    return (nodes, *found[:4]), (tangent, *found[4:])


def compare(plan, x, u, dnodes, statistics=None, needs=EVERYTHING):
    """Values and tangents, those of the weights of edges only where something reads them."""
    wanted = (True, *needs[:3], needs[3] and plan.k > 1)
    mine = by_duals(plan, x, u, dnodes, needs, statistics)
    theirs = by_definition(plan, x, u, dnodes, statistics)
    for one, other in zip(mine, theirs, strict=True):
        for m, t, want in zip(one, other, wanted, strict=True):
            if want:
                assert (m - t).norm() <= EXACT * t.norm().clamp_min(1e-3)


def one_edge(*candidates, channels=4, stride=1, k=1):
    return CellPlan(channels, 1, 1, (EdgePlan(0, 1, candidates),), stride, k)


def at_random(plan, size=(6, 5), images=3):
    x, u, random = random_point(plan, images, size)
    shape = (images, *plan.size_after(*size), plan.num_nodes * plan.channels)
    return x, u, [random(*shape) for _ in range(2)], random


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("channels", "k", "stride"), [(4, 1, 1), (6, 1, 2), (20, 1, 2), (8, 2, 2), (16, 4, 1), (9, 3, 1)]
)
def test_values_and_tangents_are_those_of_the_definition(use_tiles, channels, k, stride, frozen):
    use_tiles(pixels=64, edges=4 if channels <= 16 else 1)
    plan = a_plan(channels, k, stride)
    x, u, dnodes, random = at_random(plan)
    compare(plan, x, u, dnodes, random_statistics(plan, random) if frozen else None)


def test_a_coefficient_of_zero_hides_no_tangent(use_tiles):
    """Nor does a row that is one-hot, as of a derived cell."""
    use_tiles(pixels=64)
    plan = a_plan(8, 2, 2)
    x, u, dnodes, _ = at_random(plan)
    x[1] = torch.zeros_like(x[1])
    compare(plan, x, u, dnodes)
    x[1][3], x[1][6], x[1][-1] = 1, 1, 1
    compare(plan, x, u, dnodes)


@pytest.mark.parametrize("stride", [1, 2])
def test_relus_that_are_exactly_zero_are_dead_in_every_order(use_tiles, stride):
    """In the state, and behind a filter of zeros, where a separable convolution normalises nothing but zeros."""
    use_tiles(pixels=64)
    plan = one_edge(SKIP, SEPARABLE, DILATED, AVG, stride=stride)
    x, u, dnodes, random = at_random(plan, (4, 5))
    x[0] = x[0] * (random(*x[0].shape) > 0)
    x[0][..., 1] = 0
    first = 3 + len(plan.weight_shapes[0, 0])
    x[first + 1][2] = 0  # one of the channels between its halves
    compare(plan, x, u, dnodes)


def test_filters_of_other_sizes_and_maps_that_are_larger_than_a_program(use_tiles):
    use_tiles(pixels=32, channels=16, splits=2)
    one, seven = Candidate("depthwise", 1), Candidate("depthwise", 7, 1, 2)
    plan = one_edge(one, seven, Candidate("depthwise", 3, 2), channels=4)
    x, u, dnodes, _ = at_random(plan, (9, 7), 2)
    compare(plan, x, u, dnodes)


def test_tiles_of_fewer_channels_than_a_product_takes_are_as_wide_here(use_tiles):
    use_tiles(pixels=32, channels=4, edges=1)
    plan = one_edge(MAX, AVG, SKIP, SEPARABLE, channels=6, stride=2)
    x, u, dnodes, _ = at_random(plan, (5, 4))
    compare(plan, x, u, dnodes)


def test_edges_may_be_missing(use_tiles):
    """Nobody leaves the second input, and a node has an identity alone."""
    use_tiles(pixels=64)
    plan = CellPlan(4, 2, 2, (EdgePlan(0, 2, (SKIP,)), EdgePlan(2, 3, (MAX, DILATED)), EdgePlan(0, 3, (AVG,))))
    x, u, _, random = at_random(plan, (4, 4), 2)
    x[0], u[0] = (random(2, 2, 4, 4, 4) for _ in range(2))
    compare(plan, x, u, [random(2, 4, 4, 8) for _ in range(2)])


@pytest.mark.parametrize(
    "needs", [(False, False, True, False), (True, False, False, True), (False, True, False, False)]
)
def test_what_nobody_needs_is_empty_and_changes_nothing_else(use_tiles, needs):
    use_tiles(pixels=64)
    plan = one_edge(MAX, SKIP, SEPARABLE, channels=8, stride=2, k=2)
    x, u, dnodes, _ = at_random(plan, (4, 5))
    pairs = zip(by_duals(plan, x, u, dnodes), by_duals(plan, x, u, dnodes, needs), strict=True)
    for everything, some in pairs:
        for all_of_it, one, need in zip(everything[1:], some[1:], needs, strict=True):
            assert torch.equal(one, all_of_it) if need else one.numel() == 0


@pytest.mark.parametrize("moved", [0, 1, 2, 3, -1])
def test_what_does_not_move_is_as_if_along_zeros(use_tiles, moved):
    """``mixed_cell`` asks the kernels so, with directions that are missing."""
    use_tiles(pixels=64)
    plan = one_edge(AVG, SKIP, SEPARABLE, channels=4, stride=2, k=2)
    x, u, dnodes, _ = at_random(plan, (4, 3), 2)
    alone = [t if i == moved % len(u) else None for i, t in enumerate(u)]
    zeros = [torch.zeros_like(v) if t is None else t for v, t in zip(x, alone, strict=True)]
    _, found = derivative._derivatives(plan.text, None, [True] * len(x), dnodes[0], None, x, alone)
    (_, *values), (_, *tangents) = by_definition(plan, x, zeros, (dnodes[0], 0 * dnodes[0]))
    inputs, mix, edges, *weights = found
    for part, truth in ((0, values), (1, tangents)):
        mine = inputs[part], torch.cat([w[part].flatten() for w in weights]), mix[part], edges[part]
        for m, t in zip(mine, truth, strict=True):
            assert (m - t).norm() <= EXACT * t.norm().clamp_min(1e-3)


def test_bfloat16_states_are_differentiated_in_float32(use_tiles):
    use_tiles(pixels=64)
    plan = one_edge(MAX, SKIP, SEPARABLE, channels=8, k=2)
    x, u, random = random_point(plan, dtype=torch.float32)
    x[0], u[0] = x[0].bfloat16(), u[0].bfloat16()
    dnodes = [random(3, 6, 5, 8).bfloat16() for _ in range(2)]
    wide = [v.float() for v in x], [t.float() for t in u], [d.float() for d in dnodes]
    for mine, theirs in zip(by_duals(plan, x, u, dnodes), by_definition(plan, *wide), strict=True):
        assert [m.dtype for m in mine] == [torch.bfloat16] * 2 + [torch.float32] * 3
        for m, t in zip(mine, theirs, strict=True):
            assert (m.float() - t).norm() <= 2**-7 * t.norm()  # what is stored in bfloat16, and statistics of it


def test_float32_rounds_like_float32(use_tiles):
    use_tiles(pixels=64)
    plan = one_edge(MAX, SKIP, SEPARABLE, channels=8, k=2)
    x, u, dnodes, _ = at_random(plan)
    exact, single = (by_duals(plan, *([v.to(dtype) for v in vs] for vs in (x, u, dnodes))) for dtype in DTYPES)
    for found, truth in zip(single, exact, strict=True):
        for f, t in zip(found, truth, strict=True):
            # No ReLU stands within a rounding of its corner here: a few hundred roundings of 6e-8
            assert (f - t).norm() <= 2e-5 * t.norm()


@pytest.mark.parametrize(
    ("plan", "size", "block"),
    [
        (one_edge(MAX, AVG, SKIP, SEPARABLE, stride=2, k=2), (5, 3), 16),
        (one_edge(MAX, AVG, SKIP, SEPARABLE, channels=6), (3, 5), 4),
        (one_edge(MAX, AVG, channels=12, stride=2, k=3), (3, 3), 4),
        (CellPlan(4, 1, 2, (EdgePlan(0, 1, (MAX,)), EdgePlan(1, 2, (AVG, SKIP, DILATED))), k=2), (3, 3), 16),
    ],
    ids=["strided and partial", "two blocks of channels", "a third", "a node read by another"],
)
def test_no_access_leaves_its_tensor_and_no_result_depends_on_the_order(use_tiles, plan, size, block):
    use_tiles(pixels=32, channels=block, edges=1)
    x, u, dnodes, _ = at_random(plan, size, 2)
    with Meter() as meter:
        compare(plan, x, u, dnodes)
    launched = {kernel for kernel in meter.kernels if kernel.startswith("dual")}
    partial = {"dual_bypass_kernel", "dual_bypass_backward_kernel"}
    assert partial <= launched if plan.k > 1 else not partial & launched
    if SEPARABLE in plan.edges[0].candidates:
        assert launched - partial == KERNELS
    for traffic in meter.launches:
        conflicts = traffic.write_races, traffic.order_dependences, traffic.own_rereads
        assert conflicts == (0, 0, 0), traffic.conflict
