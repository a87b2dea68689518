"""How good is what a search finds in a given CPU time, next to random search with successive halving?

Real images in the NAS-Bench-201 space, whose table knows the accuracy of every architecture. One line of results for
each protocol, seed and budget, appended as it arrives: run it again to go on. A budget is CPU minutes on one thread,
turned into steps by what steps take here (--speeds keeps that, so that a part that runs beside something else does
the same work). Protocols:

    default       what `fastnas search --minutes` does: single_darts, as many searches as have 2,000 steps, derived from
                  their coefficients averaged over the last half of the epochs
    one_search    the same time in one search
    last_epoch    single_darts, derived from the coefficients of its last epoch
    fast_rate     the default with alpha's rate of one search, 0.03, in several searches, too
    paper_rate    the default with alpha's rate of the published searches, 3e-4, in one search, too
    METHOD        the same with a method of the library in single_darts' place
    ladder        single_darts, then the ladder of evaluation
    no_halving    the ladder's proposals, the best by the supernet alone
    uniform       a supernet of uniform single paths, and the best by it of the architectures behind its tau
    halving       random architectures, successive halving, no search: the opponent
    random        an architecture drawn uniformly

Settings are chosen on the validation column and seeds from 100 on. What is reported has seeds from 0 on, and the test
column is read by --report alone.
"""

import csv
import gzip
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from time import process_time
from typing import Any

import numpy as np
import torch
import tyro
from scipy.stats import kendalltau

from fastnas.data import DataConfig, ImageData, load_data
from fastnas.data.images import ImageSet, Items
from fastnas.data.transforms import evaluation_transform, training_transform
from fastnas.engine import SearchResult, search
from fastnas.engine.budget import StepTimes, fit_minutes, fit_searches, time_steps
from fastnas.engine.run import PUBLISHED_ALPHA_LR, search_halves
from fastnas.errors import invalid
from fastnas.experiment.experiment import SEEDS_APART
from fastnas.files import append_json_line, read_json, read_json_lines, write_json
from fastnas.methods import METHODS
from fastnas.selection import LadderConfig, climb, derive_from_average, select
from fastnas.selection.evaluation import HeldOut, ShortTraining
from fastnas.selection.proposals import Proposal
from fastnas.spaces import NASBENCH201, Genotype, genotype_to_text, random_genotype
from fastnas.supernet.mix import select_path
from fastnas.training.config import RetrainConfig, SearchConfig
from measuring.regret import plot_methods, plot_regret, print_bounds, print_report, reported

