"""What limits the kernels: bytes, issue, or the units for integers?

Compiles every form that the cells of a supernet launch for a GPU that need not be present, and counts from the machine
code what is issued: instructions of each loop, times its trips, times the programs of the launch. The time of a launch
by the model is the longest of bytes / bandwidth, issue, and integer instructions at their half rate; the constants
stand in `fastnas_audit/time_model.py`. Bytes are the floor: each operand of a launch once (`kernel_bytes.py` shows that
the kernels move 1.00 to 1.06 times that). PyTorch's eager cell is the same edge by edge: its time is that of its bytes
alone, arguments and results of each operator, which flatters it: its instructions are not known here.

    python profiling/kernel_instructions.py                       # prints
    python profiling/kernel_instructions.py --only cell --write   # one cell of each supernet, and the page and record
"""

import argparse
import json
import os
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

os.environ["TRITON_INTERPRET"] = "1"  # launches are recorded here and compiled in processes of their own

import torch
import triton

from fastnas_audit.assembly import Assembly
from fastnas_audit.elsewhere import Failure, Job, assemblies, reference
from fastnas_audit.floor import floors
from fastnas_audit.gate import Case
from fastnas_audit.instructions import share_of_products
from fastnas_audit.interpreter import replaced
from fastnas_audit.recorder import Launch, case_of, recorded, same_code
from fastnas_audit.time_model import H100, NOTHING, Work, programs_a_multiprocessor, seconds, work_of
from fastnas_kernels.mixed_op import launch, launch_backward
from fastnas_kernels.mixed_op.plan import CellPlan
from measuring.cells import darts_plan
from measuring.counting import Operators

RESULTS = Path(__file__).parent / "results"
TARGET = "sm_90"
PHASES = {"weight step": True, "alpha step": False}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Place(NamedTuple):
    """Cells of a supernet that are alike: their number, their plan, and the side of their input states, in pixels."""

    number: int
    plan: CellPlan
    side: int

    @property
    def out_side(self) -> int:
        return self.plan.size_after(self.side, self.side)[0]


class Workload(NamedTuple):
    """Cells that are evaluated one after another for a batch of images."""

    name: str
    images: int
    places: tuple[Place, ...]


def eight_cells(side: int, k: int) -> tuple[Place, ...]:
    """The cells of DARTS's supernet (Liu et al., 2019, arXiv:1806.09055) with 16 channels at first."""
    found, channels = [], 16
    for place in range(3):
        if place:
            channels *= 2
            found.append(Place(1, darts_plan(channels, 2, k), side))
            side //= 2
        found.append(Place(2, darts_plan(channels, 1, k), side))
    return tuple(found)


def workloads() -> tuple[Workload, ...]:
    """A cell of each of two supernets, and their whole steps at the batches of the papers (Liu et al., 2019; Xu et al.,
    2020, arXiv:1907.05737)."""
    darts, imagenet = eight_cells(32, 1), eight_cells(28, 2)
    cell, wide = (darts[0]._replace(number=1),), (imagenet[0]._replace(number=1),)
    return (
        Workload("DARTS cell, C=16, 32×32, batch 64", 64, cell),
        Workload("DARTS cell, C=16, 32×32, batch 512", 512, cell),
        Workload("PC-DARTS ImageNet cell, C=16, K=2, 28×28, batch 256", 256, wide),
        Workload("PC-DARTS ImageNet cell, C=16, K=2, 28×28, batch 1024", 1024, wide),
        Workload("DARTS on CIFAR, 8 cells, batch 64", 64, darts),
        Workload("PC-DARTS on ImageNet, 8 cells, batch 256", 256, imagenet),
        Workload("PC-DARTS on ImageNet, 8 cells, batch 1024", 1024, imagenet),
    )


@cache
def launches(place: Place, images: int, dtype: torch.dtype, weights: bool) -> list[Launch]:
    """What a cell launches forward and backward at its real size; tensors have no memory."""
    plan, meta = place.plan, torch.device("meta")
    inputs = torch.empty(plan.num_inputs, images, place.side, place.side, plan.channels, dtype=dtype, device=meta)
    filters = [torch.empty(shape, device=meta) for shape in plan.filter_shapes]
    mix, edge_mix = torch.empty(plan.num_coefficients, device=meta), torch.empty(len(plan.edges), device=meta)
    with replaced(launch, multiprocessors=lambda _: H100.multiprocessors), recorded() as found:
        nodes, stats, packed, _ = launch.run_forward(inputs, filters, mix, edge_mix, None, plan)
        needs = (True, weights, True, plan.k > 1)
        launch_backward.run_backward(nodes, inputs, nodes, packed, mix, edge_mix, stats, False, needs, plan)
    return found


