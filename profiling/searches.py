"""What does every method find with the same supernet and the same budget, and what does that cost?

Searches a space with each method and several seeds, and looks what they found up in a table of accuracies; without a
table, trains it for a short while and tests it, next to random architectures. Prints a Markdown table. Results are
kept as they arrive, so that --resume goes on after a stop; a method that fails becomes a row that says why. The budget
is a number of weight steps, or with --seconds the CPU time of a search; --minutes ends one part of many.
"""

import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from time import perf_counter, process_time
from typing import Any, NamedTuple

import torch
import tyro
from torch import Tensor

from fastnas.data import DataConfig, ImageData, evaluation_batches, load_data
from fastnas.engine import Run, alpha_problem, fresh_state, search, search_step, stage_supernet
from fastnas.files import append_json_line, read_json_lines
from fastnas.methods.library import METHODS
from fastnas.methods.method import Method
from fastnas.spaces.benchmark import look_up, read_table
from fastnas.spaces.cell_space import CellSpace
from fastnas.spaces.formats import genotype_to_text
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.registry import space_by_name
from fastnas.spaces.sampling import random_genotype
from fastnas.training.config import RetrainConfig, SearchConfig, TrainingSetup
from fastnas.training.retrain import retrain
from fastnas_kernels.check import require

RANDOM = "random"
Record = dict[str, Any]
# What may differ between a run and the one that it goes on with
HOW_MUCH = ("methods", "seeds", "random", "threads", "results", "resume", "minutes")
HEADINGS = (
    "method",
    "accuracy %",
    "of each seed",
    "rank",
    "regret",
    "skips",
    "epochs",
    "weight steps",
    "CPU s",
    "wall s",
    "weight step MB",
    "alpha step MB",
)
BY_SECONDS = """
The budget is the CPU time of a search on this machine, by the time of a short search of the method just before it:
where an epoch costs more there are fewer of them, never fewer than two a stage. A method that stops early takes less.
"""
BY_STEPS = """
The budget is the number of weight steps, and with it the images: what else a method does (alpha steps, inner steps,
draws, deeper stages) is on top and shows in the seconds, which are means over the seeds. A method that stops early
takes fewer; one that trains weights and alpha at once on both halves of the images runs half of the epochs.
"""
LEGEND = """
Seconds are those of the search alone. MB: most that one step holds for backward passes at any moment, parameters left
out, at the first step of the first stage; "with it": one backward pass serves both. Ranks and counts that differ are
those of each seed. random: architectures drawn uniformly, without any search.
"""


@dataclass(frozen=True, kw_only=True)
class Searches:
    """What to search with, and how far.

    Args:
        methods: Of those that `fastnas methods` lists; all of them unless given.
        seeds: Searches of each method, with the seeds 0, 1, ...
        random: Random architectures to compare with.
        space: nasbench201, darts, ...
        data: digits, cifar10:ROOT or folder:ROOT.
        resolution: Side in pixels to bring images to; unset for that of the data.
        train_fraction: Class-balanced share of the training images; half of it trains weights, half alpha.
        table: CSV table of accuracies; without one, what was found is trained.
        channels: Channels of the first cells.
        cells: Depth, or cells in a stage.
        epochs: Of a search; not where its seconds are given.
        seconds: CPU seconds of a search, from which each method gets its own number of epochs; unset for --epochs.
        batch_size: Images a step.
        weight_lr: Initial learning rate of the weights.
        alpha_lr: Learning rate of alpha.
        retrain_epochs: Of what was found, on all training images.
        threads: Of the CPU.
        results: File of JSON lines, one a search.
        resume: Go on with that file; searches that failed are tried again.
        minutes: Begin no search after so long; what is there is printed, and --resume does the rest.
    """

    methods: tuple[str, ...] = tuple(METHODS)
    seeds: int = 3
    random: int = 3
    space: str = "nasbench201"
    data: str = "digits"
    resolution: int | None = None
    train_fraction: float = 1.0
    table: Path | None = None
    channels: int = 4
    cells: int = 1
    epochs: int = 4
    seconds: float | None = None
    batch_size: int = 32
    weight_lr: float = 0.05
    alpha_lr: float = 0.03
    retrain_epochs: int = 4
    threads: int = 1
    results: Path = Path("searches.jsonl")
    resume: bool = False
    minutes: float | None = None


