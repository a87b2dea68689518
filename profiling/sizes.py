"""Is the way in which a cell is evaluated on this CPU ever slower than PyTorch's own operations?

Times a forward and backward pass of cells of many kinds and sizes: as `mixed_cell` chooses by itself, by its definition
in plain PyTorch, and edge by edge as the published code does it, in either memory format. They run in turn, and the
least time of each counts: seconds of the processor with one thread, of the wall with more. Before that all of them must
agree in float64. Prints how many times as fast the choice is as the fastest of the others, marks what is slower than
0.95 times that, and ends with the exit code 1 if something is slower than 0.9 times: than all others where candidates
are mixed, than the definition where nothing is; such cells `fastnas.accelerate` leaves to the code that it finds.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from time import perf_counter, process_time
from typing import NamedTuple

import torch
import tyro
from torch import Tensor

from fastnas.spaces.cell_space import DARTS
from fastnas.supernet.search_cell import CANDIDATES, plan_cell
from fastnas_kernels.check import complaint, invalid
from fastnas_kernels.cpu.choice import cpu_serves
from fastnas_kernels.mixed_op.cell import mixed_cell
from fastnas_kernels.mixed_op.plan import CellPlan, EdgePlan
from measuring.cells import CONTENDERS, Arguments, Cell, Contender, Phase, arguments_of, edge_by_edge, step, whole
from measuring.device import Device, HostDevice
from measuring.writing import Section, provenance

CPU = torch.device("cpu")
AUTOMATIC, DEFINITION, PUBLISHED = "automatic", "definition", "edge by edge"
MARKED, REFUSED = 0.95, 0.9
EXACT = 1e-9
"""Relative, in float64, of nodes and gradients."""
PRIMITIVES = tuple(primitive for primitive in DARTS.primitives if primitive != "none")
EDGES = range(len(DARTS.edges))
KINDS: Mapping[str, Sequence[Sequence[str]]] = {
    "whole": [PRIMITIVES for _ in EDGES],
    "three an edge": [[PRIMITIVES[(edge + i) % len(PRIMITIVES)] for i in range(3)] for edge in EDGES],
    "one an edge": [[PRIMITIVES[edge % len(PRIMITIVES)]] for edge in EDGES],
    "pools": [["max_pool_3x3", "avg_pool_3x3"] for _ in EDGES],
    "identities": [["skip_connect"] for _ in EDGES],
    "one edge": [PRIMITIVES],
    "one convolution": [["dil_conv_3x3"]],
    "one pool": [["max_pool_3x3"]],
}
"""Primitives on the edges of a DARTS cell; where there is one edge, it leads from one state to one node."""


class Size(NamedTuple):
    """Channels of a state and the part of them that is mixed, ``images`` of ``side`` times ``side`` pixels, stride."""

    channels: int
    k: int
    images: int
    side: int
    stride: int

    def __str__(self) -> str:
        return f"{self.channels}, {self.k} | {self.images} | {self.side}×{self.side} | {self.stride}"


SIZES = (
    Size(4, 1, 2, 1, 1),
    Size(4, 1, 1, 4, 1),
    Size(4, 1, 1, 8, 2),
    Size(4, 1, 1, 32, 1),
    Size(16, 1, 1, 8, 1),
    Size(16, 1, 1, 32, 1),
    Size(16, 1, 1, 32, 2),
    Size(16, 1, 4, 16, 1),
    Size(16, 4, 1, 8, 1),
    Size(16, 4, 1, 32, 1),
    Size(16, 4, 4, 16, 2),
    Size(36, 1, 1, 8, 2),
    Size(36, 1, 4, 16, 1),
    Size(64, 2, 1, 14, 1),
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What to measure.

    Args:
        kinds: Of cells; all of them unless given.
        threads: Of the CPU.
        seconds: Spent on each cell, at least; three runs of each contender are the least.
    """

    kinds: tuple[str, ...] = tuple(KINDS)
    threads: int = 1
    seconds: float = 0.1


class Row(NamedTuple):
    """Least seconds of each contender, whether candidates are mixed, and whether the choice is compiled code."""

    kind: str
    size: Size
    phase: Phase
    mixes: bool
    compiled: bool
    seconds: Mapping[str, float]

    def faster(self, *others: str) -> float:
        """How many times as fast the choice is as the fastest of the others."""
        return min(value for name, value in self.seconds.items() if name.startswith(others)) / self.seconds[AUTOMATIC]


def plan_at(kind: str, size: Size) -> CellPlan:
    """A cell of that kind."""
    names = tuple(map(tuple, KINDS[kind]))
    if len(names) == 1:
        edge = EdgePlan(0, 1, tuple(CANDIDATES[name] for name in names[0]))
        return CellPlan(size.channels, 1, 1, (edge,), size.stride, size.k)
    plan = plan_cell(DARTS, size.channels, size.stride, size.k, names)
    assert plan is not None, "the kernels know all primitives of the space"
    return plan


