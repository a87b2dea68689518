"""The whole path: search, derive, retrain, compare with random architectures, report."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from fastnas.costs.tables import derived_cost
from fastnas.data import ImageData
from fastnas.engine import SearchResult, search
from fastnas.engine.budget import plan_searches
from fastnas.experiment.folder import open_run
from fastnas.experiment.minutes import (
    LADDER,
    SEARCH,
    add_up_seconds,
    find_share,
    fit_halving,
    fit_ladder,
    fit_retraining,
)
from fastnas.experiment.parts import Parts, prepare
from fastnas.experiment.progress import ShowProgress, watch
from fastnas.experiment.selecting import Scene, climb_from, draw_contestants, halve_random
from fastnas.experiment.settings import Experiment, experiment_to_json
from fastnas.files import save_tensors, write_json
from fastnas.ranks import ALONE, Ranks
from fastnas.run_files import HALVING, SEARCHED, restart_folder
from fastnas.selection import derive_from_average
from fastnas.selection.proposals import Accept
from fastnas.spaces.benchmark import Table, TableEntry, look_up, read_table, require_space
from fastnas.spaces.formats import genotype_to_json, space_to_json
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.registry import SPACES
from fastnas.spaces.space import Space
from fastnas.training.config import SearchConfig
from fastnas.training.result import RetrainResult
from fastnas.training.retrain import retrain
from fastnas.training.start import SUPERNET

SEEDS_APART = 1000
"""Between the seeds of two searches of a run, so that runs of neighbouring seeds share none."""


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Args:
        genotype: The derived architecture.
        searched: Its retraining, or ``None`` if there was none.
        random: The retrained random architectures.
        halving: The best that random search found in the same time, retrained, if that was asked for.
        table: What a table knows of the genotype, if one was given.
        report: The page.
        space: That of the genotype.
        stopped: Why the search ended before its last epoch, or nothing.
        cost: What the derived network costs and in which unit, if the experiment speaks of a cost.
    """

    genotype: Genotype
    searched: RetrainResult | None
    random: list[RetrainResult]
    halving: RetrainResult | None
    table: TableEntry | None
    report: Path
    space: Space
    stopped: str
    cost: tuple[float, str] | None = None


def run_experiment(
    experiment: Experiment,
    folder: Path,
    show_progress: ShowProgress,
    table: Path | None = None,
    ranks: Ranks = ALONE,
    on_start: Callable[[ImageData], None] = lambda data: None,
    beside: float = 0.0,
) -> Outcome:
    """Run ``experiment`` in ``folder``, or go on with what is there of it.

    Args:
        experiment: What to do.
        folder: The run folder. Each part is skipped or continued as far as its files say that it is done.
        show_progress: Makes the displays.
        table: A table of accuracies in which to look the architecture up.
        ranks: The processes that run it together; the first one writes and speaks.
        on_start: Called with the images when all is checked and the search begins.
        beside: Seconds of the searches of which this is the best; random search gets their time, too.
    """
    known = None if table is None else read_table(table)
    with ranks.first_before_others():
        parts = prepare(experiment)
    if known is not None:
        require_space(known, parts.space)
    with open_run(folder, ranks):
        on_start(parts.data)
        return _run(experiment, parts, folder, show_progress, known, ranks, beside)


def _run(
    experiment: Experiment,
    parts: Parts,
    folder: Path,
    show_progress: ShowProgress,
    known: Table | None,
    ranks: Ranks,
    beside: float,
) -> Outcome:
    result = find(experiment, parts, folder, show_progress, ranks=ranks)
    entry = None if known is None else look_up(known, result.genotype)
    results = dict[str, RetrainResult]()
    if experiment.retrain_searched:
        seed, accept = experiment.config.seed, _accept(experiment, parts)
        contestants = draw_contestants(parts.space, result.genotype, experiment.random_genotypes, seed, accept)
        if experiment.random_halving:
            scene = _scene(experiment, parts, experiment.config)
            ladder = fit_halving(beside + add_up_seconds(folder), scene, folder, ranks)
            contestants[HALVING] = halve_random(scene, ladder, accept, folder / HALVING, show_progress, ranks)
        if (minutes := experiment.config.minutes) is not None:
            left, scene = max(60 * minutes - add_up_seconds(folder), 0), _scene(experiment, parts, experiment.config)
            training = fit_retraining(left, list(contestants.values()), scene, folder, ranks)
            experiment = replace(experiment, retrain=training)
        for name, genotype in contestants.items():
            place = folder / "retrain" / name
            init = result.supernet if experiment.retrain.init_from == SUPERNET else None
            results[name] = _retrain(experiment, parts, genotype, place, name, show_progress, ranks, init)
            if ranks.is_first:
                networks = [_summary(name, result) for name, result in results.items()]
                write_json(folder / "comparison.json", {"networks": networks}, checksum=True)
    if ranks.is_first:
        from fastnas.report.page import write_report  # noqa: PLC0415  (matplotlib takes half a second)

        write_report(folder)
    searched, halving = results.pop(SEARCHED, None), results.pop(HALVING, None)
    cost = None if parts.costs is None else (derived_cost(result.genotype, parts.costs), parts.costs.unit)
    report = folder / "report.html"
    return Outcome(
        result.genotype, searched, list(results.values()), halving, entry, report, parts.space, result.stopped, cost
    )


