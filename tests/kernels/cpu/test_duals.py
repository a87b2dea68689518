"""Numbers with a tangent through the compiled cells, next to PyTorch's forward mode through the definition."""

import pytest
import torch

from fastnas_kernels.cpu import launch
from tests.kernels.dual_points import a_plan, by_definition, random_point, random_statistics

EXACT = 1e-11
"""Relative, in float64: of sums of a few hundred roundings of 1e-16 each, twice differentiated."""


def by_duals(plan, x, u, dnodes, needs=(True, True, True, True), statistics=None):
    """Nodes and all gradients, and their tangents, one after another."""
    inputs, mix, edge_mix = zip(x[:3], u[:3], strict=True)
    nodes, tangent, stats, packed, _ = launch.run_dual_forward(inputs, x[3:], u[3:], mix, edge_mix, statistics, plan)
    found = launch.run_dual_backward(
        dnodes, inputs, (nodes, tangent), packed, mix, edge_mix, stats, statistics is not None, needs, plan
    )
    return (nodes, *found[:4]), (tangent, *found[4:])


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("channels", "k", "stride"), [(4, 1, 1), (6, 1, 2), (16, 1, 1), (20, 1, 2), (8, 2, 2), (16, 4, 1)]
)
def test_values_and_tangents_are_those_of_the_definition(channels, k, stride, frozen):
    plan = a_plan(channels, k, stride)
    x, u, random = random_point(plan)
    statistics = random_statistics(plan, random) if frozen else None
    dnodes = [random(3, *plan.size_after(6, 5), 2 * channels) for _ in range(2)]
    results = zip(
        by_duals(plan, x, u, dnodes, statistics=statistics), by_definition(plan, x, u, dnodes, statistics), strict=True
    )
    for mine, theirs in results:
        for m, t in list(zip(mine, theirs, strict=True))[
            : 5 if k > 1 else 4
        ]:  # without them nothing reads edge weights
            assert (m - t).norm() <= EXACT * t.norm().clamp_min(1e-3)


def test_no_tangents_of_weights_are_zeros_of_them():
    plan = a_plan(8, 2, 1)
    x, u, random = random_point(plan)
    dnodes = [random(3, 6, 5, 16) for _ in range(2)]
    zeros = [torch.zeros_like(w) for w in u[3:]]
    for a, b in zip(by_duals(plan, x, u[:3], dnodes), by_duals(plan, x, [*u[:3], *zeros], dnodes), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "needs", [(False, False, True, False), (True, False, False, True), (False, True, False, False)]
)
def test_what_nobody_needs_is_empty_and_changes_nothing_else(needs):
    plan = a_plan(8, 2, 2)
    x, u, random = random_point(plan)
    dnodes = [random(3, 3, 3, 16) for _ in range(2)]
    pairs = zip(by_duals(plan, x, u, dnodes), by_duals(plan, x, u, dnodes, needs), strict=True)
    for everything, some in pairs:
        for all_of_it, one, need in zip(everything[1:], some[1:], needs, strict=True):
            assert torch.equal(one, all_of_it) if need else one.numel() == 0


def test_float32_rounds_like_float32():
    plan = a_plan(16, 1, 1)
    x, u, random = random_point(plan)
    dnodes = [random(3, 6, 5, 32) for _ in range(2)]
    exact = by_duals(plan, x, u, dnodes)
    single = by_duals(plan, *([v.float() for v in vs] for vs in (x, u, dnodes)))
    for found, truth in zip(single, exact, strict=True):
        for f, t in zip(found[:4], truth[:4], strict=True):
            assert f.dtype == torch.float32
            # No ReLU stands within a rounding of its corner here: a few hundred roundings of 6e-8
            assert (f - t).norm() <= 2e-5 * t.norm()


@pytest.mark.parametrize(("channels", "k", "stride"), [(16, 1, 1), (8, 2, 2)])
def test_neither_threads_nor_the_size_of_a_chunk_change_a_bit(monkeypatch, channels, k, stride):
    plan = a_plan(channels, k, stride)
    x, u, random = random_point(plan, images=5, dtype=torch.float32)
    dnodes = [random(5, *plan.size_after(6, 5), 2 * channels) for _ in range(2)]
    before, results = torch.get_num_threads(), []
    try:
        for threads, chunk in ((1, launch.CHUNK_BYTES), (2, launch.CHUNK_BYTES), (1, 1)):
            torch.set_num_threads(threads)
            monkeypatch.setattr(launch, "CHUNK_BYTES", chunk)
            results.append([part for parts in by_duals(plan, x, u, dnodes) for part in parts])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
