"""How many bytes do the kernels of a cell move, and how near is that to what any implementation must move?

Bytes are different bytes read and written a launch, what comes from device memory if the caches are perfect, counted
in Triton's interpreter access by access. There they depend on the number of pixels and on the number of programs that
share a filter's gradient by a straight line each, so three runs on a few pixels give those of any batch (a test checks
that to the byte). The floor has each operand of a launch once, without tables and partial sums.

Launches and saved bytes are those of the full size: Triton's are counted at their launcher, which then does nothing,
PyTorch's by a TorchDispatchMode: every operator but views, allocations and the look for NaN, which a GPU is spared, is
one launch (joining many weights may be two or three). The unfused cell is the same edge by edge, without `none` and
without running statistics, on meta tensors under the same mode; its bytes are arguments and results of each operator.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["FASTNAS_BACKEND"] = "triton"

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor

from fastnas_audit.interpreter import replaced
from fastnas_audit.meter import Meter
from fastnas_kernels.mixed_op import launch, launch_backward
from fastnas_kernels.mixed_op.plan import CellPlan, EdgePlan, plan_from_text
from measuring.cells import CONTENDERS, Cell, arguments_of, darts_plan, step, whole
from measuring.counting import kept_bytes

LOOK_FOR_NAN = ("isnan", "any", "_local_scalar_dense")
NO_LAUNCH = ("detach", "_unsafe_view", "_reshape_alias", "lift_fresh", "promote_types", *LOOK_FOR_NAN)
RESULT = Path(__file__).parent / "results" / "kernel-bytes.md"


class Case(NamedTuple):
    """A cell at a size, and what it may at most save (MB), move (GB) and launch; empty where nobody set a limit."""

    cell: Cell
    saved_limit: str
    moved_limit: str = ""
    launches_limit: str = ""


CASES = (
    Case(Cell("DARTS, C=16, 32x32, batch 64", darts_plan(16), 64, 32), "30", "4", "100"),
    Case(Cell("PC-DARTS ImageNet, C=16, K=2, 28x28, batch 128", darts_plan(16, k=2), 128, 28), "45"),
)


class Evaluation(NamedTuple):
    """A way to evaluate a cell: forward, forward and backward, and the weights."""

    forward: Callable[[], Tensor]
    both: Callable[[], object]
    weights: tuple[Tensor, ...]


def evaluation(cell: Cell, contender: str, device: str = "cpu") -> Evaluation:
    """All gradients of ``cell`` by one of ``CONTENDERS``."""
    arguments = arguments_of(cell, torch.float32, torch.device(device))
    passes = step(CONTENDERS[contender], arguments, cell.plan, "both")
    return Evaluation(passes[0], whole(*passes), arguments.weights)


def metered(plan: CellPlan, num_tiles: int, splits: int) -> Counter[str]:
    """Bytes of each kernel, for as many pixels as fill ``num_tiles`` programs."""
    table = launch.tiles_for
    tiles = replace(table(plan.mixed_channels, torch.float32), splits=splits)
    side = int(tiles.stage.pixels**0.5)
    assert side**2 == tiles.stage.pixels, "an image must fill a program"
    launch.tiles_for = lambda *_: tiles
    try:
        with Meter() as meter:
            evaluation(Cell("", plan, num_tiles, side), "fused").both()
    finally:
        launch.tiles_for = table
    return Counter({kernel: meter.of(kernel).dram_bytes for kernel in meter.kernels})


def extrapolated(plan: CellPlan, pixels: int) -> dict[str, float]:
    """Bytes of each kernel for ``pixels`` of the output and the shipped number of splits."""
    tiles = launch.tiles_for(plan.mixed_channels, torch.float32)
    base, larger, wider = metered(plan, 1, 1), metered(plan, 2, 1), metered(plan, 2, 2)
    splits, num_tiles = tiles.splits, pixels / tiles.stage.pixels
    return {
        kernel: value + (splits - 1) * (wider[kernel] - larger[kernel]) + (num_tiles - 1) * (larger[kernel] - value)
        for kernel, value in base.items()
    }


def floors(plan: CellPlan, pixels: int) -> Counter[str]:
    """Bytes of each operand once, summed over the launches of each kernel; stride 1, float32."""
    lowered, width = launch.lower(plan), 4
    again = launch.tiles_for(plan.mixed_channels, torch.float32).compute_again(plan.mixed_channels)
    plane, flags = pixels * plan.mixed_channels * width, pixels * plan.mixed_channels
    found: Counter[str] = Counter()

    def pooled(edge: EdgePlan) -> bool:
        return any(candidate.kind in ("max_pool", "avg_pool") for candidate in edge.candidates)

    def skipped(edge: EdgePlan) -> bool:
        return any(candidate.kind == "skip" for candidate in edge.candidates)

    for source, (first, middle, last) in enumerate(lowered.ranges):
        outer, inner = lowered.branches[first:middle], lowered.branches[middle:last]
        edges = [plan.edges[number] for number in plan.leaving(source)]
        is_node, pools = source >= plan.num_inputs, any(map(pooled, edges))
        n, m = len(outer), len(inner)
        kept_n, kept_m = (sum(b.coefficient < 0 for b in of) if again else len(of) for of in (outer, inner))
        read_n, read_m = (0, 0) if again else (n, m)
        targets, inner_targets = ({b.target for b in of if b.coefficient >= 0} for of in (outer, inner))
        filters = [plan.mixed_channels * (b.kernel**2 + plan.mixed_channels) * width for b in (*outer, *inner)]
        dense = sum(plan.mixed_channels**2 * width for _ in filters)
        found["stage_kernel"] += plane * ((1 + n) + 2 * m) + sum(filters)
        found["stage_kernel"] += plane * (1 + kept_n + len(targets) + m + kept_m + len(inner_targets)) + sum(filters)
        found["pool_statistics_kernel"] += pools * plane
        found["shared_sums_kernel"] += plane * (1 + len(edges))
        found["pointwise_backward_kernel"] += plane * (2 * m + read_m + len(inner_targets)) + sum(filters) + dense
        found["pointwise_backward_kernel"] += plane * (1 + n + read_n + len(targets))
        found["pointwise_backward_kernel"] += plane * sum(b.coefficient < 0 for b in outer)
        found["depthwise_backward_kernel"] += 3 * m * plane
        found["depthwise_weights_kernel"] += (2 * m + 1 + n) * plane + sum(filters) - dense
        found["pool_backward_kernel"] += pools * (plane * (1 + sum(map(pooled, edges)) + 2) + flags)
        found["gather_kernel"] += plane * (1 + n + sum(map(skipped, edges)) + 1 + is_node) + pools * (2 * plane + flags)
        found["bypass_backward_kernel"] += (plan.k - 1) * plane * (2 + len(edges) + is_node)
        found["bypass_backward_kernel"] += 2 * plane * (is_node and plan.k > 1)  # parts the mixed channels as well
    for target in range(plan.num_inputs, plan.num_states):
        entering = [plan.edges[number] for number in plan.entering(target)]
        read = sum(pooled(edge) or skipped(edge) for edge in entering)
        passing = (plan.k - 1) * (len(entering) + 1)  # which another kernel serves unless there are two or four groups
        found["node_kernel"] += plane * (len(lowered.entering(target)) + read + 1 + passing)
    return +found


class Operators(TorchDispatchMode):
    """Counts operators that start a kernel, and bytes of their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace == "fastnas":
            run: Any = launch.run_forward if "backward" not in func.name() else launch_backward.run_backward
            with self:  # its inner operators are seen as well
                return run(*args[:-1], plan_from_text(args[-1]))
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and "empty" not in name and name not in NO_LAUNCH:
            self.launches[name] += 1
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.num_bytes += sum(map(_num_bytes, {id(x): x for x in tensors}.values()))
        return result