def find(
    experiment: Experiment,
    parts: Parts,
    folder: Path,
    show_progress: ShowProgress,
    device: str | None = None,
    ranks: Ranks = ALONE,
) -> SearchResult:
    """Search, the first part of an experiment, and leave in ``folder`` what it found.

    Args:
        experiment: What to do.
        parts: What it names.
        folder: The run folder; a search that is in there goes on.
        show_progress: Makes the display.
        device: Where, if not where ``experiment`` says.
        ranks: The processes that search together.
    """
    if ranks.is_first and not (folder / "config.json").exists():
        write_json(folder / "config.json", experiment_to_json(experiment), checksum=True)
        write_json(folder / "data.json", parts.data.describe(), checksum=True)
    if ranks.is_first and parts.space.name not in SPACES:
        write_json(folder / "space.json", space_to_json(parts.space), checksum=True)
    config = experiment.config if device is None else replace(experiment.config, device=device)
    has_ladder, ladder, minutes = experiment.select == "ladder", experiment.ladder, config.minutes
    halving = experiment.retrain_searched and experiment.random_halving
    share = partial(find_share, ladder=has_ladder, retraining=experiment.retrain_searched, halving=halving)
    if minutes is not None:
        config = replace(config, minutes=minutes * share(SEARCH))
    averages = experiment.select == "average" and parts.method.choice is None
    searches = experiment.restarts if averages else 1
    config, searches = plan_searches(parts.space, parts.method, parts.data, config, folder, searches, ranks)
    which = [f"search {number} of {searches}" for number in range(1, searches + 1)] if searches > 1 else ["search"]
    result = _search(experiment, parts, config, folder, show_progress, ranks, which[0])
    histories = [_as_returned(result)]
    for number in range(1, searches):
        seeded = replace(config, seed=config.seed + SEEDS_APART * number)
        place = restart_folder(folder, number)
        histories.append(_as_returned(_search(experiment, parts, seeded, place, show_progress, ranks, which[number])))
    if averages and (result.returned is None or searches > 1):
        result = replace(result, genotype=derive_from_average(parts.space, parts.method, *histories))
    if has_ladder:
        small = replace(experiment.retrain, channels=config.channels, cells=config.cells)
        scene = _scene(replace(experiment, retrain=small), parts, config)
        if minutes is not None:
            ladder = fit_ladder(ladder, 60 * minutes * share(LADDER), result, scene, folder, ranks)
        result = climb_from(result, scene, ladder, _accept(experiment, parts), folder, show_progress, ranks)
    if ranks.is_first:
        write_json(folder / "genotype.json", genotype_to_json(result.genotype), checksum=True)
        save_tensors(folder / "alpha.pt", result.alpha)
        if result.returned is not None:
            stop = {"epoch": result.returned, "reason": result.stopped}
            write_json(folder / "stop.json", stop, checksum=True)
    return result


def _accept(experiment: Experiment, parts: Parts) -> Accept:
    """Whether an architecture stays within the limit of the cost, if there is one."""
    costs, limit = parts.costs, experiment.cost.limit
    return lambda genotype: limit is None or costs is None or derived_cost(genotype, costs) <= limit


def _scene(experiment: Experiment, parts: Parts, config: SearchConfig) -> Scene:
    return Scene(parts.space, parts.method, parts.data, config, experiment.retrain)


def _as_returned(found: SearchResult) -> list[dict[str, Any]]:
    """The records of a search up to the epoch that it returned."""
    return found.history if found.returned is None else found.history[: found.returned + 1]


def _search(
    experiment: Experiment,
    parts: Parts,
    config: SearchConfig,
    folder: Path,
    show_progress: ShowProgress,
    ranks: Ranks,
    which: str,
) -> SearchResult:
    title = f"{which}: {parts.method.name} in {parts.space.name} on {parts.data.name}"
    scene, accept = (parts.space, parts.method, parts.data, config), _accept(experiment, parts)
    settings = experiment_to_json(experiment)
    with watch("search", title, folder, show_progress, ranks, settings, parts.space) as callbacks:
        return search(*scene, folder=folder, extend=True, ranks=ranks, accept=accept, **callbacks)


def _retrain(
    experiment: Experiment,
    parts: Parts,
    genotype: Genotype,
    folder: Path,
    name: str,
    show_progress: ShowProgress,
    ranks: Ranks,
    init: nn.Module | None,
) -> RetrainResult:
    settings = experiment_to_json(experiment)
    with watch("retrain", f"retrain: {name}", folder, show_progress, ranks, settings, parts.space) as callbacks:
        return retrain(
            genotype,
            parts.data,
            experiment.retrain,
            experiment.config,
            folder=folder,
            own=parts.space,
            init=init,
            extend=True,
            ranks=ranks,
            on_step=callbacks.get("on_step"),
            on_epoch=callbacks.get("on_epoch"),
        )


def _summary(name: str, result: RetrainResult) -> dict[str, Any]:
    return {
        "name": name,
        "genotype": genotype_to_json(result.genotype),
        "num_params": result.num_params,
        "multiply_adds": result.multiply_adds,
        **{name: value for name, value in result.info.metrics.items() if name.startswith("test_")},
        "seconds": result.seconds,
    }
