"""Several searches of one experiment, of which the best goes on.

Each search has a run folder of its own and is an ordinary run, which ``fastnas search --resume RUN/runs/2`` finishes
alone. They are validated by a short retraining on images that it does not train on; the test set has no say.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from fastnas.data import ImageData, hold_out, load_data, share_memory
from fastnas.engine.run import search_halves
from fastnas.experiment.experiment import Outcome, find, run_experiment
from fastnas.experiment.folder import open_run
from fastnas.experiment.minutes import add_up_seconds
from fastnas.experiment.parts import Parts, prepare
from fastnas.experiment.progress import Display, ShowProgress, plain_console
from fastnas.experiment.settings import Experiment, refuse_code, with_absolute_paths
from fastnas.files import STRICT, read_json, validate, write_json
from fastnas.ranks import torch_device
from fastnas.spaces.benchmark import read_table
from fastnas.spaces.formats import genotype_to_text
from fastnas.tasks import SCORES
from fastnas.training.config import RetrainConfig
from fastnas.training.retrain import retrain
from fastnas.training.start import SUPERNET
from fastnas_kernels.check import complaint, invalid

WHERE = "series"
MOST_RUNS = 10_000
GRACE = 30.0  # seconds that a search has to close its files when it is told to stop
FAULTS = (ValueError, FloatingPointError, torch.OutOfMemoryError, OSError)


@dataclass(frozen=True, kw_only=True)
class Series:
    """Several searches of one experiment.

    Args:
        experiment: What they have in common.
        runs: How many. Their seeds are that of the experiment and the ones after it, if there are no strengths.
        strengths: How much each regularises, all with the seed of the experiment: R-DARTS takes the best of four
            (Zela et al., 2020, arXiv:1909.09656, section 5.4).
        short_epochs: Epochs of the retraining by which they are validated; ``None`` for a quarter of the whole one.
    """

    __pydantic_config__ = STRICT

    experiment: Experiment
    runs: int = 1
    strengths: tuple[float, ...] = ()
    short_epochs: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.runs <= MOST_RUNS:
            raise invalid(WHERE, f"runs must lie between 1 and {MOST_RUNS}", self.runs)
        if self.strengths and self.runs not in (1, len(self.strengths)):
            rule = f"runs must be one for each of the {len(self.strengths)} strengths, or unset"
            raise invalid(WHERE, rule, self.runs)
        if len(set(self.strengths)) < len(self.strengths):
            raise invalid(WHERE, "strengths must differ", self.strengths, "Equal ones would search the same twice.")
        if self.short_epochs is not None and self.short_epochs < 1:
            raise invalid(WHERE, "short_epochs must be positive", self.short_epochs)

    @property
    def members(self) -> list[Experiment]:
        """What each search is to do."""
        if self.strengths:
            return [replace(self.experiment, strength=strength) for strength in self.strengths]
        config = self.experiment.config
        seeds = range(config.seed, config.seed + self.runs)
        return [replace(self.experiment, config=replace(config, seed=seed)) for seed in seeds]

    @property
    def short_retraining(self) -> RetrainConfig:
        """The retraining by which the searches are validated."""
        config = self.experiment.retrain
        epochs = max(config.epochs // 4, config.least_epochs) if self.short_epochs is None else self.short_epochs
        init = None if config.init_from == SUPERNET else config.init_from  # whose supernets differ
        return replace(config, epochs=epochs, evaluate_every=epochs, init_from=init)


@dataclass(frozen=True)
class Validated:
    """What came of one search.

    Args:
        folder: Its run folder, in that of the series.
        seed: Its seed.
        strength: How much it regularised; ``None`` for the method's own.
        genotype: What it found, as text.
        accuracy: Share of the held-out images that the short retraining classified rightly, or the score of another
            task.
        stopped: Why it ended before its last epoch, or nothing.
        score: The name of that score.
    """

    folder: str
    seed: int
    strength: float | None
    genotype: str
    accuracy: float
    stopped: str
    score: str = "accuracy"

    @property
    def shown(self) -> str:
        """The score with its unit."""
        return SCORES[self.score].show(self.accuracy)

    @property
    def rank(self) -> float:
        """The higher, the better."""
        return self.accuracy if SCORES[self.score].higher_is_better else -self.accuracy


_AS_JSON = TypeAdapter(Series)
_VALIDATED = TypeAdapter(Validated)


def save_series(series: Series, folder: Path) -> None:
    """Write ``series.json``, from which a resume knows what to do."""
    series = replace(series, experiment=with_absolute_paths(series.experiment))
    write_json(folder / "series.json", _AS_JSON.dump_python(series, mode="json"), checksum=True)


def load_series(folder: Path, trust: bool = False) -> Series:
    """The series of a run folder.

    Args:
        folder: The run folder.
        trust: Let its settings name code to run, as method or space.

    Raises:
        ValueError: If its ``series.json`` does not describe one, or names code and is not trusted.
    """
    path = folder / "series.json"
    series = validate(_AS_JSON, read_json(path), WHERE, f"{path} must describe a series")
    if not trust:
        refuse_code(series.experiment, path)
    return series


def run_series(
    series: Series,
    folder: Path,
    show_progress: ShowProgress,
    table: Path | None = None,
    on_start: Callable[[ImageData], None] = lambda data: None,
) -> tuple[list[Validated], int, Outcome]:
    """Search side by side, validate, and finish the best; or go on with what is in ``folder``.

    One process of one thread a core, or one a GPU; the data is decoded once. However many there are at a time, the
    results are the same.

    Args:
        series: What to do.
        folder: The run folder; the searches have theirs in ``runs/``, and ``runs.json`` the summary.
        show_progress: Makes the displays of the best one's retraining.
        table: A table of accuracies in which to look the best architecture up.
        on_start: Called with the images when all is checked and the searches begin.

    Returns:
        What came of each search, the number of the best, and its outcome.

    Raises:
        ValueError: Before anything runs, if settings do not fit together; at the end, if a search failed.
    """
    experiment, members = series.experiment, series.members
    data = load_data(experiment.data, experiment.images)
    for member in members:
        prepare(member, data)
    hold_out(data, *search_halves(data, experiment.config))
    if table is not None:
        read_table(table)  # raises
    with open_run(folder):
        on_start(data)
        validated, best = _search_all(series, folder, data)
    beside = sum(add_up_seconds(folder / "runs" / str(number)) for number in range(len(members)) if number != best)
    outcome = run_experiment(members[best], folder / "runs" / str(best), show_progress, table, beside=beside)
    return validated, best, outcome


def _search_all(series: Series, folder: Path, data: ImageData) -> tuple[list[Validated], int]:
    """What came of each search, and the number of the best."""
    save_series(series, folder)
    folders = [folder / "runs" / str(number) for number in range(len(series.members))]
    left = [number for number, of_member in enumerate(folders) if not (of_member / "judged.json").exists()]
    failures = _side_by_side(series, folders, left, data)
    if failures:
        number, message = min(failures.items())
        remedy = f"What the others found is kept. To try again: fastnas search --resume {folder}."
        raise ValueError(complaint(WHERE, f"run {number} must finish", message.rstrip("."), remedy))
    rule = "judged.json must say what came of a search"
    validated = [validate(_VALIDATED, read_json(path / "judged.json"), WHERE, rule) for path in folders]
    best = max(range(len(validated)), key=lambda number: validated[number].rank)  # the first of equals
    write_json(folder / "runs.json", {"best": best, "runs": [asdict(one) for one in validated]}, checksum=True)
    return validated, best


def list_places(device: str, runs: int) -> list[str]:
    """Where searches run at the same time: a process a core, or a process a GPU.

    Args:
        device: As in a configuration. A GPU that is named is the only place.
        runs: Searches there are.
    """
    kind = torch_device(device)
    if kind.type == "cpu":
        return ["cpu"] * min(runs, _cores())
    if kind.index is not None:
        return [device]
    return [f"cuda:{index}" for index in range(min(runs, torch.cuda.device_count()))]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _side_by_side(series: Series, folders: list[Path], numbers: list[int], data: ImageData) -> dict[int, str]:
    """Run the searches ``numbers``; returns what went wrong in which."""
    if not numbers:
        return {}
    context = multiprocessing.get_context("spawn")
    messages = context.SimpleQueue()
    data, waiting = share_memory(data), list(numbers)
    free = list_places(series.experiment.config.device, len(numbers))
    running: dict[SpawnProcess, tuple[int, str]] = {}
    failures: dict[int, str] = {}
    try:
        while waiting or running:
            while waiting and free:
                number, device = waiting.pop(0), free.pop(0)
                arguments = (series, number, folders[number], data, device, messages)
                process = context.Process(target=_work, args=arguments)
                with _ignoring_interrupts():  # the child inherits it: only this process tells it to stop
                    process.start()
                running[process] = number, device
            wait([process.sentinel for process in running])
            for process in [process for process in running if not process.is_alive()]:
                number, device = running.pop(process)
                free.append(device)
                if process.exitcode != 0:
                    failures[number] = f"a process that ended with status {process.exitcode}"
            while not messages.empty():
                failures.update([messages.get()])
    finally:
        _stop(list(running))
    return failures


def _stop(processes: list[SpawnProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()


@contextmanager
def _ignoring_interrupts() -> Generator[None, None, None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(series: Series, number: int, folder: Path, data: ImageData, device: str, messages: Any) -> None:
    """One search in a process of its own."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a stop leaves no half-written file behind
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        _search_and_validate(series, number, folder, data, device)
    except KeyboardInterrupt:
        sys.exit(130)
    except FAULTS as error:
        messages.put((number, " ".join(str(error).split())))
        sys.exit(1)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a child"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _search_and_validate(series: Series, number: int, folder: Path, data: ImageData, device: str) -> None:
    member, console = series.members[number], plain_console()
    parts = prepare(member, data)
    found = find(member, parts, folder, lambda title: Display(f"run {number}: {title}", console), device)
    accuracy = _validate(series, parts, folder, found.genotype, device)
    text = genotype_to_text(found.genotype)
    validated = Validated(
        f"runs/{number}", member.config.seed, member.strength, text, accuracy, found.stopped, data.task.score_name
    )
    console.out(f"run {number}: {validated.shown} on the held-out images")
    write_json(folder / "judged.json", asdict(validated), checksum=True)


def _validate(series: Series, parts: Parts, folder: Path, genotype: Any, device: str) -> float:
    """The held-out accuracy of a short retraining: of all searches on the same images, from the same seed. Where
    classes are balanced, so is the accuracy."""
    config = series.experiment.config
    data = hold_out(parts.data, *search_halves(parts.data, config))
    short = series.short_retraining
    result = retrain(
        genotype,
        data,
        replace(short, batch_size=min(short.batch_size, len(data.train.labels))),
        replace(config, device=device, train_fraction=1.0),  # the images are chosen already
        folder=folder / "judged",
        own=parts.space,
    )
    balanced = result.test_balanced_accuracy if config.is_balanced else None
    return result.score if balanced is None else balanced
