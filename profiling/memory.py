"""How well is the memory of a search step predicted, does every plan keep its budget, and what does recomputing cost?

Predictions run the step on tensors without memory; measurements run it on real ones and follow every storage, or on a
GPU ask its allocator. `accuracy` compares both over many configurations (`memory_random.py` over drawn ones), `draws`
lets methods draw for themselves,
`budgets` plans and measures what was planned, `bytes` counts whole supernets, `rss` asks the operating system, `times`
takes the seconds of one search under several plans, with the cells that FASTNAS_BACKEND names.
"""

import multiprocessing
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Literal

import torch
import tyro
from pydantic import ByteSize, TypeAdapter

from fastnas.memory.budget import Budget, show_bytes
from fastnas.memory.planner import plan
from fastnas.memory.prediction import measure_peaks, predict
from fastnas.memory.scene import CPU, build_scene, list_moments
from fastnas.ranks import torch_device
from fastnas_kernels.backend import backend_for, forced_backend
from measuring.memory_cases import GPU_BLOCK, Case, case, compared, configurations, resident, whole_supernets
from measuring.writing import Section, provenance

Part = Literal["accuracy", "draws", "budgets", "bytes", "rss", "times"]
ORIGINAL = 119.9 * 2**20
"""Bytes an image that the published DARTS supernet keeps for C=16, 8 cells, 32x32: 2.01 GB for 16 images."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How well is memory predicted?

    Args:
        parts: What to do.
        out: A Markdown file to write as well.
        device: Where `accuracy` and `budgets` measure: auto takes a GPU if there is one.
        first: Configurations of `accuracy` to take, from the first.
        plans: What `times` compares with keeping everything; the words of a plan are parted by commas.
        budget: `times` also takes what the planner chooses for it, as 201MB.
        repeats: Steps of each plan in `times`.
        method: Of the search in `times`.
        space: Its space.
        data: Its data set, which need not be there.
        side: Of its images in pixels.
        channels: Of its first cells.
        cells: Its depth.
        batch_size: Images of each of its phases.
    """

    parts: tuple[Part, ...] = ("accuracy",)
    out: Path | None = None
    device: str = "auto"
    first: int | None = None
    plans: tuple[str, ...] = ("edges",)
    budget: str | None = None
    repeats: int = 5
    method: str = "darts"
    space: str = "darts"
    data: str = "cifar10"
    side: int = 32
    channels: int = 16
    cells: int = 8
    batch_size: int = 16


def accuracy(options: Options) -> Section:
    """Predicted and measured peaks of every configuration."""
    device, rows, errors = torch_device(options.device), [], []
    for title, setup in list(configurations())[: options.first]:
        predicted, measured = compared(setup, device)
        errors.append(predicted / measured - 1)
        rows.append([title, f"{predicted / 1e6:.2f}", f"{measured / 1e6:.2f}", f"{errors[-1]:+.4%}"])
        print(rows[-1], flush=True)
    sizes = [abs(error) for error in errors]
    worst, middle, below = max(sizes), median(sizes), sum(error < 0 for error in errors)
    notes = [f"{len(errors)} configurations: median error {middle:.4%}, largest {worst:.4%}. MB of the largest phase."]
    if device.type != "cpu":
        notes.append(
            f"Measured by the allocator, cuDNN's workspaces among it; of the kernels' an upper bound is predicted. "
            f"{below} predictions were too low."
        )
    columns = ("configuration", "predicted", "measured", "error")
    return Section("Is the peak what was predicted?", columns, rows, notes, ok=middle <= 0.03 and worst <= 0.1)


