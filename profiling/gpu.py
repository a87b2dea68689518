"""Are the kernels right on this GPU, and what do they gain? One command for the day when a GPU is there.

Compiles all kernels side by side, checks every one and stops if one is wrong. Then measures the device's own ceilings,
cells and whole supernets in every way to evaluate them, and memory against its prediction, and writes a page and the
raw numbers.

    python profiling/gpu.py --minutes 8
    python profiling/gpu.py --sections correctness,cells
    TRITON_INTERPRET=1 python profiling/gpu.py --device cpu --size tiny --sections correctness,ceilings,cells
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import tyro

from fastnas_kernels.check import require
from measuring import ceilings, correctness, memory, timing, warming
from measuring.cells import Scale
from measuring.device import Device, device_named, interpreter
from measuring.writing import Section, provenance, write


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
        sections: Which of warmup, correctness, ceilings, cells, supernets, memory, compile; with
            commas between them. Without warmup, kernels are compiled one after another where they are first needed.
        minutes: After these, nothing new is begun; what was skipped is said.
        runs: Timed runs of each contender.
        workers: Processes that compile kernels side by side before anything is measured.
        out: Folder of the page and the raw numbers.
    """

    device: str = "cuda"
    size: Scale = "full"
    sections: str = "warmup,correctness,ceilings,cells,supernets,memory,compile"
    minutes: float = 8.0
    runs: int = 20
    workers: int = 8
    out: Path = Path(__file__).parent / "results"


class Part(NamedTuple):
    """A section, and how many seconds have to be left for it to be worth beginning."""

    measure: Callable[[Device, Gpu, Budget], Section]
    seconds: float


PARTS: Mapping[str, Part] = {
    "warmup": Part(lambda d, s, budget: warming.warm(d, s.size, s.workers, budget.left() / 2), 60),
    "correctness": Part(lambda device, settings, _: correctness.check(device, settings.size), 0),
    "ceilings": Part(lambda device, settings, _: ceilings.measure(device, settings.size, settings.runs), 5),
    "cells": Part(lambda d, s, budget: timing.measure_cells(d, s.size, s.runs, budget.has), 15),
    "supernets": Part(lambda d, s, budget: timing.measure_supernets(d, s.size, s.runs, budget.has), 20),
    "memory": Part(lambda d, s, budget: memory.measure(d, s.size, budget.has), 10),
    "compile": Part(lambda d, s, budget: timing.measure_compiled(d, s.size, s.runs, budget.has), 60),
}
"""In the order in which they are worth a scarce minute."""


def main(settings: Gpu) -> int:
    """Run the sections; returns 1 if a check failed, else 0."""
    names = settings.sections.split(",")
    unknown = [name for name in names if name not in PARTS]
    require(not unknown, "gpu", f"sections must be among {', '.join(PARTS)}", ", ".join(unknown))
    require(settings.runs > 0, "gpu", "runs must be positive", settings.runs)
    require(settings.workers > 0, "gpu", "workers must be positive", settings.workers)
    device, budget = device_named(settings.device, "gpu"), Budget(monotonic() + 60 * settings.minutes)
    origin = provenance(device.properties())
    print("\n".join(f"{key}: {value}" for key, value in origin.items()), flush=True)
    sections: list[Section] = []
    raw: dict[str, object] = {"settings": dataclasses.asdict(settings) | {"out": settings.out.name}}
    for name in (name for name in PARTS if name in names):
        if not budget.has(PARTS[name].seconds):
            note = f"Skipped: {budget.left():.0f} s were left of {settings.minutes:g} minutes."
            section = Section(f"Not measured: {name}", notes=(note,))
        else:
            with interpreter():
                section = PARTS[name].measure(device, settings, budget)
        sections.append(section)
        raw[name] = list(section.records)
        print(f"\n{section}", flush=True)
        page = write(settings.out, origin, sections, raw)  # now, since nobody knows whether the next one ends
        if not section.ok:
            print(f"A check failed, so nothing more is measured. {page}")
            return 1
    print(f"{page}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Gpu)))
