"""How much more do the kernels of second derivatives issue than those of a gradient?

Counted from the code that is compiled for a GPU which need not be present, as in kernel_instructions.py: instructions
of each loop, times its trips, times the programs of a launch; what stands behind a condition counts as if it held, in
`dual_nodes` every branch at every node. A product goes forward over reverse: values and their tangents forward, and one
pass backward. A second-order step asks for rows of alpha alone.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
import triton
import tyro
from kernel_instructions import Place, compiled_forms, launches

from fastnas_audit.assembly import Assembly
from fastnas_audit.instructions import share_of_products
from fastnas_audit.interpreter import replaced
from fastnas_audit.recorder import Launch, case_of, recorded, same_code
from fastnas_audit.time_model import H100, NOTHING, Work, work_of
from fastnas_kernels.mixed_op import launch
from fastnas_kernels.mixed_op.dual import launch as launch_dual
from fastnas_kernels.mixed_op.dual import launch_backward as launch_dual_backward
from measuring.cells import darts_plan

RESULT = Path(__file__).parent / "results" / "tangent-instructions.md"
IMAGES = 64
CELLS = {
    "DARTS cell, C=16, 32×32, batch 64": Place(1, darts_plan(16), 32),
    "DARTS reduction, C=32, 32×32, batch 64": Place(1, darts_plan(32, stride=2), 32),
}


def product_launches(place: Place, weights: bool) -> list[Launch]:
    """What a product with second derivatives launches at its real size; tensors have no memory."""
    plan, meta = place.plan, torch.device("meta")
    inputs = [torch.empty(plan.num_inputs, IMAGES, place.side, place.side, plan.channels, device=meta)] * 2
    filters = [torch.empty(shape, device=meta) for shape in plan.filter_shapes]
    mix, edge_mix = (
        [torch.empty(plan.num_coefficients, device=meta)] * 2,
        [torch.empty(len(plan.edges), device=meta)] * 2,
    )
    needs = (True, weights, True, plan.k > 1)
    with replaced(launch, multiprocessors=lambda _: H100.multiprocessors), recorded() as found:
        *nodes, stats, packed, _ = launch_dual.run_dual_forward(inputs, filters, filters, mix, edge_mix, None, plan)
        launch_dual_backward.run_dual_backward(nodes, inputs, nodes, packed, mix, edge_mix, stats, False, needs, plan)
    return found


def work_by_kernel(place: Place, of: Sequence[Launch], code: dict[tuple, Assembly]) -> dict[str, Work]:
    """What each kernel issues."""
    edges = launch.tiles_for(place.plan.mixed_channels, torch.float32).edges
    found: dict[str, Work] = defaultdict(lambda: NOTHING)
    for one in of:
        assembly = code[same_code(case_of(one, one.name))]
        found[one.name] = found[one.name] + work_of(one, assembly, launch.lower(place.plan), edges)
    return dict(found)


def line(name: str, work: Work) -> str:
    """A row of a table."""
    numbers = f"{work.launches} | {work.issued / 1e9:.3f} | {share_of_products(work.mix):.0%}"
    return f"| {name} | {numbers} | {1e3 * work.issue:.3f} | {1e3 * work.half_rate:.3f} |"


def report(name: str, place: Place, processes: int) -> str:
    """The tables of one cell."""
    passes = {
        "gradient, all rows": launches(place, IMAGES, torch.float32, True),
        "gradient, rows of alpha": launches(place, IMAGES, torch.float32, False),
        "product, all rows": product_launches(place, True),
        "product, rows of alpha": product_launches(place, False),
    }
    code = compiled_forms((one for of in passes.values() for one in of), processes)
    works = {of: work_by_kernel(place, found, code) for of, found in passes.items()}
    head = ["launches | G issued | products | issue, ms | half rate, ms |", "---: | ---: | ---: | ---: | ---: |"]
    lines = [f"## {name}, float32", "", f"| pass | {head[0]}", f"| --- | {head[1]}"]
    lines += [line(of, sum(work.values(), NOTHING)) for of, work in works.items()]
    lines += ["", f"| kernel of the product, all rows | {head[0]}", f"| --- | {head[1]}"]
    by_cost = sorted(works["product, all rows"].items(), key=lambda item: -item[1].issued)
    return "\n".join([*lines, *(line(kernel.removesuffix("_kernel"), work) for kernel, work in by_cost), ""])


def main(write: bool = False, processes: int = 1) -> None:
    """Compile and print.

    Args:
        write: Also put the page into results/tangent-instructions.md.
        processes: Compilers at once.
    """
    command = "python profiling/tangent_instructions.py --write"
    about = f"`{command}`, sm_90, Triton {triton.__version__}. No GPU was there and nothing was run.\n\n{__doc__}"
    reports = [report(name, place, processes) for name, place in CELLS.items()]
    page = "\n".join([f"# Instructions of second derivatives\n\n{about}", *reports])
    print(page)
    if write:
        RESULT.write_text(page)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