VALIDATION, TEST = "cifar10_valid_accuracy", "cifar10_test_accuracy"
CPU = torch.device("cpu")
OF_LADDER = 0.4  # of the default protocol's time
METHOD = "single_darts"
TRAINING = RetrainConfig(channels=8, cells=1, batch_size=64, lr=0.1, nesterov=True, weight_decay=5e-4)
SEARCH = SearchConfig(
    channels=8, cells=1, batch_size=64, weight_lr=0.05, nesterov=True, weight_decay=5e-4, device="cpu"
)
RANKED = 48  # architectures behind a tau
SEARCHES: dict[tuple[Any, ...], tuple[SearchResult, SearchConfig, float]] = {}  # made by this process
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What to measure.

    Args:
        protocols: Which.
        minutes: CPU minutes of each run.
        seeds: Of each protocol.
        data: An image folder, ``folder:ROOT``, or another source of 32-pixel images.
        resolution: To which images are averaged down.
        table: CSV of accuracies.
        results: File of JSON lines.
        speeds: Seconds of steps, measured if the file is not there.
        report: Print the table of the results, by the test column, and measure nothing.
        plot: File of the plot of regret against minutes, beside --report; FILE-methods has one of each method.
    """

    protocols: tuple[str, ...] = ("default", "halving")
    minutes: tuple[float, ...] = (5.0,)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    data: str = "folder:data/cifar10"
    resolution: int = 16
    table: Path = Path("nasbench201.csv.gz")
    results: Path = Path("profiling/results/quality.jsonl")
    speeds: Path = Path("profiling/results/quality-speeds.json")
    report: bool = False
    plot: Path | None = None


def main(options: Quality) -> None:
    """Measure what is not yet there, or report what is."""
    torch.set_num_threads(1)
    if options.report:
        records, test = read_json_lines(options.results), read_table(options.table, TEST)
        of_step: Any = read_json(options.speeds).get("training step") if options.speeds.exists() else None
        bounds = {} if of_step is None else find_bounds(records, test, of_step)
        print_report(records, test)
        print_bounds(records, test, bounds)
        if options.plot is not None:
            plot_regret(records, test, bounds, options.plot)
            plot_methods(records, test, options.plot.with_stem(f"{options.plot.stem}-methods"))
        return
    unknown = [name for name in options.protocols if name not in PROTOCOLS and name not in METHODS]
    if unknown:
        raise invalid("quality", f"protocols must be {', '.join(PROTOCOLS)} or a method", unknown[0])
    data, known = in_memory(options.data, options.resolution), read_table(options.table, VALIDATION)
    done = {(one["protocol"], one["minutes"], one["seed"]) for one in read_json_lines(options.results)}
    for seed in options.seeds:
        for minutes in options.minutes:
            for protocol in options.protocols:
                if (protocol, minutes, seed) in done:
                    continue
                started = process_time()
                found = run_protocol(protocol, minutes, seed, data, options.speeds, known)
                record = {"protocol": protocol, "minutes": minutes, "seed": seed, **found}
                record["cpu_seconds"] = process_time() - started + record.pop("reused_seconds", 0.0)
                record["validation"] = known[record["genotype"]]
                append_json_line(options.results, record)
                print(f"{protocol} {minutes:g} min, seed {seed}: {record['validation']:.2f} %", file=sys.stderr)


def in_memory(source: str, resolution: int) -> ImageData:
    """The images of ``source``, decoded and averaged down once, since a CPU that decodes in every step does little
    else."""
    data = load_data(source, DataConfig())
    side = min(data.resolution)
    if side % resolution:
        raise invalid("quality", f"resolution must divide {side}", resolution)
    factor = side // resolution

    def decode(images: ImageSet) -> ImageSet:
        pixels = torch.stack([data.eval_transform(images.image(i)) for i in range(len(images.labels))]).float()
        small = torch.nn.functional.avg_pool2d(pixels, factor).round().to(torch.uint8)
        return ImageSet(images.labels, Items(small.numpy()))

    size = resolution, resolution
    return replace(
        data,
        train=decode(data.train),
        test=decode(data.test),
        resolution=size,
        train_transform=training_transform(size, data.channels, "squeeze", False, "flip-crop"),
        eval_transform=evaluation_transform(size, data.channels, "squeeze", False),
        large=False,
    )


def read_table(path: Path, column: str) -> dict[str, float]:
    """One column of the table, by architecture."""
    with gzip.open(path, "rt") as file:
        return {row["architecture"]: float(row[column]) for row in csv.DictReader(file)}


# ---- what steps take --------------------------------------------------------------------------------------------
def speed(path: Path, name: str, measure: Any) -> Any:
    """What ``path`` knows of ``name``, or what ``measure`` returns, which is written there."""
    known: Any = read_json(path) if path.exists() else {}
    if name not in known:
        known[name] = measure()
        write_json(path, known)
    return known[name]


def times_of(method: str, data: ImageData, path: Path) -> StepTimes:
    """Seconds of the steps of a method."""

    def measure() -> Record:
        times = time_steps(NASBENCH201, METHODS[method](), data, SEARCH, process_time)
        return {"weight": times.weight, "alpha": times.alpha, "evaluation": times.evaluation}

    return StepTimes(**speed(path, method, measure))


def training_step(data: ImageData, path: Path) -> float:
    """Mean seconds of a training step of random architectures."""

    def measure() -> float:
        indices, seconds = np.arange(len(data.train.labels)), []
        for seed in range(1000, 1006):
            genotype = random_genotype(NASBENCH201, seed)
            training = ShortTraining(genotype, data, indices, TRAINING, SEARCH, CPU, NASBENCH201)
            training.train_to(1)
            started = process_time()
            training.train_to(9)
            seconds.append((process_time() - started) / 8)
        return mean(seconds)

    return speed(path, "training step", measure)


def most_entrants(seconds: float, ladder: LadderConfig, of_step: float) -> LadderConfig:
    """``ladder`` with as many entrants as fit."""
    entrants = 1
    while replace(ladder, entrants=entrants + 1).total_steps * of_step <= seconds:
        entrants += 1
    return replace(ladder, entrants=entrants)


def draw_entrants(count: int, seed: int) -> list[Genotype]:
    """The architectures that random search with halving begins with."""
    drawn = dict[Genotype, None]()
    for number in range(100 * count):
        if len(drawn) < count:
            drawn[random_genotype(NASBENCH201, seed * 1_000_003 + number)] = None
    return list(drawn)


# ---- protocols --------------------------------------------------------------------------------------------------
def run_protocol(
    protocol: str, minutes: float, seed: int, data: ImageData, speeds: Path, known: Mapping[str, float]
) -> Record:
    """What a protocol finds in its minutes."""
    run = PROTOCOLS.get(protocol, partial(_default, method_name=protocol))
    return run(minutes, seed, data, speeds, known)


def _search(
    method: str,
    minutes: float,
    seed: int,
    data: ImageData,
    speeds: Path,
    number: int = 0,
    alpha_lr: float | None = None,
) -> tuple[SearchResult, SearchConfig, float]:
    """What a search finds, its settings, and the CPU seconds that it took before, for another budget: budgets that are
    divided into searches of the same minutes share them."""
    key = method, minutes, seed, number, alpha_lr
    reused = key in SEARCHES
    if not reused:
        started = process_time()
        config = replace(SEARCH, minutes=minutes, seed=seed + SEEDS_APART * number, alpha_lr=alpha_lr)
        config = fit_minutes(times_of(method, data, speeds), METHODS[method](), data, config)
        SEARCHES[key] = search(NASBENCH201, METHODS[method](), data, config), config, process_time() - started
    found, config, seconds = SEARCHES[key]
    return found, config, seconds if reused else 0.0


def _last_epoch(minutes: float, seed: int, data: ImageData, speeds: Path, known: Mapping[str, float]) -> Record:
    found, config, reused = _search(METHOD, minutes, seed, data, speeds)
    record = _of_search(found, config, data, known)
    return {"genotype": genotype_to_text(found.genotype), "reused_seconds": reused, **record}


def _of_search(found: SearchResult, config: SearchConfig, data: ImageData, known: Mapping[str, float]) -> Record:
    """Steps, the genotypes on the way, and Kendall's tau of paths through the supernet with the validation column."""
    held_out = HeldOut(data, search_halves(data, config).alpha, 1024, config, CPU)
    genotypes = [random_genotype(NASBENCH201, 10_000 + i) for i in range(RANKED)]
    paths = [select_path(NASBENCH201, one, found.history[-1]["edge_mix"], CPU) for one in genotypes]
    losses = [held_out.measure(found.supernet, path).loss for path in paths]
    tau = kendalltau([-loss for loss in losses], [known[genotype_to_text(one)] for one in genotypes])[0]
    return {
        "best_path": genotype_to_text(genotypes[int(np.argmin(losses))]),
        "steps": found.history[-1]["step"],
        "argmax": genotype_to_text(found.genotype),
        "epochs": [record["genotype"] for record in found.history],
        "entropy": [record["entropy"]["normal"] for record in found.history],
        "tau": float(tau),  # type: ignore[arg-type]
    }


