"""What the kernels of a cell do to memory, watched access by access."""

from dataclasses import replace

import pytest
import torch
import triton

from fastnas_audit.meter import Meter
from fastnas_audit.offsets import last_programs
from fastnas_kernels.mixed_op import forms, launch
from fastnas_kernels.mixed_op.dual import launch as launch_dual
from fastnas_kernels.mixed_op.dual.launch import DualCell
from fastnas_kernels.mixed_op.dual.launch_backward import DualBackward
from fastnas_kernels.mixed_op.launch_backward import Backward, Needs
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan, Size
from fastnas_kernels.mixed_op.tables import Tile, Tiles

pytestmark = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="watches the interpreter, which is off")

ALL = (Candidate("max_pool"), Candidate("avg_pool"), Candidate("skip"), Candidate("depthwise", 3, 1, 2))
KERNELS = {
    "stage_kernel",
    "pool_statistics_kernel",
    "finalise_kernel",
    "node_kernel",
    "shared_sums_kernel",
    "pointwise_backward_kernel",
    "depthwise_weights_kernel",
    "depthwise_backward_kernel",
    "pool_backward_kernel",
    "gather_kernel",
}


def one_node(*candidates, channels=4, stride=1, k=1):
    return CellPlan(channels, 1, 1, (EdgePlan(0, 1, candidates),), stride, k)


def forward_backward(cell, plan, given):
    with Meter() as meter:
        nodes, _ = cell(*given, plan)
        torch.autograd.grad(nodes.square().sum(), given.leaves)
    return meter


@pytest.mark.parametrize(
    ("plan", "size", "block"),
    [
        (one_node(*ALL, stride=2, k=2), (5, 3), 16),
        (one_node(*ALL, channels=6), (3, 5), 4),
        (one_node(*ALL, channels=12, k=2, stride=2), (5, 3), 8),
        (one_node(*ALL[:2], channels=12, stride=2, k=3), 3, 4),
        (CellPlan(16, 1, 2, (EdgePlan(0, 1, ALL[:1]), EdgePlan(1, 2, ALL[:1])), k=4), 3, 4),
        (
            CellPlan(
                4, 1, 2, (EdgePlan(0, 1, ALL[:1]), EdgePlan(1, 2, (*ALL[1:3], Candidate("depthwise", 5, 2)))), k=2
            ),
            3,
            16,
        ),
    ],
    ids=[
        "strided and partial",
        "two blocks of channels",
        "rows of six",
        "a third",
        "a node of four groups",
        "a node read by another",
    ],
)
def test_no_access_leaves_its_tensor_and_no_result_depends_on_the_order(
    in_triton, use_tiles, arguments, plan, size, block
):
    use_tiles(pixels=16, channels=block, edges=1)
    meter = forward_backward(in_triton, plan, arguments(plan, size))
    partial = {"bypass_backward_kernel"} if plan.k > 1 else set()
    partial |= {"bypass_kernel"} if plan.k == 3 else set()
    found = set(meter.kernels)
    assert found >= partial
    assert found - partial <= KERNELS
    if plan.edges[0].candidates == ALL:
        assert found - partial == KERNELS
    for traffic in meter.launches:
        conflicts = traffic.write_races, traffic.order_dependences, traffic.own_rereads
        assert conflicts == (0, 0, 0), traffic.conflict


@pytest.fixture
def endless(monkeypatch):
    """Tensors of any size that occupy a few bytes: for launches that touch no memory."""

    def empty(self, *shape, exact=False):
        return torch.zeros(1, dtype=launch.accumulator(self.dtype) if exact else self.dtype).expand(shape)

    monkeypatch.setattr(launch.Launcher, "empty", empty)
    monkeypatch.setattr(
        torch, "empty_like", lambda x, dtype=None: torch.zeros(1, dtype=dtype or x.dtype).expand(x.shape)
    )
    monkeypatch.setattr(torch, "sum", lambda *_, **__: None)
    # Its last program would walk over all partial results, which takes the interpreter minutes
    monkeypatch.setattr(launch.Launcher, "finalise", lambda *_: None)
    tile = Tile(16, 64)
    monkeypatch.setattr(launch, "tiles_for", lambda *_: Tiles(tile, tile, tile, tile, (4, 4), edges=1, splits=2**30))


LARGE = pytest.mark.parametrize(("k", "stride"), [(1, 1), (2, 2)])


def too_large(k, stride):
    """A cell whose tensors have more than 2^31 elements, in bfloat16."""
    mixed, images, side = 64, 2**13 + 3, 64 * stride  # more than 2^25 pixels of the output
    # Nodes enough that already the partial sums of all edges and branches of the input are more than 2^31
    edges = (
        EdgePlan(0, 1, ALL),
        EdgePlan(0, 2, ALL),
        EdgePlan(1, 2, ALL),
        *(EdgePlan(0, i, ALL) for i in range(3, 12)),
    )
    plan = CellPlan(mixed * k, 1, 11, edges, stride, k)
    run = launch.Launcher(
        launch.lower(plan),
        Size(images, side, side, *plan.size_after(side, side)),
        torch.bfloat16,
        torch.device("cpu"),
        launch.tiles_for(mixed, torch.bfloat16),
        frozen=False,
    )
    assert run.size.out_pixels * mixed > 2**31
    return run


