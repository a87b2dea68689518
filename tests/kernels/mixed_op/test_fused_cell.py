"""The kernels against their specification: values and first derivatives, in float64."""

import pytest
import torch

from fastnas_audit.meter import Meter
from fastnas_kernels.mixed_op.definition import reference_cell
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan

EXACT = 1e-12
"""Relative to the largest value, in float64: a few hundred roundings of 1e-16 each."""

MAX, AVG, SKIP = Candidate("max_pool"), Candidate("avg_pool"), Candidate("skip")
SEPARABLE, DILATED = Candidate("depthwise", 3, 1, 2), Candidate("depthwise", 3, 2, 1)
FIVE, SEVEN = Candidate("depthwise", 5), Candidate("depthwise", 7)
TWICE_DILATED, FAR_APART = Candidate("depthwise", 3, 2, 2), Candidate("depthwise", 5, 3, 1)


def solo(*candidates, channels=4, stride=1, k=1):
    return CellPlan(channels, 1, 1, (EdgePlan(0, 1, candidates),), stride, k)


def fan(*candidates, channels=4, stride=1, k=1, nodes=2):
    """Every node reads the only input, the later ones also the first node."""
    later = [edge for i in range(2, nodes + 1) for edge in ((0, i), (1, i))]
    edges = tuple(EdgePlan(source, target, candidates) for source, target in [(0, 1), *later])
    return CellPlan(channels, 1, nodes, edges, stride, k)


def irregular(channels=8, stride=1, k=1):
    """Three inputs, nodes that skip some, filters of all sizes, every kind of candidate somewhere."""
    edges = (
        EdgePlan(0, 3, (SEPARABLE, SKIP, MAX)),
        EdgePlan(2, 3, (MAX, AVG)),
        EdgePlan(0, 4, (SEVEN, FIVE, AVG, MAX)),
        EdgePlan(1, 4, ()),
        EdgePlan(3, 4, (SEPARABLE, SKIP)),
    )
    return CellPlan(channels, 3, 2, edges, stride, k)


def relative_error(mine, theirs):
    if mine.numel() == theirs.numel() == 0:
        return 0.0
    return ((mine - theirs).abs().max() / theirs.abs().max().clamp_min(1e-3)).item()


def assert_alike(mine, theirs):
    for number, (m, t) in enumerate(zip(mine, theirs, strict=True)):
        assert m.shape == t.shape
        assert m.dtype == t.dtype
        error = relative_error(m, t)
        assert error <= EXACT, f"number {number} differs by {error:.1e}"  # a NaN is not at most anything


def assert_equals_reference(fused, plan, given, statistics=None):
    results = []
    for cell in (fused, reference_cell):
        nodes, noted = cell(*given, plan, statistics)
        dnodes = torch.linspace(-1, 2, nodes.numel(), dtype=nodes.dtype).sin().view_as(nodes)
        assert not noted.requires_grad
        gradients = torch.autograd.grad(nodes, given.leaves, dnodes, materialize_grads=True)
        results.append([nodes, noted, *gradients])
    assert_alike(*results)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "candidate", [MAX, AVG, SKIP, SEPARABLE, DILATED, FIVE, SEVEN, TWICE_DILATED, FAR_APART], ids=str
)
def test_every_candidate_equals_the_reference(fused, arguments, candidate, stride):
    plan = solo(candidate, stride=stride)
    assert_equals_reference(fused, plan, arguments(plan, (5, 4)))


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(("stride", "k"), [(1, 1), slow(2, 1), slow(1, 2), (2, 2), (1, 4), slow(2, 4)])
def test_an_irregular_cell_equals_the_reference(fused, arguments, stride, k):
    plan = irregular(stride=stride, k=k)
    assert_equals_reference(fused, plan, arguments(plan, 5))


