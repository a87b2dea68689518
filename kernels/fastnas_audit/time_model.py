"""A model of a launch's time from the compiled code, without a GPU: bytes, issue, or the units for integers, whichever
takes longest.

Not modelled: latency that too few warps leave open, bank conflicts, misses of the caches, tensor cores' own time.
"""

import builtins
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch

from fastnas_audit.assembly import Assembly
from fastnas_audit.instructions import HALF_RATE, KINDS, Stretch
from fastnas_audit.recorder import Launch
from fastnas_kernels.mixed_op.lowering import Lowered
from fastnas_kernels.mixed_op.tables import tables_of

_UNROLLED = re.compile(r"\b(unrolled|rest)=(\d+)")


@dataclass(frozen=True)
class Machine:
    """The constants of the model: those of an H100 SXM by its data sheet, until somebody measures better ones.

    Attributes:
        bandwidth: Of device memory, bytes a second.
        multiprocessors: Their number.
        clock: Cycles a second under load.
        issue: Instructions of a warp that a multiprocessor starts a cycle.
        half_rate: Of those that are integer, logic or comparisons.
        registers: Of a multiprocessor.
        warps: Most warps at once on a multiprocessor.
        shared_bytes: Shared memory of a multiprocessor.
    """

    bandwidth: float = 3.35e12
    multiprocessors: int = 132
    clock: float = 1.755e9
    issue: float = 4
    half_rate: float = 2
    registers: int = 65536
    warps: int = 64
    shared_bytes: int = 227 * 1024


H100 = Machine()


@dataclass(frozen=True)
class Work:
    """What launches issue: instructions of warps by their kind, their number, and times in seconds by the model."""

    mix: Mapping[str, float]
    launches: int
    issue: float
    half_rate: float
    few: int = 0
    """Launches with under two programs a multiprocessor."""

    @property
    def issued(self) -> float:
        """Instructions of warps."""
        return sum(self.mix.get(kind, 0) for kind in KINDS)

    def __add__(self, other: "Work") -> "Work":
        mix = Counter(self.mix)
        mix.update(other.mix)
        return Work(
            mix,
            self.launches + other.launches,
            self.issue + other.issue,
            self.half_rate + other.half_rate,
            self.few + other.few,
        )


NOTHING = Work({}, 0, 0.0, 0.0)


def work_of(launch: Launch, code: Assembly, lowered: Lowered, edges_a_program: int, machine: Machine = H100) -> Work:
    """What ``launch`` of a cell issues. All programs are as those of the branches that they serve; what stands behind
    a condition counts as if it held.

    Raises:
        ValueError: If the loops of ``code`` are not known.
    """
    if not code.stretches:
        raise ValueError(f"work_of: the loops of {code.kernel} on {code.target} must be known")
    programs = _product(launch.grid)
    served = list(_filters_served(launch, lowered, edges_a_program))
    mix: Counter[str] = Counter()
    for kernel, dilation in served:
        names = {"kernel": kernel, "dilation": dilation, "DILATION": dilation, **launch.arguments}
        for stretch in code.stretches:
            times = programs / len(served) * launch.options["num_warps"] * _passes(stretch, names, launch.grid[0])
            for kind, number in stretch.mix.items():
                mix[kind] += times * number
    rounds = -(-programs // machine.multiprocessors) * machine.multiprocessors / programs
    cycles = rounds / machine.multiprocessors
    issued = sum(mix[kind] for kind in KINDS)
    return Work(
        mix,
        1,
        issued * cycles / machine.issue / machine.clock,
        mix[HALF_RATE] * cycles / machine.half_rate / machine.clock,
        few=int(programs < 2 * machine.multiprocessors),
    )


def programs_a_multiprocessor(code: Assembly, warps: int, machine: Machine = H100) -> int:
    """How many programs share a multiprocessor, by registers, warps and shared memory."""
    by_registers = machine.registers // (-(-code.registers // 8) * 8 * 32 * warps)
    by_memory = machine.shared_bytes // code.shared_bytes if code.shared_bytes else machine.warps
    return min(by_registers, machine.warps // warps, by_memory)


def seconds(work: Work, num_bytes: float, machine: Machine = H100) -> float:
    """The time of launches that move ``num_bytes``."""
    return max(num_bytes / machine.bandwidth, work.issue, work.half_rate)


def _product(sizes: Iterable[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _passes(stretch: Stretch, names: Mapping[str, Any], splits: int) -> float:
    """How often a program passes a stretch: the loops around it, as their ranges say."""
    if any(bool(_value(text, names)) != holds for text, holds in stretch.conditions):
        return 0
    total = 1.0
    for text in stretch.nest:
        total *= _length(text, names, splits)
    return total


def _length(text: str, names: Mapping[str, Any], splits: int) -> float:
    language = SimpleNamespace(num_programs=lambda axis: splits)
    known = {"split": 0, "tl": language, **names}
    first, last, step = _bounds(text, known)
    # Programs that share tiles begin at different ones: on average each has a part of them, not a whole number
    trips = (last - first) / step if "num_programs" in text else float(len(range(first, last, step)))
    flag = _UNROLLED.search(text)
    if flag is None:
        return trips
    return trips // int(flag[2]) if flag[1] == "unrolled" else trips % int(flag[2])


def _bounds(text: str, known: dict[str, Any]) -> tuple[int, int, int]:
    given = eval(f"({_without_flags(text)},)", {"__builtins__": vars(builtins)}, known)
    first, last, step = (0, *given, 1) if len(given) == 1 else (*given, 1)[:3]
    return first, last, step


def _value(text: str, known: Mapping[str, Any]) -> Any:
    return eval(text, {"__builtins__": vars(builtins)}, dict(known))


def _without_flags(text: str) -> str:
    return ", ".join(part for part in text.split(", ") if "=" not in part)


BY_BRANCH = ("stage_kernel", "pointwise_backward_kernel", "depthwise_backward_kernel", "depthwise_weights_kernel")
"""Kernels whose programs serve one branch each; but where the tangents are not wanted, the first serves bundles."""


def _filters_served(launch: Launch, lowered: Lowered, edges_a_program: int) -> Iterator[tuple[int, int]]:
    """Size and dilation of the filter of each branch, or bundle of them, that a launch serves alike; 1 where there are
    no filters."""
    named, name = launch.arguments, launch.name.removeprefix("dual_")  # those on numbers with a tangent
    branches = []
    if launch.name == "stage_kernel":
        bundles = _bundles(lowered, edges_a_program)[named["first_bundle"] : named["first_bundle"] + launch.grid[1]]
        branches = [lowered.branches[first] for first, _ in bundles]
    elif name in BY_BRANCH:
        branches = lowered.branches[named["launched"] : named["launched"] + launch.grid[1]]
    elif name == "gather_kernel":
        branches = lowered.branches[named["first"] : named["middle"]]
    yield from ((branch.kernel, branch.dilation) for branch in branches) if branches else [(1, 1)]


@lru_cache(maxsize=64)
def _bundles(lowered: Lowered, edges_a_program: int) -> list[tuple[int, int]]:
    table = tables_of(lowered, torch.device("cpu"), True, edges_a_program).bundles
    return [(int(first), int(number)) for first, number in table]