def draws(options: Options) -> Section:
    """Methods that draw candidates are predicted with the dearest ones: their own draws must need less."""
    rows, ok = [], True
    for method in ("gdas", "proxyless_nas", "parsec", "nasp"):
        for space in ("darts", "nasbench201"):
            title, setup = case(method, space, side=32)
            predicted = predict(setup).peak.num_bytes
            found = []
            for seed in range(5):
                scene = build_scene(setup.changed(seed=seed), list_moments(setup)[0])
                generator = torch.Generator().manual_seed(seed)
                for logits in scene.run.state.alpha.values():
                    logits.data.copy_(1e-3 * torch.randn(logits.shape, generator=generator))
                found.append(max(peak.num_bytes for peak in measure_peaks(scene).values()))
            ok = ok and max(found) <= predicted
            rows.append([title, f"{predicted / 1e6:.2f}", f"{min(found) / 1e6:.2f} to {max(found) / 1e6:.2f}"])
    columns = ("configuration", "predicted", "five draws")
    return Section("Do methods that draw stay below?", columns, rows, ["MB, fresh logits."], ok=ok)


def budgets(options: Options) -> Section:
    """Plans for shares of what keeping everything needs, and what they then need."""
    device, rows, exceeded = torch_device(options.device), [], 0
    cases = [
        (case("darts", "darts", side=32), (0.5, 0.2)),
        (case("pc_darts", "darts", side=32), (0.4,)),
        (case("darts", "nasbench201", cells=1, side=32), (0.5,)),
        (case("proxyless_nas", "proxyless", cells=1, side=32), (0.8,)),
    ]
    for (title, setup), shares in cases:
        everything = predict(setup, 1 if device.type == "cpu" else GPU_BLOCK).peak.num_bytes
        for share in shares:
            size = int(share * everything)
            budget = Budget(f"{size / 1e6:.1f} MB", size, size, "cpu" if device.type == "cpu" else "cuda")
            found = plan(
                setup.space, setup.method, setup.data, setup.config,
                budget=budget, timed=False, neighbours=False,
            )  # fmt: skip
            row = [title, f"{everything / 1e6:.1f}", f"{size / 1e6:.1f}"]
            if found.chosen is None:
                row += ["nothing fits", ""]
            else:
                measured = compared(replace(setup, config=found.config), device).measured
                exceeded += measured > size
                row += [" ".join(found.config.recompute), f"{measured / 1e6:.1f}"]
            rows.append(row)
            print(row, flush=True)
    columns = ("configuration", "everything kept", "budget", "plan", "measured")
    notes = [f"MB; {exceeded} budgets exceeded."]
    return Section("Does every plan keep its budget?", columns, rows, notes, ok=exceeded == 0)


def count_bytes(options: Options) -> Section:
    """Peaks of whole supernets, predicted."""
    rows = []
    for title, setup in whole_supernets():
        row = [title.rpartition(",")[0]]
        for words in ("none", "edges"):
            prediction = predict(setup.changed(recompute=(words,)))
            row.append(", ".join(f"{name} {show_bytes(p.num_bytes)}" for name, p in prediction.phases.items()))
        rows.append(row)
        print(row, flush=True)
    columns = ("search", "everything kept", "edge by edge")
    return Section("What do whole supernets need?", columns, rows, ["Predicted peaks, weights and all."])


def _resident_cases() -> list[Case]:
    return [
        case("darts", "darts", side=32, channels=16, cells=8, batch_size=16),
        case("darts", "darts", side=32, channels=16, cells=8, batch_size=16, recompute=("edges",)),
        case("darts_2nd", "nasbench201", cells=2, side=32, batch_size=32),
        case("pc_darts_imagenet", "darts", "imagenet", 224, channels=16, cells=8, batch_size=4),
    ]


def _resident_case(number: int) -> Case:
    return _resident_cases()[number]


def rss(options: Options) -> Section:
    """The peak of resident memory in a fresh process, beyond what it had before the step."""
    rows = []
    for number, (title, setup) in enumerate(_resident_cases()):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found, given = pool.apply(resident, (_resident_case, number))
        tracked = predict(setup).peak.num_bytes - given
        rows.append([title, f"{tracked / 1e6:.0f}", f"{found / 1e6:.0f}", f"{found / tracked:.2f}"])
        print(rows[-1], flush=True)
    note = (
        "MB beyond what was there before the step. The difference is what operations hold inside themselves, and what "
        "the allocator of the C library does not give back."
    )
    columns = ("configuration", "predicted", "resident", "ratio")
    return Section("What does the operating system say?", columns, rows, [note])