def compiled(wanted: Sequence[Workload], dtypes: Sequence[str], processes: int) -> dict[tuple, Assembly]:
    """The code of every form of ``wanted``, each compiled once."""
    cells = ((place, work.images, DTYPES[dtype]) for work in wanted for place in work.places for dtype in dtypes)
    return compiled_forms(
        (one for cell in cells for weights in PHASES.values() for one in launches(*cell, weights)), processes
    )


def compiled_forms(of: Iterable[Launch], processes: int) -> dict[tuple, Assembly]:
    """The code of every form of some launches, each compiled once."""
    forms: dict[tuple, Case] = {}
    for one in of:
        case = case_of(one, one.name)
        forms.setdefault(same_code(case), case)
    jobs = [
        Job(reference(c.kernel), c.signature, TARGET, c.constants, c.num_warps, c.num_stages, c.maxnreg,
            c.divisible_by_16)
        for c in forms.values()
    ]  # fmt: skip
    print(f"{len(jobs)} forms to compile", file=sys.stderr, flush=True)
    found = {}
    for key, case, code in zip(forms, forms.values(), assemblies(jobs, processes), strict=True):
        if isinstance(code, Failure):
            raise RuntimeError(f"{case.name} does not compile: {code.message}")
        if code.spills:
            print(f"{case.name}: {code.spills} spills, {dict(case.constants)}", file=sys.stderr)
        found[key] = code
    return found


class Row(NamedTuple):
    """A kernel in one pass of a workload."""

    work: Work
    num_bytes: float
    registers: int
    programs: int


def rows(work: Workload, dtype: torch.dtype, weights: bool, code: dict[tuple, Assembly]) -> dict[str, Row]:
    """Every kernel of ``work``, by its name."""
    found: dict[str, Row] = defaultdict(lambda: Row(NOTHING, 0.0, 0, 99))
    for place in work.places:
        edges = launch.tiles_for(place.plan.mixed_channels, dtype).edges
        lowered, moved = launch.lower(place.plan), floor_of(place, work.images, dtype, weights)
        for one in launches(place, work.images, dtype, weights):
            assembly = code[same_code(case_of(one, one.name))]
            each, row = work_of(one, assembly, lowered, edges), found[one.name]
            total = row.work
            for _ in range(place.number):
                total = total + each
            found[one.name] = Row(
                total, row.num_bytes, max(row.registers, assembly.registers),
                min(row.programs, programs_a_multiprocessor(assembly, one.options["num_warps"])),
            )  # fmt: skip
        for name, value in moved.items():
            found[name] = found[name]._replace(num_bytes=found[name].num_bytes + place.number * value)
    return dict(found)


def floor_of(place: Place, images: int, dtype: torch.dtype, weights: bool) -> Counter[str]:
    """Bytes that the kernels of a cell must move."""
    return floors(place.plan, images * place.out_side**2, dtype, weights, images * place.side**2)


def eager_bytes(work: Workload, dtype: torch.dtype, weights: bool) -> tuple[float, int]:
    """Bytes and launches of PyTorch's operators for the same, edge by edge."""
    moved, started = 0.0, 0
    for place in work.places:
        # One image and two give the line; filters are the same for any number
        one, two = (_eager(place, images, dtype, weights) for images in (1, 2))
        moved += place.number * (one[0] + (work.images - 1) * (two[0] - one[0]))
        started += place.number * one[1]
    return moved, started


@cache
def _eager(place: Place, images: int, dtype: torch.dtype, weights: bool) -> tuple[int, int]:
    from measuring.cells import CONTENDERS, Cell, arguments_of, step, whole  # noqa: PLC0415

    arguments = arguments_of(Cell("", place.plan, images, place.side), dtype, torch.device("meta"))
    run = whole(*step(CONTENDERS["edge by edge"], arguments, place.plan, "both" if weights else "alpha step"))
    with Operators() as seen:
        run()
    return seen.num_bytes, seen.launches.total()


HEAD = (
    "kernel", "launches", "few", "registers", "programs", "G issued", "products", "integer", "memory", "bytes, ms",
    "issue, ms", "half rate, ms", "time, ms",
)  # fmt: skip