@LARGE
def test_no_index_outgrows_32_bits_where_tensors_have_more_than_2_to_the_31_elements(endless, k, stride):
    run = too_large(k, stride)
    plan, mixed = run.lowered.plan, run.channels
    inputs = run.empty(1, run.size.pixels, plan.channels)
    nodes = run.empty(run.size.out_pixels, plan.num_nodes * plan.channels)
    packed, stats = run.empty(run.lowered.packing.size, exact=True), run.empty(1, 3, mixed, exact=True)
    mix = run.empty(1, exact=True)
    with last_programs() as reaches:
        run.forward(inputs, packed, mix, mix, stats)
        sums = run.empty(run.tables.sum_spans[-1].last + 1, 2, mixed, exact=True)
        backward = Backward(run, inputs, nodes, packed, mix, mix, stats, nodes, Needs(True, True, True, k > 1))
        for source in reversed(range(len(run.lowered.ranges))):
            backward._source(source, nodes, inputs, sums, torch.zeros(len(plan.edges)), sums, None)
    assert {reach.kernel for reach in reaches} >= KERNELS - {"finalise_kernel"}
    assert max(reach.largest_offset for reach in reaches) > 2**31


@LARGE
def test_nor_do_those_of_numbers_with_tangents(monkeypatch, endless, k, stride):
    run = replace(too_large(k, stride), dtype=torch.float32)
    plan, mixed = run.lowered.plan, run.channels
    monkeypatch.setattr(launch_dual.kernels, "dual_statistics_kernel", {})  # see ``endless``
    start = forms.Forms.start
    monkeypatch.setattr(
        forms.Forms, "start", lambda run, kernel, *rest, **given: kernel and start(run, kernel, *rest, **given)
    )
    inputs = run.empty(1, run.size.pixels, 2, plan.channels)
    nodes = run.empty(run.size.out_pixels, plan.num_nodes, 2, plan.channels)
    packed, stats = run.empty(2, run.lowered.packing.size), run.empty(1, 2, 3, mixed)
    mix = run.empty(1, 2)
    with last_programs() as reaches:
        cell = DualCell(run, inputs, nodes, packed, mix, mix, stats)
        cell.find_tangents()
        sums = run.empty(run.tables.sum_spans[-1].last + 1, 2, 2, mixed)
        backward = DualBackward(cell, nodes, Needs(True, True, True, k > 1))
        for source in reversed(range(len(run.lowered.ranges))):
            backward._source(source, inputs, sums, torch.zeros(len(plan.edges), 2), sums)
    same = KERNELS - {"finalise_kernel", "pool_statistics_kernel", "node_kernel"}
    others = {"dual_pool_sums_kernel", "dual_nodes_kernel"}
    assert {reach.kernel for reach in reaches} >= {f"dual_{name}" for name in same} | others
    assert max(reach.largest_offset for reach in reaches) > 2**31


def bytes_of(cell, use_tiles, arguments, *, num_tiles, splits, pixels=16):
    """Bytes of each kernel for images of 4x4 pixels, two of which fill the largest program."""
    use_tiles(pixels=pixels, splits=splits)
    plan = one_node(Candidate("max_pool"), Candidate("depthwise", 3, 1, 2))
    meter = forward_backward(cell, plan, arguments(plan, 4, batch=2 * num_tiles))
    return {kernel: meter.of(kernel).dram_bytes for kernel in meter.kernels}


def test_bytes_grow_along_a_straight_line_with_pixels_and_with_splits(in_triton, use_tiles, arguments):
    """What profiling/kernel_bytes.py relies on when it measures few pixels."""

    def measure(num_tiles, splits):
        return bytes_of(in_triton, use_tiles, arguments, num_tiles=num_tiles, splits=splits)

    base, larger, wider = measure(1, 1), measure(2, 1), measure(2, 2)
    for kernel, found in measure(4, 3).items():
        predicted = base[kernel] + 2 * (wider[kernel] - larger[kernel]) + 3 * (larger[kernel] - base[kernel])
        assert found == predicted, kernel


def test_raw_outputs_that_are_computed_again_cost_no_bytes(monkeypatch, in_triton, use_tiles, arguments):
    again = bytes_of(in_triton, use_tiles, arguments, num_tiles=2, splits=1)
    monkeypatch.setattr(Tiles, "compute_again", lambda *_: False)
    stored = bytes_of(in_triton, use_tiles, arguments, num_tiles=2, splits=1)
    plane = 4 * 16 * 4 * 8  # pixels of four images, four channels, float64
    saved = {kernel: stored[kernel] - again[kernel] for kernel in stored if stored[kernel] != again[kernel]}
    # Of a separable convolution, the second half's is not written and neither half's is read
    assert saved == {"stage_kernel": plane, "pointwise_backward_kernel": 2 * plane}


def test_the_size_of_a_program_changes_the_bytes_of_partial_sums_alone(in_triton, use_tiles, arguments):
    small = bytes_of(in_triton, use_tiles, arguments, num_tiles=2, splits=1, pixels=16)
    large = bytes_of(in_triton, use_tiles, arguments, num_tiles=2, splits=1, pixels=32)
    without_sums = {"node_kernel", "pointwise_backward_kernel", "depthwise_weights_kernel", "pool_backward_kernel"}
    assert {kernel for kernel in small if small[kernel] == large[kernel]} == without_sums | {"gather_kernel"}
    rows = {"stage_kernel": 2 + 1, "pool_statistics_kernel": 2, "shared_sums_kernel": 2, "depthwise_backward_kernel": 1}
    for kernel, number in rows.items():  # two float64 sums of four channels, of four programs and of two
        programs = 1 if kernel == "depthwise_backward_kernel" else 2  # of two and of one
        assert small[kernel] - large[kernel] == programs * number * 2 * 4 * 8, kernel