def _default(
    minutes: float,
    seed: int,
    data: ImageData,
    speeds: Path,
    known: Mapping[str, float],
    method_name: str = METHOD,
    searches: int | None = None,
    alpha_lr: float | None = None,
) -> Record:
    method = METHODS[method_name]()
    whole = replace(SEARCH, minutes=minutes, seed=seed)
    searches = searches or fit_searches(times_of(method_name, data, speeds), method, data, whole)
    if alpha_lr is None and searches > 1:
        alpha_lr = method.alpha_lr_of_several
    of_each = minutes / searches
    done = [_search(method_name, of_each, seed, data, speeds, number, alpha_lr) for number in range(searches)]
    genotype = derive_from_average(NASBENCH201, method, *(found.history for found, _, _ in done))
    alone = [genotype_to_text(derive_from_average(NASBENCH201, method, found.history)) for found, _, _ in done]
    first, config, _ = done[0]
    reused_seconds = sum(reused for _, _, reused in done)
    record = {"genotype": genotype_to_text(genotype), "alone": alone, "reused_seconds": reused_seconds}
    return {**record, **_of_search(first, config, data, known)}


def _ladder(
    minutes: float, seed: int, data: ImageData, speeds: Path, known: Mapping[str, float], **changes: Any
) -> Record:
    found, config, reused = _search(METHOD, (1 - OF_LADDER) * minutes, seed, data, speeds)
    of_step, seconds = training_step(data, speeds), 60 * OF_LADDER * minutes
    ladder = LadderConfig(proposals=64, images=1024)
    scoring = ladder.proposals * ladder.images / config.batch_size * of_step / 3
    ladder = replace(most_entrants(seconds - scoring, ladder, of_step), **changes)
    chosen = select(found, NASBENCH201, METHODS[METHOD](), data, config, TRAINING, ladder)
    rungs = [[one.rung, one.genotype, one.origin, one.steps, one.loss] for one in chosen.rungs]
    text = genotype_to_text(chosen.genotype)
    record = {"genotype": text, "origin": chosen.origin, "rungs": rungs, "reused_seconds": reused}
    return {**record, **_of_search(found, config, data, known)}