def _num_bytes(x: Tensor) -> int:
    return min(x.numel() * x.itemsize, x.untyped_storage().nbytes())  # the latter where it is expanded


@contextmanager
def launches_counted() -> Iterator[Counter[str]]:
    """Triton's launches, which do nothing."""
    found: Counter[str] = Counter()

    def call(executor: GridExecutor, *_: Any, **__: Any) -> None:
        found[executor.fn.__name__] += 1

    with replaced(GridExecutor, __call__=call):
        yield found


def report(case: Case) -> str:
    """The tables of one cell."""
    cell = case.cell
    plan, pixels = cell.plan, cell.images * cell.side**2
    fused, edge_by_edge = evaluation(cell, "fused"), evaluation(cell, "edge by edge", "meta")
    with launches_counted() as kernels, Operators() as operators:
        fused.both()
    with launches_counted():
        saved = kept_bytes(fused.forward, fused.weights)
    with Operators() as eager:
        edge_by_edge.both()
    eager_saved = kept_bytes(edge_by_edge.forward, edge_by_edge.weights)
    moved, floor = extrapolated(plan, pixels), floors(plan, pixels)
    lines = [
        f"## {cell.name}, float32",
        "",
        "| kernel | launches | MB | floor, MB | factor |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kernel, value in sorted(moved.items(), key=lambda item: -item[1]):
        lowest = f"{floor[kernel] / 1e6:.1f} | {value / floor[kernel]:.2f}" if floor[kernel] else "partial sums only | "
        lines.append(f"| {kernel} | {kernels[kernel]} | {value / 1e6:.1f} | {lowest} |")
    total = sum(moved.values())
    rows = [
        (
            "GB moved by kernels, forward and backward",
            f"{total / 1e9:.2f}",
            f"{eager.num_bytes / 1e9:.1f}",
            case.moved_limit,
        ),
        ("GB of PyTorch's operators beside them", f"{operators.num_bytes / 1e9:.2f}", "", ""),
        ("launches of Triton", f"{kernels.total()}", "0", ""),
        ("launches of PyTorch", f"{operators.launches.total()}", f"{eager.launches.total()}", ""),
        (
            "launches",
            f"{kernels.total() + operators.launches.total()}",
            f"{eager.launches.total()}",
            case.launches_limit,
        ),
        ("MB saved", f"{saved / 1e6:.1f}", f"{eager_saved / 1e6:.0f}", case.saved_limit),
    ]
    lines += ["", "| forward and backward | fused | unfused | target |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", f"PyTorch's operators beside the kernels: {dict(operators.launches)}", ""]
    return "\n".join(lines)


def main(write: bool = False) -> None:
    """Print bytes, launches and saved memory of two cells against their targets.

    Args:
        write: Also put them into results/kernel-bytes.md.
    """
    torch.set_num_threads(1)
    command = "python profiling/kernel_bytes.py --write"
    header = f"# Bytes that the kernels of a cell move\n\n`{command}`, torch {torch.__version__}.\n\n{__doc__}"
    text = "\n".join([header, *map(report, CASES)])
    print(text)
    if write:
        RESULT.write_text(text)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