def contenders(plan: CellPlan, arguments: Arguments, phase: Phase) -> dict[str, Callable[[], list[Tensor]]]:
    """Forward and backward pass in every way."""
    rows = arguments._replace(states=tuple(x.contiguous() for x in arguments.states), dy=arguments.dy.contiguous())
    chosen = Contender(lambda a, plan: mixed_cell(a.states, a.weights, a.mix, a.edge_mix, plan)[0], backend="")
    ways = {
        AUTOMATIC: (chosen, arguments),
        DEFINITION: (chosen._replace(backend="reference"), arguments),
        PUBLISHED: (CONTENDERS[PUBLISHED], rows),
        f"{PUBLISHED}, channels_last": (Contender(edge_by_edge), arguments),
    }
    return {name: whole(*step(way, given, plan, phase)) for name, (way, given) in ways.items()}


def check(kind: str, size: Size, phase: Phase) -> None:
    """Raise unless nodes and gradients are alike in float64."""
    plan = plan_at(kind, size)
    given = arguments_of(Cell(kind, plan, size.images, size.side), torch.float64, CPU)
    truth, *others = (run() for run in contenders(plan, given, phase).values())
    for found in others:
        scales = [x.norm().clamp_min(1e-6) for x in truth]  # a normalised pixel alone is zero, and so is its gradient
        apart = max(((y - x).norm() / s).item() for x, y, s in zip(truth, found, scales, strict=True))
        if not apart <= EXACT:
            raise RuntimeError(complaint("sizes", f"errors of {kind}, {size}, must be at most {EXACT}", apart))


def least(device: Device, runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Least seconds of each contender, in turn until ``seconds`` are spent, three times at the least."""
    found = {name: [device.seconds(run)] for name, run in runs.items()}  # warms them up; not counted below
    started, rounds = perf_counter(), 0
    while rounds < 3 or perf_counter() - started < seconds:
        for name, run in runs.items():
            found[name].append(device.seconds(run))
        rounds += 1
    return {name: min(times[1:]) for name, times in found.items()}


def measure(kind: str, size: Size, phase: Phase, settings: Sizes) -> Row:
    """Times one cell."""
    plan = plan_at(kind, size)
    given = arguments_of(Cell(kind, plan, size.images, size.side), torch.float32, CPU)
    device = HostDevice(process_time if settings.threads == 1 else perf_counter)
    seconds = least(device, contenders(plan, given, phase), settings.seconds)
    return Row(kind, size, phase, plan.mixes, cpu_serves(given.states[0], plan), seconds)


def tables(rows: Sequence[Row], kinds: Sequence[str]) -> list[Section]:
    """How many times as fast, at every size; and the least and the median of every kind."""
    found = {(row.size, row.phase, row.kind): row for row in rows}
    places = dict.fromkeys((row.size, row.phase) for row in rows)
    every = [
        [*str(size).split(" | "), phase, *(_cell(found[size, phase, kind]) for kind in kinds)] for size, phase in places
    ]
    notes = (
        "The fastest of the others' time, divided by that of the choice, (p) where the choice is PyTorch. "
        f"Bold: less than {MARKED}.",
    )
    columns = ("channels, k", "images", "size", "stride", "step", *kinds)
    summary = []
    for kind in kinds:
        of_kind = [row for row in rows if row.kind == kind]
        names = (DEFINITION, PUBLISHED)
        cells = [f"{pick([row.faster(name) for row in of_kind]):.2f}" for name in names for pick in (min, median)]
        summary.append([kind, *cells, f"{1e3 * min(row.seconds[AUTOMATIC] for row in of_kind):.2f}"])
    heads = ("kind of cell", "definition, least", "median", "edge by edge, least", "median", "shortest, ms")
    return [Section("Every size", columns, every, notes), Section("Every kind", heads, summary)]


def _cell(row: Row) -> str:
    ratio = row.faster(DEFINITION, PUBLISHED)
    text = f"{ratio:.2f}" + ("" if row.compiled else " (p)")
    return f"**{text}**" if ratio < MARKED else text


def main(settings: Sizes) -> int:
    """Print the tables; returns the exit code."""
    unknown = [kind for kind in settings.kinds if kind not in KINDS]
    if unknown:
        raise invalid("sizes", f"kinds must be among {', '.join(KINDS)}", ", ".join(unknown))
    torch.set_num_threads(settings.threads)
    phases: tuple[Phase, ...] = ("alpha step", "weight step")
    for kind, k, stride, phase in product(settings.kinds, (1, 4), (1, 2), phases):
        check(kind, Size(8, k, 2, 5, stride), phase)
    rows = [measure(*case, settings) for case in product(settings.kinds, SIZES, phases)]
    for name, value in provenance(HostDevice().properties()).items():
        print(f"- {name}: {value}")
    print("- float64: nodes and gradients of all contenders agree\n")
    for section in tables(rows, settings.kinds):
        print(section)
    judged = [(row, row.faster(*(DEFINITION, PUBLISHED)[: 2 if row.mixes else 1])) for row in rows]
    slow = [f"{row.kind}, {row.size}, {row.phase}: {ratio:.2f}" for row, ratio in judged if ratio < REFUSED]
    for line in slow:
        print(f"slower than {REFUSED}: {line}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Sizes, description=__doc__)))