def _no_halving(minutes: float, seed: int, data: ImageData, speeds: Path, known: Mapping[str, float]) -> Record:
    record = _ladder(minutes, seed, data, speeds, known, entrants=1)
    scored = [rung for rung in record["rungs"] if rung[0] == 0]
    return {**record, "genotype": min(scored, key=lambda rung: rung[-1])[1]}


def _uniform(minutes: float, seed: int, data: ImageData, speeds: Path, known: Mapping[str, float]) -> Record:
    method = METHODS["spos"](population=1, generations=1)  # what evolution finds is not read
    config = fit_minutes(times_of("spos", data, speeds), method, data, replace(SEARCH, minutes=minutes, seed=seed))
    record = _of_search(search(NASBENCH201, method, data, config), config, data, known)
    return {"genotype": record["best_path"], **record}


def _halving(minutes: float, seed: int, data: ImageData, speeds: Path, known: Mapping[str, float]) -> Record:
    ladder = most_entrants(60 * minutes, LadderConfig(images=1024), training_step(data, speeds))
    entrants = [Proposal(genotype, "uniform") for genotype in draw_entrants(ladder.entrants, seed)]
    chosen = climb(entrants, NASBENCH201, data, replace(SEARCH, seed=seed), TRAINING, ladder)
    rungs = [[one.rung, one.genotype, one.origin, one.steps, one.loss] for one in chosen.rungs]
    return {"genotype": genotype_to_text(chosen.genotype), "rungs": rungs, "steps": ladder.total_steps}


def _random(minutes: float, seed: int, data: ImageData, speeds: Path, known: Mapping[str, float]) -> Record:
    return {"genotype": genotype_to_text(random_genotype(NASBENCH201, seed))}


PROTOCOLS = {
    "default": _default,
    "one_search": partial(_default, searches=1),
    "last_epoch": _last_epoch,
    "fast_rate": partial(_default, alpha_lr=METHODS[METHOD]().alpha_lr),
    "paper_rate": partial(_default, alpha_lr=PUBLISHED_ALPHA_LR),
    "ladder": _ladder,
    "no_halving": _no_halving,
    "uniform": _uniform,
    "halving": _halving,
    "random": _random,
}


# ---- report -----------------------------------------------------------------------------------------------------
def find_bounds(records: list[Record], test: Mapping[str, float], of_step: float) -> dict[float, dict[int, float]]:
    """By the minutes and seeds of the default, the best of the architectures that halving would draw in the same time,
    by the test column itself: no random search among them can end above that."""
    bounds = {}
    for (_, minutes), here in reported(records, "default").items():
        entrants = most_entrants(60 * minutes, LadderConfig(images=1024), of_step).entrants
        drawn = {one["seed"]: draw_entrants(entrants, one["seed"]) for one in here}
        bounds[minutes] = {seed: max(test[genotype_to_text(one)] for one in drawn[seed]) for seed in drawn}
    return bounds


if __name__ == "__main__":
    main(tyro.cli(Quality, description=__doc__))