def main(options: Searches) -> None:
    """Search what is not yet there, and print all of it."""
    torch.set_num_threads(options.threads)
    unknown = [name for name in options.methods if name not in METHODS]
    require(not unknown, "searches", f"methods must be among {', '.join(METHODS)}", ", ".join(unknown))
    finished = {key: record for key, record in _kept(options).items() if "error" not in record}
    data, settings = load_data(options.data, DataConfig(resolution=options.resolution)), _settings(options)
    wanted = [(RANDOM, seed) for seed in range(options.random)]
    wanted += [(name, seed) for seed in range(options.seeds) for name in options.methods]
    started = perf_counter()
    for name, seed in wanted:
        in_time = options.minutes is None or perf_counter() - started < 60 * options.minutes
        if (name, seed) not in finished and in_time:
            record = {"method": name, "seed": seed, **_outcome(options, data, name, seed), "settings": settings}
            append_json_line(options.results, record)
            finished[name, seed] = record
            print(f"{name} {seed}: {_in_short(record)}", file=sys.stderr, flush=True)
    left = [key for key in wanted if key not in finished]
    if left:
        print(f"{len(left)} of {len(wanted)} are left: run it again with --resume", file=sys.stderr)
    _print([finished[key] for key in wanted if key in finished], options)


def _settings(options: Searches) -> Record:
    return {name: str(value) for name, value in asdict(options).items() if name not in HOW_MUCH}


def _kept(options: Searches) -> dict[tuple[str, int], Record]:
    """The last record of every method and seed in the file of results."""
    records, path = read_json_lines(options.results), options.results
    require(options.resume or not records, "searches", f"{path} must be new", "an older one", "Add --resume.")
    other = [r for r in records if r["settings"] != _settings(options)]
    rule = f"{path} must hold results of these settings"
    require(not other, "searches", rule, other[0]["settings"] if other else "", "Name another file with --results.")
    return {(record["method"], record["seed"]): record for record in records}