def times(options: Options) -> Section:
    """Steps of one search, everything kept and under each plan, in turn."""
    title, kept = case(
        options.method, options.space, options.data, options.side,
        channels=options.channels, cells=options.cells, batch_size=options.batch_size,
    )  # fmt: skip
    plans = [("none",), *(tuple(words.split(",")) for words in options.plans)]
    if options.budget is not None:
        size = int(TypeAdapter(ByteSize).validate_python(options.budget))
        budget = Budget(options.budget, size, size)
        found = plan(kept.space, kept.method, kept.data, kept.config, budget=budget, neighbours=False)
        plans.append(found.config.recompute)
    scenes = [build_scene(kept.changed(recompute=words), list_moments(kept)[0], CPU) for words in plans]
    peaks = [max(peak.num_bytes for peak in measure_peaks(scene).values()) for scene in scenes]  # and warm
    taken: list[list[tuple[float, float]]] = [[] for _ in scenes]
    for _ in range(options.repeats):
        for scene, of_scene in zip(scenes, taken, strict=True):
            started = process_time(), perf_counter()
            for phase in scene.phases().values():
                phase()
            of_scene.append((process_time() - started[0], perf_counter() - started[1]))
    middles = [[median(clock) for clock in zip(*of_scene, strict=True)] for of_scene in taken]
    rows = []
    for words, peak, middle in zip(plans, peaks, middles, strict=True):
        row = [" ".join(words), f"{peak / 1e6:.0f}", f"{peak / peaks[0]:.3f}"]
        for mine, first in zip(middle, middles[0], strict=True):
            row += [f"{mine:.2f}", f"{mine / first:.2f}"]
        rows.append(row)
        print(row, flush=True)
    served = "in plain PyTorch" if backend_for(CPU) == "reference" else "compiled, where they are of the DARTS spaces"
    notes = [f"Cells {served}. All phases of a step; medians of {options.repeats} steps in turn, one thread."]
    original, ok = ORIGINAL * options.batch_size, True
    if (options.method, options.space, options.side, options.channels, options.cells) == ("darts", "darts", 32, 16, 8):
        notes.append(f"The published code keeps {original / 1e6:,.0f} MB for the backward pass: a tenth is the target.")
        fits = [middle[0] for peak, middle in zip(peaks, middles, strict=True) if peak <= original / 10]
        ok = min(fits, default=float("inf")) <= 1.35 * middles[0][0]
    columns = ("plan", "peak MB", "ratio", "CPU s a step", "ratio", "wall s", "ratio")
    return Section(f"What does recomputing cost? {title.rpartition(',')[0]}", columns, rows, notes, ok=ok)


PARTS: dict[Part, Callable[[Options], Section]] = {
    "accuracy": accuracy,
    "draws": draws,
    "budgets": budgets,
    "bytes": count_bytes,
    "rss": rss,
    "times": times,
}


def main(options: Options) -> int:
    """Run the parts; the exit status says whether all that was promised holds."""
    torch.set_num_threads(1)
    sections = [PARTS[part](options) for part in options.parts]
    about = "\n".join(f"{key}: {value}" for key, value in _origin(options).items())
    text = "\n".join([*map(str, sections), f"```\n{about}\n```\n"])
    print(text)
    if options.out is not None:
        options.out.write_text(text)
    return 0 if all(section.ok for section in sections) else 1


def _origin(options: Options) -> dict[str, str]:
    device = torch_device(options.device)
    gpu = {} if device.type == "cpu" else {"GPU": torch.cuda.get_device_name(device)}
    forced = {} if forced_backend() is None else {"FASTNAS_BACKEND": str(forced_backend())}
    return provenance({"device": _processor(), **gpu, **forced})


def _processor() -> str:
    lines: Sequence[str] = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout.splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model name")), "unknown")


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
