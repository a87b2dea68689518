"""Are the kernels right on this GPU, and what do they gain? One command for the day when a GPU is there.

Needs torch, Triton, NumPy and the standard library, no installation and no network. In the order of risk and worth: a
few kernels with poisoned outputs, the compilation of all, every kernel against its definition, the device's own
ceilings, cells, whole supernets, and memory. It stops if a kernel is wrong. Each part has its own limit. The page and
the raw numbers are written again after every part, so that a kill at any moment leaves what was measured.

    python3 profiling/gpu.py --out FOLDER
    python3 profiling/gpu.py --out FOLDER --sections first --minutes 3
    TRITON_INTERPRET=1 python3 profiling/gpu.py --device cpu --size tiny --sections first,correctness --out FOLDER
"""

import dataclasses
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from measuring.absent import stand_in

MISSING = stand_in()  # before the library is imported, which names packages that nothing here calls

from fastnas_kernels.check import invalid  # noqa: E402
from measuring.cells import Scale  # noqa: E402
from measuring.device import FAULTS, Device, device_named, interpreter  # noqa: E402
from measuring.options import parsed  # noqa: E402
from measuring.writing import Section, provenance, write  # noqa: E402


@dataclass(frozen=True)
class Budget:
    """Time until which new work is begun.

    Args:
        ends: In seconds of ``monotonic()``.
    """

    ends: float

    def left(self) -> float:
        """Seconds until the end; negative afterwards."""
        return self.ends - monotonic()

    def has(self, seconds: float = 0.0) -> bool:
        """Whether work of that length may begin."""
        return self.left() > seconds


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Correctness, ceilings, times and memory of the kernels on a GPU.

    Args:
        device: cuda, cuda:<n>, or cpu, which tries the script in Triton's interpreter and measures nothing.
        size: full, or tiny: a smoke test of everything.
        sections: Which of first, warmup, correctness, ceilings, cells, supernets, memory, compile; with
            commas between them. Without warmup, kernels are compiled one after another where they are first needed.
        minutes: After these, nothing new is begun; what was skipped is said.
        runs: Timed runs of each contender.
        workers: Processes that compile kernels side by side before anything is measured.
        out: Folder of the page and the raw numbers.
    """

    device: str = "cuda"
    size: Scale = "full"
    sections: str = "first,warmup,correctness,ceilings,cells,supernets,memory,compile"
    minutes: float = 8.0
    runs: int = 20
    workers: int = 8
    out: Path = Path(__file__).parent / "results"


class Part(NamedTuple):
    """A section.

    Args:
        measure: Makes it.
        needed: Seconds that have to be left for it to be worth beginning.
        limit: Seconds after which it begins nothing new.
    """

    measure: Callable[[Device, Gpu, Budget], Section]
    needed: float
    limit: float


def _module(name: str) -> object:
    """Imported when its part begins, so that what one part cannot import does not end the others."""
    return importlib.import_module(f"measuring.{name}")


PARTS: Mapping[str, Part] = {
    "first": Part(lambda d, s, _: _module("first").check(d, s.size, Path(__file__)), 0, 180),  # type: ignore[attr-defined]
    "warmup": Part(lambda d, s, b: _module("warming").warm(d, s.size, s.workers, b.left()), 60, 240),  # type: ignore[attr-defined]
    "correctness": Part(lambda d, s, _: _module("correctness").check(d, s.size), 0, 240),  # type: ignore[attr-defined]
    "ceilings": Part(lambda d, s, _: _module("ceilings").measure(d, s.size, s.runs), 5, 30),  # type: ignore[attr-defined]
    "cells": Part(lambda d, s, b: _module("timing").measure_cells(d, s.size, s.runs, b.has), 15, 120),  # type: ignore[attr-defined]
    "supernets": Part(lambda d, s, b: _module("timing").measure_supernets(d, s.size, s.runs, b.has), 20, 120),  # type: ignore[attr-defined]
    "memory": Part(lambda d, s, b: _module("memory").measure(d, s.size, b.has), 10, 60),  # type: ignore[attr-defined]
    "compile": Part(lambda d, s, b: _module("timing").measure_compiled(d, s.size, s.runs, b.has), 60, 240),  # type: ignore[attr-defined]
}
"""In the order of what may go wrong, and of what is worth a scarce minute."""


def main(settings: Gpu) -> int:
    """Run the sections; returns 1 if a check failed, else 0."""
    names = settings.sections.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise invalid("gpu", f"sections must be among {', '.join(PARTS)}", ", ".join(unknown))
    if settings.runs <= 0:
        raise invalid("gpu", "runs must be positive", settings.runs)
    if settings.workers <= 0:
        raise invalid("gpu", "workers must be positive", settings.workers)
    device, budget = device_named(settings.device, "gpu"), Budget(monotonic() + 60 * settings.minutes)
    origin = provenance(device.properties())
    if MISSING:
        origin["not installed"] = ", ".join(MISSING)
    print("\n".join(f"{key}: {value}" for key, value in origin.items()), flush=True)
    sections: list[Section] = []
    raw: dict[str, object] = {"settings": dataclasses.asdict(settings) | {"out": settings.out.name}}
    write(settings.out, origin, sections, raw)
    for name in (name for name in PARTS if name in names):
        section = _measured(name, device, settings, budget)
        sections.append(section)
        raw[name] = list(section.records)
        print(f"\n{section}", flush=True)
        page = write(settings.out, origin, sections, raw)  # now, since nobody knows whether the next one ends
        if not section.ok:
            print(f"A check failed, so nothing more is measured. {page}")
            return 1
    print(settings.out)
    return 0


def _measured(name: str, device: Device, settings: Gpu, budget: Budget) -> Section:
    part, title = PARTS[name], f"Not measured: {name}"
    if not budget.has(part.needed):
        return Section(title, notes=(f"Skipped: {budget.left():.0f} s were left of {settings.minutes:g} minutes.",))
    own = Budget(min(budget.ends, monotonic() + part.limit))
    try:
        with interpreter():
            return part.measure(device, settings, own)
    except (ImportError, *FAULTS) as fault:  # the parts after it do not depend on it
        return Section(title, notes=(f"{type(fault).__name__}: {fault}",), ok=name not in ("first", "correctness"))


if __name__ == "__main__":
    sys.exit(main(parsed(Gpu, sys.argv[1:], __doc__)))
