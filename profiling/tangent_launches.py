"""How many kernels does a pass of second order through one cell launch on a GPU?

Triton's launches are counted at their launcher, which then does nothing, PyTorch's by a TorchDispatchMode, as in
kernel_bytes.py: every operator but views, allocations and the look for NaN is one launch. Neither depends on the number
or the size of images, of which there are few here. The direction moves states, weights and coefficients, and all of
their gradients are asked for. Before, PyTorch differentiated the definition for the tangents, a part of the cell at a
time: counted by this script at commit b99c0e0.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["FASTNAS_BACKEND"] = "triton"

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import tyro
from kernel_bytes import launches_counted
from torch import Tensor
from torch.autograd import forward_ad, grad

from fastnas_kernels.mixed_op.cell import mixed_cell
from measuring.cells import Arguments, Cell, arguments_of, darts_plan
from measuring.counting import Operators

RESULT = Path(__file__).parent / "results" / "tangent-launches.md"
CELLS = (
    Cell("DARTS, C=16", darts_plan(16), 2, 8),
    Cell("DARTS reduction, C=32", darts_plan(32, stride=2), 2, 8),
    Cell("PC-DARTS, C=16, K=4", darts_plan(16, k=4), 2, 8),
)
BEFORE = {
    "DARTS, C=16": (100, 1544, 5978, 5743),
    "DARTS reduction, C=32": (105, 1592, 6251, 5989),
    "PC-DARTS, C=16, K=4": (111, 2198, 7463, 7237),
}
"""Launches of each pass, see above."""


def leaves_of(given: Arguments) -> list[Tensor]:
    """States, weights, mix, and weights of edges, where there are any."""
    edges = [] if given.edge_mix is None else [given.edge_mix]
    return [x.detach().requires_grad_() for x in (*given.states, *given.weights, given.mix, *edges)]


def nodes_at(cell: Cell, leaves: list[Tensor]) -> Tensor:
    """The nodes as a function of these."""
    first, last = cell.plan.num_inputs, cell.plan.num_inputs + len(cell.plan.filter_shapes)
    edge_mix = leaves[last + 1] if cell.plan.k > 1 else None
    return mixed_cell(leaves[:first], leaves[first:last], leaves[last], edge_mix, cell.plan)[0]


def dual(leaves: list[Tensor], u: list[Tensor]) -> list[Tensor]:
    """Numbers with tangents."""
    return [forward_ad.make_dual(x, t) for x, t in zip(leaves, u, strict=True)]


def first_order(cell: Cell, leaves: list[Tensor], u: list[Tensor], dy: Tensor) -> object:
    """A gradient, to compare with."""
    return grad(nodes_at(cell, leaves), leaves, dy)


def forward_mode(cell: Cell, leaves: list[Tensor], u: list[Tensor], dy: Tensor) -> object:
    """``J u``."""
    with torch.no_grad(), forward_ad.dual_level():
        return forward_ad.unpack_dual(nodes_at(cell, dual(leaves, u))).tangent


def forward_over_reverse(cell: Cell, leaves: list[Tensor], u: list[Tensor], dy: Tensor) -> object:
    """Gradients at dual numbers: their tangents are a product with the Hessian."""
    with forward_ad.dual_level():
        given = dual(leaves, u)
        return grad(nodes_at(cell, given), given, dy)


def reverse_over_reverse(cell: Cell, leaves: list[Tensor], u: list[Tensor], dy: Tensor) -> object:
    """The same product by a gradient of the gradient."""
    first = grad(nodes_at(cell, leaves), leaves, dy, create_graph=True)
    return grad(first, leaves, u)


PASSES: tuple[Callable[[Cell, list[Tensor], list[Tensor], Tensor], object], ...] = (
    first_order,
    forward_mode,
    forward_over_reverse,
    reverse_over_reverse,
)


def row(cell: Cell, run: Callable[[Cell, list[Tensor], list[Tensor], Tensor], object]) -> str:
    """Launches of one pass."""
    given = arguments_of(cell, torch.float32, torch.device("cpu"))
    leaves = leaves_of(given)
    u, dy = [torch.ones_like(x) for x in leaves], torch.zeros_like(given.dy)
    with launches_counted() as kernels, Operators() as operators:
        run(cell, leaves, u, dy)
    triton, torch_ = kernels.total(), operators.launches.total()
    before = BEFORE[cell.name][PASSES.index(run)]
    return f"| {cell.name} | {run.__name__.replace('_', ' ')} | {triton} | {torch_} | {triton + torch_} | {before} |"


def main(write: bool = False) -> None:
    """Print the launches of a cell's passes.

    Args:
        write: Also put them into results/tangent-launches.md.
    """
    torch.set_num_threads(1)
    lines = ["| cell | pass | Triton | PyTorch | launches | before |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    lines += [row(cell, run) for cell in CELLS for run in PASSES]
    command = "python profiling/tangent_launches.py --write"
    text = "\n".join(
        [f"# Launches of second derivatives\n\n`{command}`, torch {torch.__version__}.\n\n{__doc__}", *lines]
    )
    print(text)
    if write:
        RESULT.write_text(f"{text}\n")


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