@pytest.mark.parametrize(
    ("size", "stride"), [(7, 1), slow(14, 1), (1, 1), slow((1, 9), 1), slow(7, 2), (14, 2), (1, 2), ((1, 9), 2)]
)
def test_odd_extents_and_batches_of_one_in_several_ragged_programs(fused, use_tiles, arguments, size, stride):
    use_tiles(pixels=32, splits=2)
    plan = solo(MAX, AVG, SKIP, SEPARABLE, stride=stride)
    assert_equals_reference(fused, plan, arguments(plan, size, batch=1 if size != 1 else 3))


@pytest.mark.parametrize("width", [1, 3, slow(8), 9, slow(17)])
@pytest.mark.parametrize(("pixels", "of_filters", "of_halves"), [(256, 2, 4), (32, 4, 2)])  # backward eight and four
def test_pixels_abreast_end_with_the_row(in_triton, use_tiles, arguments, width, pixels, of_filters, of_halves):
    use_tiles(pixels=pixels, abreast=of_filters, of_halves=of_halves)
    dense = [Candidate("depthwise", size, 1, 2) for size in (5, 7)]
    plan = solo(SEPARABLE, *dense, DILATED, Candidate("depthwise", 5, 2))
    assert_equals_reference(in_triton, plan, arguments(plan, (4, width)))


@pytest.mark.parametrize("pixels", [slow(16), 32])
def test_the_size_of_a_program_does_not_matter(in_triton, use_tiles, arguments, pixels):
    plan = fan(MAX, SEPARABLE, SKIP, channels=4, k=2, stride=2)
    given = arguments(plan, (7, 5), batch=3)
    use_tiles(pixels=pixels, splits=3)
    assert_equals_reference(in_triton, plan, given)


@pytest.mark.parametrize("edges", [slow(1), 2, 4])
def test_edges_may_share_a_program_that_they_do_not_fill(in_triton, use_tiles, arguments, edges):
    use_tiles(edges=edges)
    plan = fan(SEPARABLE, channels=2, nodes=3)
    assert_equals_reference(in_triton, plan, arguments(plan, 3))


@pytest.mark.parametrize(
    ("channels", "k", "block"),
    [(8, 1, 4), (16, 1, 16), (20, 1, 16), (20, 2, 8), (64, 1, 32), (64, 4, 16), (256, 1, 64)],
)
def test_any_number_of_channels_in_several_blocks(in_triton, use_tiles, arguments, channels, k, block):
    use_tiles(pixels=32, channels=block, edges=4 if channels // k <= block else 1)
    plan = solo(MAX, SEPARABLE, channels=channels, k=k)
    assert_equals_reference(in_triton, plan, arguments(plan, 3))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "k", "block"), [(8, 1, 8), (12, 2, 8), (16, 4, 4), (2, 1, 4)])
def test_rows_of_few_channels_take_no_more_than_these(in_triton, use_tiles, arguments, channels, k, block, stride):
    use_tiles(pixels=64, channels=block, edges=2)
    plan = fan(MAX, AVG, SKIP, SEPARABLE, channels=channels, k=k, stride=stride)
    assert_equals_reference(in_triton, plan, arguments(plan, (5, 3), batch=3))


@pytest.mark.parametrize("channels", [4, 8, 16])
def test_the_shipped_tiles_serve_a_cell(monkeypatch, poison, arguments, channels):
    monkeypatch.setenv("FASTNAS_BACKEND", "triton")
    from fastnas_kernels.mixed_op.cell import mixed_cell  # noqa: PLC0415  (without the tiles of the other tests)

    plan = fan(AVG, SEPARABLE, channels=channels)
    assert_equals_reference(mixed_cell, plan, arguments(plan, (5, 9)))