def table(found: dict[str, Row]) -> Iterator[str]:
    """A row for each kernel, and their sum."""
    yield f"| {' | '.join(HEAD)} |"
    yield f"| --- |{' ---: |' * (len(HEAD) - 1)}"
    for name, row in sorted(found.items(), key=lambda item: -seconds(item[1].work, item[1].num_bytes)):
        yield _line(name.removesuffix("_kernel"), [row], str(row.registers), str(row.programs))
    yield _line("all", list(found.values()), "", "")


def _line(name: str, of: Sequence[Row], registers: str, programs: str) -> str:
    work, moved = sum((row.work for row in of), NOTHING), sum(row.num_bytes for row in of)
    issued = max(work.issued, 1)
    total = sum(seconds(row.work, row.num_bytes) for row in of)
    cells = [
        name, str(work.launches), str(work.few), registers, programs, f"{work.issued / 1e9:.3f}",
        f"{share_of_products(work.mix):.0%}", f"{work.mix.get('integer and address', 0) / issued:.0%}",
        f"{work.mix.get('memory', 0) / issued:.0%}",
        *(f"{1e3 * time:.3f}" for time in (moved / H100.bandwidth, work.issue, work.half_rate, total)),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def figures(found: dict[str, Row]) -> dict[str, float]:
    """What must not get worse: the milliseconds of each kernel, and of all."""
    each = {name: 1e3 * seconds(row.work, row.num_bytes) for name, row in sorted(found.items())}
    return {name: round(value, 4) for name, value in (each | {"all": sum(each.values())}).items()}


def main() -> None:
    """Compile, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="workloads with this in their names")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--processes", type=int, default=2, help="compilers at once")
    put = "put the page into profiling/results, by this name, and the figures into the record"
    parser.add_argument("--write", nargs="?", const="kernel-instructions", metavar="PAGE", help=put)
    settings = parser.parse_args()
    wanted = [work for work in workloads() if settings.only in work.name]
    code = compiled(wanted, settings.dtypes, settings.processes)
    command = shlex.join(["python", "profiling/kernel_instructions.py", *sys.argv[1:]])
    about = (
        f"`{command}`, {TARGET}, Triton {triton.__version__}. No GPU was there and nothing was run. PyTorch's time is "
        "that of its bytes alone. Before: [kernel-instructions-before.md](kernel-instructions-before.md)."
    )
    constants = (
        f"Model: {H100.bandwidth / 1e12} TB/s, {H100.multiprocessors} multiprocessors at {H100.clock / 1e9} GHz, "
        f"{H100.issue:g} instructions a cycle, {H100.half_rate:g} of those at half rate. `few`: launches with under "
        "two programs a multiprocessor; `programs`: that fit on one."
    )
    lines, totals, record = [], [], {}
    for work in wanted:
        for dtype in settings.dtypes:
            for phase, weights in PHASES.items():
                found = rows(work, DTYPES[dtype], weights, code)
                lines += [f"## {work.name}, {dtype}, {phase}", "", *table(found), ""]
                record[f"{work.name}, {dtype}, {phase}"] = figures(found)
                totals.append(summary(work, dtype, phase, found))
    head = ["cells of", "dtype", "step", "bytes, ms", "issue / bytes", "half rate / bytes", "time, ms", "PyTorch, ms"]
    overview = [f"| {' | '.join(head)} |", f"| --- | --- | --- |{' ---: |' * 5}", *totals]
    page = "\n".join(
        ["# What limits the kernels, by the compiled code", "", about, "", constants, "", *overview, "", *lines]
    )
    print(page)
    if settings.write:
        (RESULTS / f"{settings.write}.md").write_text(page)
        path = RESULTS / "kernel-instructions.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | record, indent=1) + "\n")


def summary(work: Workload, dtype: str, phase: str, found: dict[str, Row]) -> str:
    """A row of the overview: what is issued in multiples of the byte floor."""
    total = sum((row.work for row in found.values()), NOTHING)
    floor = sum(row.num_bytes for row in found.values()) / H100.bandwidth
    time = sum(seconds(row.work, row.num_bytes) for row in found.values())
    eager, started = eager_bytes(work, DTYPES[dtype], PHASES[phase])
    times = [1e3 * floor, total.issue / floor, total.half_rate / floor, 1e3 * time, 1e3 * eager / H100.bandwidth]
    cells = [work.name, dtype, phase, *(f"{value:.2f}" for value in times)]
    cells[-1] += f" in {started} launches"
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
