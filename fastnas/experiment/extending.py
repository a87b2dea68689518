"""More epochs for the search or the retrainings of a run."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fastnas.engine.budget import FILE
from fastnas.engine.choosing import FILE as CHOICE
from fastnas.errors import invalid
from fastnas.experiment.folder import open_run
from fastnas.experiment.parts import prepare
from fastnas.experiment.settings import Experiment, experiment_to_json
from fastnas.files import write_json
from fastnas.ranks import ALONE, Ranks
from fastnas.run_files import HALVING, SEARCHED, SearchEpoch, read_epochs
from fastnas.training.checkpoint import previous_checkpoint

STALE = (
    "genotype.json",
    "alpha.pt",
    CHOICE,
    previous_checkpoint(Path(CHOICE)).name,
    "stop.json",
    "selection.json",
    "selection.jsonl",
    "ladder",
    "comparison.json",
    "report.html",
    f"retrain/{SEARCHED}",
    FILE,
    HALVING,
    f"retrain/{HALVING}",
)
"""What follows from the end of a search, random search in the time that it took among it."""


@contextmanager
def extended_run(
    experiment: Experiment, folder: Path, epochs: int, retrain_epochs: int, ranks: Ranks = ALONE
) -> Generator[Experiment, None, None]:
    """The experiment of a run with more epochs, which its folder then holds, too.

    What followed from the end of a shorter search is moved to ``RUN/after-N-epochs``. All is put back if the block is
    refused before an epoch is over.

    Args:
        experiment: That of the run.
        folder: The run folder.
        epochs: Of the search.
        retrain_epochs: Of the retrainings.
        ranks: The processes that run it together.

    Yields:
        The longer experiment.

    Raises:
        ValueError: If there would be fewer, or the search cannot go on.
    """
    before, longer = experiment.config.epochs, replace(experiment.config, epochs=epochs)
    if epochs < before or retrain_epochs < experiment.retrain.epochs:
        got = f"--epochs {epochs} --retrain.epochs {retrain_epochs}"
        rule = (
            f"a resume must not have fewer epochs than --epochs {before} --retrain.epochs {experiment.retrain.epochs}"
        )
        raise invalid("search", rule, got, "Start a new run for that.")
    if experiment.config.minutes is not None:
        remedy = "Its minutes decide them: start a new run with more, or retrain its genotype.json: fastnas retrain."
        raise invalid("search", "more epochs need a run that was given epochs", "--minutes", remedy)
    extended = replace(experiment, config=longer, retrain=replace(experiment.retrain, epochs=retrain_epochs))
    stale, kept = (STALE if epochs > before else ()), folder / f"after-{before}-epochs"
    if ranks.is_first:
        if epochs > before:
            _require_one_stage(extended, folder, before)
        with open_run(folder):
            _move(stale, folder, kept)
            write_json(folder / "config.json", experiment_to_json(extended), checksum=True)
    ranks.broadcast("extended")
    done = _done(folder)
    try:
        yield extended
    except ValueError:
        if ranks.is_first and _done(folder) == done:
            with open_run(folder):
                _move(stale, kept, folder)
                write_json(folder / "config.json", experiment_to_json(experiment), checksum=True)
        raise


def _require_one_stage(extended: Experiment, folder: Path, before: int) -> None:
    method, done = prepare(extended).method, read_epochs(folder / "metrics.jsonl", SearchEpoch)
    if len(method.stages) > 1:
        got = f"{method.name}, which divides its epochs into {len(method.stages)}"
        raise invalid("search", "more epochs need a method of one stage", got, "Start a new search.")
    if (folder / "genotype.json").exists() and len(done) < before:
        got = f"one that did after {len(done)} epochs"
        raise invalid("search", "more epochs need a search that did not stop by itself", got)


def _done(folder: Path) -> dict[Path, int]:
    """The size of every list of epochs in a run, which grows with each."""
    return {path: path.stat().st_size for path in sorted(folder.rglob("metrics.jsonl"))}


def _move(names: Sequence[str], source: Path, target: Path) -> None:
    """Move what there is of ``names``; a folder that is empty afterwards goes."""
    for name in names:
        if (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).rename(target / name)
    for place in sorted({(source / name).parent for name in names}, reverse=True):
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