LAYOUTS = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every second pixel": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "turned": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "one image for all": lambda x: x[:1].expand(x.shape),
    "one row for all": lambda x: x[:, :, :1].expand(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_states_weights_and_gradients_does_not_matter(fused, arguments, layout):
    plan = solo(AVG, SKIP, SEPARABLE, stride=2)
    given = arguments(plan, 4)
    change = LAYOUTS[layout]
    states, weights = ([change(x) for x in xs] for xs in (given.states, given.weights))
    mix = given.mix[:1].expand(plan.num_coefficients)
    results = []
    for cell in (fused, reference_cell):
        nodes, noted = cell(states, weights, mix, None, plan)
        dnodes = change(torch.arange(nodes.numel(), dtype=nodes.dtype).cos().view_as(nodes))
        results.append([nodes, noted, *torch.autograd.grad(nodes, given.leaves, dnodes)])
    assert_alike(*results)


def test_the_gradient_of_a_sum_has_no_strides(fused, arguments):
    plan = solo(SKIP, SEPARABLE, k=2)
    given = arguments(plan, 3)
    statistics = given_statistics(plan)  # with those of the batch it would be zero
    results = []
    for cell in (fused, reference_cell):
        results += [torch.autograd.grad(cell(*given, plan, statistics)[0].sum(), given.leaves)]
    assert_alike(*results)


@pytest.mark.parametrize(
    ("channels", "k", "stride", "block"),
    [(16, 4, 2, 16), (32, 4, 1, 4), (16, 2, 1, 4), (12, 3, 2, 16), (8, 4, 1, 16)],
    ids=["woven", "in blocks", "in blocks of two", "of three", "of too few to weave"],
)
def test_what_passes_by_comes_to_lie_where_the_shuffle_puts_it(
    in_triton, use_tiles, arguments, channels, k, stride, block
):
    use_tiles(pixels=32, channels=block, edges=1)
    plan = fan(MAX, SKIP, channels=channels, k=k, stride=stride)
    assert_equals_reference(in_triton, plan, arguments(plan, (3, 5)))


def given_statistics(plan):
    shape = len(plan.norms), plan.mixed_channels
    mean, variance = torch.randn(shape, dtype=torch.float64), torch.rand(shape, dtype=torch.float64) + 0.5
    return torch.stack([mean, variance], 1)


@pytest.mark.parametrize(("stride", "k"), [(1, 1), (2, 2)])
def test_given_statistics_normalise_each_edge_by_its_own(fused, arguments, stride, k):
    plan = fan(MAX, AVG, SKIP, SEPARABLE, stride=stride, k=k)  # its pools leave one state to two nodes
    statistics = given_statistics(plan)
    rows = {kind: [i for i, n in enumerate(plan.norms) if n.candidate == kind] for kind in (0, 1)}
    assert all(not torch.equal(statistics[of[0]], statistics[of[1]]) for of in rows.values())
    assert_equals_reference(fused, plan, arguments(plan, 5), statistics)


def test_a_cell_without_any_weight_has_no_gradient_of_any(fused, arguments):
    plan = CellPlan(4, 2, 1, (EdgePlan(0, 2, (MAX,)), EdgePlan(1, 2, (SKIP,))))
    assert_equals_reference(fused, plan, arguments(plan, 3))


@pytest.mark.parametrize("k", [1, 2])
def test_a_node_that_no_edge_leaves_may_come_before_others(fused, arguments, k):
    edges = (EdgePlan(0, 1, (AVG, FIVE)), EdgePlan(0, 2, (SKIP, MAX)), EdgePlan(2, 3, (SEPARABLE,)))
    plan = CellPlan(8, 1, 3, edges, k=k)
    assert_equals_reference(fused, plan, arguments(plan, 3))


def test_a_state_that_no_edge_leaves_has_a_gradient_of_zero(fused, arguments):
    plan = CellPlan(4, 2, 2, (EdgePlan(0, 2, (AVG, FIVE)), EdgePlan(0, 3, (SKIP,))), k=2)
    given = arguments(plan, 3)
    nodes, _ = fused(*given, plan)
    expected, _ = reference_cell(*given, plan)
    assert_alike([nodes], [expected])
    unused = torch.autograd.grad(nodes.square().sum(), given.states)[1]
    assert torch.equal(unused, torch.zeros_like(unused))


PHASES = {
    "states": lambda given: given.states,
    "weights": lambda given: given.weights,
    "one weight": lambda given: given.weights[:1],
    "mix": lambda given: [given.mix],
    "edge_mix": lambda given: [given.edge_mix],
    "mix and edge_mix": lambda given: [given.mix, given.edge_mix],
    "states and mix": lambda given: [*given.states, given.mix],
}


def only(wanted, given):
    """``wanted``, the only ones of all arguments that now want a gradient."""
    for leaf in given.leaves:
        leaf.requires_grad_(any(leaf is chosen for chosen in wanted))
    return wanted


@pytest.mark.parametrize("phase", PHASES)
def test_only_the_gradients_that_are_asked_for_are_computed(in_triton, arguments, phase):
    plan = solo(AVG, SEPARABLE, k=2)
    given = arguments(plan, 3)
    wanted = only(PHASES[phase](given), given)
    with Meter() as meter:
        torch.autograd.grad(in_triton(*given, plan)[0].square().sum(), wanted)
    assert ("depthwise_weights_kernel" in meter.kernels) == ("weight" in phase)
    assert ("gather_kernel" in meter.kernels) == ("states" in phase)  # this cell has no other state than its input
    assert ("pool_backward_kernel" in meter.kernels) == ("states" in phase)
    assert ("bypass_backward_kernel" in meter.kernels) == ("states" in phase or "edge_mix" in phase)


EITHER = [(phase, 1 + i % 2) for i, phase in enumerate(PHASES)]
"""Every phase in cells of one stride; those of the other are among the slow tests."""


@pytest.mark.parametrize(("phase", "stride"), [*EITHER, *(slow(phase, 3 - stride) for phase, stride in EITHER)])
def test_each_gradient_is_the_same_without_the_others(fused, arguments, phase, stride):
    plan = fan(AVG, SEPARABLE, DILATED, k=2, stride=stride)
    given = arguments(plan, 3)
    wanted = only(PHASES[phase](given), given)
    results = [torch.autograd.grad(cell(*given, plan)[0].square().sum(), wanted) for cell in (fused, reference_cell)]
    assert_alike(*results)


def test_without_a_gradient_nothing_is_saved(fused, arguments):
    plan = solo(AVG, SEPARABLE)
    given = arguments(plan, 3)
    with torch.no_grad():
        nodes, _ = fused(*given, plan)
    assert not nodes.requires_grad
    assert_alike([nodes], [reference_cell(*given, plan)[0].detach()])


@pytest.mark.parametrize(("frozen", "block"), [(False, 16), (True, 16), (True, 4)])
def test_nan_in_a_state_spreads_as_in_the_reference(fused, use_tiles, arguments, frozen, block):
    use_tiles(channels=block)  # in a row of its own, a pixel shares no product with another
    plan = solo(MAX, AVG, SKIP, SEPARABLE, FIVE, k=2)
    given = arguments(plan, 6)
    with torch.no_grad():
        given.states[0][0, 1, 2, 3] = float("nan")  # a channel that the candidates see
        given.states[0][1, 3, 0, 0] = float("nan")  # and one that passes by
    statistics = given_statistics(plan) if frozen else None
    results = []
    for cell in (fused, reference_cell):
        nodes, noted = cell(*given, plan, statistics)
        results.append((nodes, noted, *torch.autograd.grad(nodes.sum(), [given.mix, given.edge_mix])))
    for mine, theirs in zip(*results, strict=True):
        assert theirs.isnan().any() or (frozen and theirs is results[1][1])
        assert torch.equal(mine.isnan(), theirs.isnan())
        assert relative_error(mine.nan_to_num(), theirs.nan_to_num()) <= EXACT


def test_the_same_cell_twice_gives_the_same_bits(fused, use_tiles, arguments):
    use_tiles(pixels=16, splits=2)
    plan = solo(MAX, SEPARABLE, SKIP, k=2, stride=2)
    given = arguments(plan, (6, 5)).to(torch.float32)

    def evaluate():
        nodes, noted = fused(*given, plan)
        return [nodes, noted, *torch.autograd.grad(nodes.square().sum(), given.leaves)]

    assert all(torch.equal(first, second) for first, second in zip(evaluate(), evaluate(), strict=True))