def _outcome(options: Searches, data: ImageData, name: str, seed: int) -> Record:
    """What a search found and cost, or why there is nothing."""
    space = space_by_name(options.space)
    try:
        if name == RANDOM:
            genotype, cost = random_genotype(space, seed), {}
        else:
            genotype, cost = _searched(options, METHODS[name](), space, data, seed)
        return {**_found(genotype), **cost, **_quality(options, data, genotype, seed)}
    except (ValueError, FloatingPointError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _searched(
    options: Searches, method: Method, space: CellSpace, data: ImageData, seed: int
) -> tuple[Genotype, Record]:
    joint = method.update_schedule.joint  # such a method trains on both halves: an epoch has twice the steps
    rule = f"epochs must be even for {method.name}, which takes the same number of steps in half of them"
    by_steps = options.seconds is None
    require(options.epochs % 2 == 0 or not joint or not by_steps, "searches", rule, options.epochs)
    config = SearchConfig(
        channels=options.channels,
        cells=options.cells,
        epochs=options.epochs // 2 if joint else options.epochs,
        batch_size=options.batch_size,
        train_fraction=options.train_fraction,
        weight_lr=options.weight_lr,
        alpha_lr=options.alpha_lr,
        seed=seed,
        device="cpu",
    )
    if options.seconds is not None:
        config = replace(config, epochs=epochs_within(options.seconds, method, space, data, config))
    num_bytes = bytes_of_steps(method, space, data, config)
    steps: list[int] = []  # the loop reports each one; a method that goes back repeats some
    cpu, wall = process_time(), perf_counter()
    result = search(space, method, data, config, on_step=lambda done, total: steps.append(done))
    cpu, wall = process_time() - cpu, perf_counter() - wall
    return result.genotype, {
        "epochs": len(result.history),
        "steps": len(steps),
        "stopped": result.stopped,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        **num_bytes._asdict(),
    }


def epochs_within(seconds: float, method: Method, space: CellSpace, data: ImageData, config: SearchConfig) -> int:
    """How many epochs of a search take ``seconds`` of CPU time, at least two a stage.

    Each stage is tried for two epochs, one in which alpha waits and one in which it moves.

    Args:
        seconds: Of the whole search.
        method: Its stages and the share of their epochs in which alpha waits.
        space: Searched.
        data: The images.
        config: All but the number of epochs.
    """
    stages, marks = len(method.stages), [process_time()]
    tried = replace(config, epochs=2 * stages, warmup_epochs=1)
    patient = replace(method, control=None)
    search(space, patient, data, tried, on_epoch=lambda record: marks.append(process_time()))
    waits, moves = (sum(marks[i + 1] - marks[i] for i in range(first, 2 * stages, 2)) for first in (0, 1))
    of_mean_epoch = (method.warmup_share * waits + (1 - method.warmup_share) * moves) / stages
    return max(2 * stages, int(seconds / of_mean_epoch))


def _found(genotype: Genotype) -> Record:
    skips = sum(cell.count("skip_connect") for cell in genotype.cells.values())
    return {"genotype": genotype_to_text(genotype), "skips": skips}


def _quality(options: Searches, data: ImageData, genotype: Genotype, seed: int) -> Record:
    """What the table knows, or the test accuracy after a short training; in percent."""
    if options.table is not None:
        entry = look_up(read_table(options.table), genotype)
        return {"accuracy": entry.accuracy, "rank": entry.rank, "regret": entry.regret}
    epochs = options.retrain_epochs
    config = RetrainConfig(channels=options.channels, cells=options.cells, epochs=epochs, evaluate_every=epochs)
    return {"accuracy": 100 * retrain(genotype, data, config, TrainingSetup(seed=seed, device="cpu")).test_accuracy}


class StepBytes(NamedTuple):
    """Most bytes that a step of each kind saves; ``None`` where alpha has no step of its own."""

    weight_step: int
    alpha_step: int | None


def bytes_of_steps(method: Method, space: CellSpace, data: ImageData, config: SearchConfig) -> StepBytes:
    """What the first steps of a search save for backward passes, on a state of their own.

    Args:
        method: What moves.
        space: Searched.
        data: Its first training images make the batches.
        config: Size of the supernet and of a batch.
    """
    config, cpu = replace(config, warmup_epochs=0), torch.device("cpu")  # a step of a warm-up leaves alpha alone
    state = fresh_state(stage_supernet(space, method, data, config, 0), method, config, cpu)
    order = torch.arange(2 * config.batch_size).numpy()
    run = Run(method, data, config, cpu, (order, order), 1, state)
    batches = [
        *evaluation_batches(data, data.train, order, batch_size=config.batch_size, workers=0),
    ]
    permanent = [*state.w.values(), *state.alpha.values(), *state.supernet.buffers()]
    alpha_step = None
    if not method.update_schedule.joint:
        problem = alpha_problem(run, *batches)
        alpha_step = peak_saved_bytes(lambda: method.hypergradient(problem, state.w, state.alpha), permanent)
    return StepBytes(peak_saved_bytes(lambda: search_step(run, batches[0], None), permanent), alpha_step)


def peak_saved_bytes(step: Callable[[], object], permanent: Iterable[Tensor]) -> int:
    """Most bytes that autograd keeps for backward passes at any moment of ``step``.

    Args:
        step: Builds graphs, and differentiates or drops them.
        permanent: Tensors whose storages do not count.
    """
    free = {tensor.untyped_storage().data_ptr() for tensor in permanent}
    holders: Counter[int] = Counter()
    now, peak = 0, 0

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    def release(address: int, size: int) -> None:
        nonlocal now
        holders[address] -= 1
        now -= 0 if holders[address] else size

    def pack(tensor: Tensor) -> Saved:
        nonlocal now, peak
        saved, storage = Saved(tensor), tensor.untyped_storage()
        if storage.data_ptr() not in free:
            now += 0 if holders[storage.data_ptr()] else storage.nbytes()
            peak = max(peak, now)
            holders[storage.data_ptr()] += 1
            weakref.finalize(saved, release, storage.data_ptr(), storage.nbytes())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        step()
    return peak


def _in_short(record: Record) -> str:
    return record.get("error") or f"{record['accuracy']:.2f} %, {record.get('cpu_seconds', 0):.1f} CPU s"


def _print(records: Sequence[Record], options: Searches) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    print(f"torch {torch.__version__}, {options.threads} thread(s) of a CPU, commit {commit.strip()}")
    accuracy = f"test accuracy after {options.retrain_epochs} epochs on {options.data}"
    if options.table is not None:
        entry = look_up(read_table(options.table), random_genotype(space_by_name(options.space), 0))
        accuracy = f"{entry.column} of the table, which has {entry.size:,} architectures"
    print(f"accuracy: {accuracy}\n")
    right = ["---"] + ["---:"] * (len(HEADINGS) - 1)
    lines = [HEADINGS, right, *_rows(records, options)]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    print((BY_STEPS if options.seconds is None else BY_SECONDS) + LEGEND)
    for record in records:
        if "error" not in record:
            stopped = f"   (stopped: {record['stopped']})" if record.get("stopped") else ""
            print(f"    {record['method']} {record['seed']}: {record['genotype']}{stopped}")


def _rows(records: Sequence[Record], options: Searches) -> list[list[str]]:
    rows = []
    if options.table is not None:
        entry = look_up(read_table(options.table), random_genotype(space_by_name(options.space), 0))
        for what, accuracy in (("best", entry.best), ("mean", entry.mean)):
            cells = [f"{what} of the space", f"{accuracy:.2f}", "", "", f"{entry.best - accuracy:.2f}"]
            rows.append(cells + [""] * (len(HEADINGS) - len(cells)))
    for name in dict.fromkeys(record["method"] for record in records):
        of_method = [record for record in records if record["method"] == name]
        good = [record for record in of_method if "error" not in record]
        if good:
            rows.append(_row(name, good))
        for error in dict.fromkeys(record["error"] for record in of_method if "error" in record):
            seeds = ", ".join(str(record["seed"]) for record in of_method if record.get("error") == error)
            cells = [name, f"failed with seed {seeds}: {error.replace('|', '/')}"]
            rows.append(cells + [""] * (len(HEADINGS) - len(cells)))
    return rows


def _row(name: str, records: Sequence[Record]) -> list[str]:
    def average(key: str, form: str, unit: float = 1.0) -> str:
        values = [record[key] / unit for record in records if record.get(key) is not None]
        return form.format(mean(values)) if values else ""

    def each(key: str) -> str:
        values = [f"{record[key]:,}" for record in records if record.get(key) is not None]
        return values[0] if len(set(values)) == 1 else " / ".join(values)

    searched = "steps" in records[0]
    return [
        name,
        average("accuracy", "{:.2f}"),
        " / ".join(f"{record['accuracy']:.2f}" for record in records),
        each("rank"),
        average("regret", "{:.2f}"),
        each("skips"),
        each("epochs"),
        each("steps"),
        average("cpu_seconds", "{:.1f}"),
        average("wall_seconds", "{:.1f}"),
        average("weight_step", "{:.2f}", 1e6),
        average("alpha_step", "{:.2f}", 1e6) or ("with it" if searched else ""),
    ]


if __name__ == "__main__":
    main(tyro.cli(Searches, description=__doc__))
