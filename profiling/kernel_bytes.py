"""How many bytes do the kernels of a cell move, and how near is that to what any implementation must move?

Bytes are different bytes read and written a launch, what comes from device memory if the caches are perfect, counted
in Triton's interpreter access by access. There they depend on the number of pixels and on the number of programs that
share a filter's gradient by a straight line each, so three runs on a few pixels give those of any batch (a test checks
that to the byte). The floor has each operand of a launch once, without tables and partial sums.

Launches and saved bytes are those of the full size: Triton's are counted at their launcher, which then does nothing,
PyTorch's by a TorchDispatchMode: every operator but views, allocations and the look for NaN, which a GPU is spared, is
one launch (joining many weights may be two or three). The unfused cell is the same edge by edge, without `none` and
without running statistics, on meta tensors under the same mode; its bytes are arguments and results of each operator.

Bytes are not what limits the kernels: by the compiled code, issuing their instructions takes longer than moving these
bytes (kernel-instructions.md).
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
from triton.runtime.interpreter import GridExecutor

from fastnas_audit.floor import floors
from fastnas_audit.interpreter import replaced
from fastnas_audit.meter import Meter
from fastnas_kernels.mixed_op import launch
from fastnas_kernels.mixed_op.plan import CellPlan
from measuring.cells import CONTENDERS, Cell, arguments_of, darts_plan, step, whole
from measuring.counting import Operators, kept_bytes

RESULT = Path(__file__).parent / "results" / "kernel-bytes.md"
SIDE = 8
"""Of the images that fill a program, in pixels."""


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
    images, rest = divmod(tiles.stretches.pixels, SIDE**2)
    assert not rest, "images must fill a program"
    launch.tiles_for = lambda *_: tiles
    try:
        with Meter() as meter:
            evaluation(Cell("", plan, num_tiles * images, SIDE), "fused").both()
    finally:
        launch.tiles_for = table
    return Counter({kernel: meter.of(kernel).dram_bytes for kernel in meter.kernels})


def extrapolated(plan: CellPlan, pixels: int) -> dict[str, float]:
    """Bytes of each kernel for ``pixels`` of the output and the shipped number of splits."""
    tiles = launch.tiles_for(plan.mixed_channels, torch.float32)
    base, larger, wider = metered(plan, 1, 1), metered(plan, 2, 1), metered(plan, 2, 2)
    splits, num_tiles = tiles.splits, pixels / tiles.stretches.pixels
    return {
        kernel: value + (splits - 1) * (wider[kernel] - larger[kernel]) + (num_tiles - 1) * (larger[kernel] - value)
        for kernel, value in base.items()
    }


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
