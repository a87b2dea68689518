"""How well is the memory of a search step predicted, does every plan keep its budget, and what does recomputing cost?

Predictions run the step on tensors without memory; measurements run it on real ones and follow every storage.
`accuracy` compares both over many configurations, `draws` lets methods draw for themselves, `budgets` plans and
measures what was planned, `bytes` counts whole supernets, `rss` asks the operating system, `times` takes the seconds.
"""

import multiprocessing
import resource
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Literal, NamedTuple

import torch
import tyro

from fastnas.methods import METHODS
from fastnas.plan.budget import Budget, show_bytes
from fastnas.plan.described import described
from fastnas.plan.planner import plan
from fastnas.plan.predict import measure, peaks_of, predict
from fastnas.plan.subject import CPU, Subject, moments, real_scene
from fastnas.space.cell_space import space_named, with_depth
from fastnas.train.config import SearchConfig
from measuring.writing import Section, provenance

Part = Literal["accuracy", "draws", "budgets", "bytes", "rss", "times"]
ORIGINAL = 2.01e9
"""Bytes that the published DARTS supernet keeps for C=16, 8 cells, 16 images of 32x32: 119.9 MiB an image."""
SMALL = SearchConfig(channels=8, cells=3, epochs=6, batch_size=8, device="cpu")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How well is memory predicted?

    Args:
        parts: What to do.
        out: A Markdown file to write as well.
        recompute: The plan that `times` compares with keeping everything.
        repeats: Steps of each in `times`.
        first: Configurations of `accuracy` to take, from the first.
    """

    parts: tuple[Part, ...] = ("accuracy",)
    out: Path | None = None
    recompute: tuple[str, ...] = ("edges",)
    repeats: int = 5
    first: int | None = None


class Case(NamedTuple):
    """A configuration."""

    title: str
    subject: Subject


def case(method: str, space: str, data: str = "digits", side: int = 16, **changes: object) -> Case:
    """A configuration by its names."""
    made = METHODS[method]()
    if method == "parsec":
        few = replace(made.hypergradient, draws=2)  # type: ignore[type-var]
        made = replace(made, hypergradient=few, weight_average=few)  # type: ignore[arg-type]
    config = replace(SMALL, **changes)  # type: ignore[arg-type]
    if made.connection.k > 1:
        config = replace(config, channels=max(config.channels, 4 * made.connection.k))
    in_space = with_depth(space_named(space), config.cells)
    words = " ".join(config.recompute)
    title = f"{method}, {space}, C={config.channels}, {config.cells} cells, {config.batch_size}×{side}², "
    return Case(f"{title}{config.precision}, {words}", Subject(in_space, made, described(data, side), config))


def configurations() -> Iterator[Case]:
    """Methods, spaces, batches, resolutions, precisions and plans."""
    for method in METHODS:
        yield case(method, "nasbench201", cells=1, batch_size=16)
    for method in ("darts", "darts_2nd", "pc_darts", "gdas", "snas", "p_darts", "smooth_darts_adv", "nasp", "parsec"):
        yield case(method, "darts")
    for space in ("s1", "s2", "s3", "s4", "sharpdarts"):
        yield case("darts", space)
    for method in ("proxyless_nas", "darts", "gdas"):
        yield case(method, "proxyless", cells=1, side=32)
    for batch_size, side in ((4, 32), (16, 32), (64, 8), (2, 64), (32, 16)):
        yield case("darts", "darts", side=side, channels=16, batch_size=batch_size)
    yield case("pc_darts_imagenet", "darts", "imagenet", 224, channels=16, batch_size=2)
    yield case("proxyless_nas", "proxyless", "imagenet", 224, channels=16, cells=1, batch_size=2)
    for method, space in (("darts", "darts"), ("pc_darts", "darts"), ("gdas", "darts"), ("darts", "nasbench201")):
        yield case(method, space, precision="bfloat16", side=32)
    for words in (("edges",), ("cell",), ("none", "edges", "cell", "none"), ("cell", "joined", "joined", "none")):
        yield case("darts", "darts", side=32, channels=16, recompute=words)
        yield case("pc_darts", "darts", side=32, recompute=words)
    for words in (("edges",), ("cell",)):
        yield case("darts", "nasbench201", cells=2, side=32, recompute=words)
        yield case("proxyless_nas", "proxyless", cells=1, side=32, recompute=words)
    yield case("darts_2nd", "nasbench201", cells=1, recompute=("cell",))
    yield case("darts", "darts", side=32, precision="bfloat16", recompute=("edges",))


def accuracy(options: Options) -> Section:
    """Predicted and measured peaks of every configuration."""
    rows, errors = [], []
    for title, subject in list(configurations())[: options.first]:
        predicted, measured = predict(subject).peak.num_bytes, measure(subject).peak.num_bytes
        errors.append(abs(predicted / measured - 1))
        rows.append([title, f"{predicted / 1e6:.2f}", f"{measured / 1e6:.2f}", f"{errors[-1]:.4%}"])
        print(rows[-1], flush=True)
    worst, middle = max(errors), median(errors)
    note = f"{len(errors)} configurations: median error {middle:.4%}, largest {worst:.4%}. MB of the largest phase."
    columns = ("configuration", "predicted", "measured", "error")
    return Section("Is the peak what was predicted?", columns, rows, [note], ok=middle <= 0.03 and worst <= 0.1)


def draws(options: Options) -> Section:
    """Methods that draw candidates are predicted with the dearest ones: their own draws must need less."""
    rows, ok = [], True
    for method in ("gdas", "proxyless_nas", "parsec", "nasp"):
        for space in ("darts", "nasbench201"):
            title, subject = case(method, space, side=32)
            predicted = predict(subject).peak.num_bytes
            found = []
            for seed in range(5):
                scene = real_scene(subject.changed(seed=seed), moments(subject)[0])
                generator = torch.Generator().manual_seed(seed)
                for logits in scene.run.state.alpha.values():
                    logits.data.copy_(1e-3 * torch.randn(logits.shape, generator=generator))
                found.append(max(peak.num_bytes for peak in peaks_of(scene).values()))
            ok = ok and max(found) <= predicted
            rows.append([title, f"{predicted / 1e6:.2f}", f"{min(found) / 1e6:.2f} to {max(found) / 1e6:.2f}"])
    columns = ("configuration", "predicted", "five draws")
    return Section("Do methods that draw stay below?", columns, rows, ["MB, fresh logits."], ok=ok)


def budgets(options: Options) -> Section:
    """Plans for shares of what keeping everything needs, and what they then need."""
    rows, ok = [], True
    cases = [
        (case("darts", "darts", side=32), (0.5, 0.2)),
        (case("pc_darts", "darts", side=32), (0.4,)),
        (case("darts", "nasbench201", cells=1, side=32), (0.5,)),
        (case("proxyless_nas", "proxyless", cells=1, side=32), (0.8,)),
    ]
    for (title, subject), shares in cases:
        everything = predict(subject).peak.num_bytes
        for share in shares:
            size = int(share * everything)
            budget = Budget(f"{size / 1e6:.1f} MB", size, size)
            found = plan(
                subject.space, subject.method, subject.data, subject.config,
                budget=budget, timed=False, neighbours=False,
            )  # fmt: skip
            row = [title, f"{everything / 1e6:.1f}", f"{size / 1e6:.1f}"]
            if found.chosen is None:
                row += ["nothing fits", ""]
            else:
                measured = measure(replace(subject, config=found.config)).peak.num_bytes
                ok = ok and measured <= size
                row += [" ".join(found.config.recompute), f"{measured / 1e6:.1f}"]
            rows.append(row)
            print(row, flush=True)
    columns = ("configuration", "everything kept", "budget", "plan", "measured")
    return Section("Does every plan keep its budget?", columns, rows, ["MB."], ok=ok)


def whole_supernets() -> Iterator[Case]:
    """The published searches."""
    yield case("darts", "darts", "cifar10", 32, channels=16, cells=8, batch_size=16)
    yield case("darts", "darts", "cifar10", 32, channels=16, cells=8, batch_size=64)
    yield case("pc_darts_imagenet", "darts", "imagenet", 224, channels=16, cells=8, batch_size=128)
    yield case("proxyless_nas", "proxyless", "imagenet", 224, channels=16, cells=4, batch_size=256)


def count_bytes(options: Options) -> Section:
    """Peaks of whole supernets, predicted."""
    rows = []
    for title, subject in whole_supernets():
        row = [title.rpartition(",")[0]]
        for words in ("none", "edges"):
            prediction = predict(subject.changed(recompute=(words,)))
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


def rss(options: Options) -> Section:
    """The peak of resident memory in a fresh process, beyond what it had before the step."""
    rows = []
    for number, (title, _) in enumerate(_resident_cases()):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            tracked, resident = pool.apply(_resident, (number,))
        rows.append([title, f"{tracked / 1e6:.0f}", f"{resident / 1e6:.0f}", f"{resident / tracked:.2f}"])
        print(rows[-1], flush=True)
    note = (
        "MB beyond what was there before the step. The difference is what operations hold inside themselves, and what "
        "the allocator of the C library does not give back."
    )
    columns = ("configuration", "predicted", "resident", "ratio")
    return Section("What does the operating system say?", columns, rows, [note])


def _resident(number: int) -> tuple[int, int]:
    torch.set_num_threads(1)
    small = case("darts", "nasbench201", cells=1, batch_size=2).subject
    for phase in real_scene(small, moments(small)[0]).phases().values():
        phase()  # loads libraries and makes tables, which are no part of a step
    subject = _resident_cases()[number].subject
    scene = real_scene(subject, moments(subject)[0])
    given = sum(t.untyped_storage().nbytes() for tensors in scene.given.values() for t in tensors)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    for phase in scene.phases().values():
        phase()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return predict(subject).peak.num_bytes - given, after - before


def times(options: Options) -> Section:
    """Steps of the published DARTS supernet: everything kept, and the plan, in turn."""
    _, kept = next(whole_supernets())
    planned = kept.changed(recompute=options.recompute)
    rows = []
    scenes = [real_scene(subject, moments(subject)[0], CPU) for subject in (kept, planned)]
    peaks = [max(peak.num_bytes for peak in peaks_of(scene).values()) for scene in scenes]  # and warm
    taken: list[list[tuple[float, float]]] = [[], []]
    for _ in range(options.repeats):
        for scene, of_scene in zip(scenes, taken, strict=True):
            started = process_time(), perf_counter()
            for phase in scene.phases().values():
                phase()
            of_scene.append((process_time() - started[0], perf_counter() - started[1]))
    middles = [[median(clock) for clock in zip(*of_scene, strict=True)] for of_scene in taken]
    for title, peak, middle in zip(("everything kept", " ".join(options.recompute)), peaks, middles, strict=True):
        row = [title, f"{peak / 1e6:.0f}", f"{peak / ORIGINAL:.3f}"]
        for mine, first in zip(middle, middles[0], strict=True):
            row += [f"{mine:.2f}", f"{mine / first:.2f}"]
        rows.append(row)
    notes = [
        f"DARTS, C=16, 8 cells, 16 images of 32×32, alpha step and weight step; medians of {options.repeats} steps in "
        "turn, one thread. Share: of the 2.01 GB that the published code keeps. Other work shared the machine: read "
        "the CPU seconds."
    ]
    ok = peaks[1] <= ORIGINAL / 10 and middles[1][0] <= 1.35 * middles[0][0]
    columns = ("plan", "peak MB", "share", "CPU s a step", "ratio", "wall s", "ratio")
    return Section("A tenth of the bytes?", columns, rows, notes, ok=ok)


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
    about = "\n".join(f"{key}: {value}" for key, value in provenance({"device": _processor()}).items())
    text = "\n".join([*map(str, sections), f"```\n{about}\n```\n"])
    print(text)
    if options.out is not None:
        options.out.write_text(text)
    return 0 if all(section.ok for section in sections) else 1


def _processor() -> str:
    lines: Sequence[str] = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout.splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model name")), "unknown")


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
