"""The whole path: search, derive, retrain, compare with random architectures, report."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastnas.costs.config import find_costs, limit_cost
from fastnas.costs.tables import CostTable, derived_cost
from fastnas.data import ImageData, class_balanced_fraction, load_data, steps_per_epoch
from fastnas.engine import SearchResult, build_stage, require_stages, search
from fastnas.engine.budget import plan_searches
from fastnas.errors import invalid
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
from fastnas.experiment.progress import ShowProgress, watch
from fastnas.experiment.selecting import Scene, climb_from, draw_contestants, halve_random
from fastnas.experiment.settings import Experiment, experiment_to_json
from fastnas.files import save_tensors, write_json
from fastnas.mechanisms.choice import Evolution, Perturbation
from fastnas.mechanisms.derivation import SkipCap
from fastnas.methods.library import REGULARISED
from fastnas.methods.method import Method
from fastnas.methods.registry import as_method
from fastnas.methods.variants import with_order, with_stop, with_techniques
from fastnas.networks.inherit import inherit_weights
from fastnas.ranks import ALONE, Ranks
from fastnas.run_files import HALVING, SEARCHED, restart_folder
from fastnas.selection import derive_from_average
from fastnas.selection.proposals import Accept
from fastnas.spaces.benchmark import Table, TableEntry, look_up, read_table, require_space
from fastnas.spaces.formats import genotype_to_json, space_to_json
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.registry import SPACES
from fastnas.spaces.sampling import random_genotype
from fastnas.spaces.space import Space
from fastnas.supernet.own import load_space
from fastnas.tasks import require_smoothing
from fastnas.training.config import SearchConfig
from fastnas.training.networks import build_network_for, find_size
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


@dataclass(frozen=True)
class Parts:
    """What the names in an experiment stand for.

    Args:
        method: What to do, within the budget.
        space: Where.
        data: The images.
        costs: The costs that the budget speaks of, if it speaks of any.
    """

    method: Method
    space: Space
    data: ImageData
    costs: CostTable | None


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


def prepare(experiment: Experiment, data: ImageData | None = None) -> Parts:
    """Load what ``experiment`` names, and check that it fits together.

    Args:
        experiment: What to do.
        data: Its images, if they are loaded already.

    Raises:
        ValueError: For names, sizes or settings that do not fit together, before anything runs.
    """
    parts = resolve(experiment, load_data(experiment.data, experiment.images) if data is None else data)
    if parts.method.choice is not None and experiment.config.minutes is not None:
        rule = "--minutes needs a derivation or the ladder, whose time it can plan"
        got = f"{parts.method.name}, which chooses by evaluations of its supernet"
        raise invalid("Experiment", rule, got, "Give --epochs instead.")
    if parts.method.choice is not None and (experiment.restarts or 1) > 1:
        rule, got = "--restarts needs a method that derives from coefficients", parts.method.name
        raise invalid("Experiment", rule, got, "Use --runs, of which the best goes on.")
    if isinstance(parts.method.choice, Perturbation) and experiment.cost.limit is not None:
        remedy = "Give --select argmax, average, ladder or evolution."
        raise invalid("Experiment", "--select perturbation does not work with --cost.limit", "both", remedy)
    if isinstance(parts.method.choice, Perturbation) and isinstance(parts.method.derivation, SkipCap):
        remedy = "Give --select argmax, average, ladder or evolution."
        rule = "--select perturbation does not work with a cap of skip connections"
        raise invalid("Experiment", rule, parts.method.name, remedy)
    _check_sizes(experiment, parts)
    return parts


def resolve(experiment: Experiment, data: ImageData) -> Parts:
    """What the names and options in ``experiment`` stand for: the one way from settings to a method.

    Args:
        experiment: What to do.
        data: Its images, or only their sizes (:func:`fastnas.data.placeholder_data`).

    Raises:
        ValueError: For names or options that do not fit together.
    """
    method = find_method(experiment.method, experiment.strength)
    method = method if experiment.order is None else with_order(method, experiment.order)
    method = method if experiment.stop is None else with_stop(method, experiment.stop)
    method = with_techniques(_with_choice(method, experiment), experiment.techniques)
    space = load_space(experiment.space).with_depth(experiment.config.cells)
    if experiment.retrain.auxiliary != 0 and not space.has_auxiliary_head:
        raise invalid("Experiment", *_NO_AUXILIARY, space.name)
    costs = find_costs(experiment.cost, space, find_size(experiment.retrain, data))
    return Parts(limit_cost(method, experiment.cost, costs), space, data, costs)


def _with_choice(method: Method, experiment: Experiment) -> Method:
    if experiment.select == "evolution":
        return replace(method, choice=method.choice or Evolution())
    if experiment.select == "perturbation":
        epochs = experiment.tune_epochs
        return replace(method, choice=Perturbation() if epochs is None else Perturbation(epochs))
    return method


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


def find_method(name: str, strength: float | None = None) -> Method:
    """The method that the settings name.

    Args:
        name: See :func:`fastnas.methods.as_method`.
        strength: How much it regularises; ``None`` for its own.
    """
    if strength is None:
        return as_method(name)
    if name not in REGULARISED:
        rule = f"--strength needs a method that regularises: {', '.join(REGULARISED)}"
        raise invalid("method", rule, f"{strength} beside {name}")
    return REGULARISED[name](strength)


_NO_AUXILIARY = ("retrain.auxiliary must be 0 in spaces without a reduction cell, whose network has no auxiliary head",)


def _check_sizes(experiment: Experiment, parts: Parts) -> None:
    """Build both networks without memory, so that sizes that do not fit fail now and not when the search is over."""
    config, training, data, space = experiment.config, experiment.retrain, parts.data, parts.space
    same_depth = space.depth is None or not experiment.retrain_searched or training.cells == config.cells
    if not same_depth:
        rule = f"retrain.cells must be {config.cells}, as cells, in {space.name}, whose blocks are searched one by one"
        raise invalid("Experiment", rule, training.cells, f"Set --retrain.cells {config.cells}.")
    require_stages(parts.method, config)
    with torch.device("meta"):
        build_stage(parts.space, parts.method, data, config, 0)
        if experiment.retrain_searched:
            require_smoothing(data.task, training.label_smoothing)
            images = class_balanced_fraction(data.train.labels, config.train_fraction, config.seed)
            what = "the training images of the retraining"
            steps_per_epoch(len(images), training.batch_size, what, option="--retrain.batch-size")
            network = build_network_for(data, random_genotype(parts.space, 0), training, parts.space)
            if training.init_from == SUPERNET:
                stage = len(parts.method.stages) - 1
                needed = config.channels, parts.method.stages[stage].deepen(config.cells)
                sizes = training.channels, training.cells
                if sizes != needed:
                    options = "--retrain.channels {} --retrain.cells {}"
                    rule = f"--retrain.init-from supernet needs its sizes, {options.format(*needed)}"
                    raise invalid("Experiment", rule, options.format(*sizes))
                inherit_weights(network, build_stage(parts.space, parts.method, data, config, stage))  # or raises


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
