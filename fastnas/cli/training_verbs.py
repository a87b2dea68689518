"""The verbs that train: ``fastnas search`` and ``fastnas retrain``, alone or one of several processes."""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.status import Status
from tyro.conf import Positional, arg

from fastnas.cli.planning import fit_to_budget
from fastnas.cli.printing import comparison_table, print_outcome, series_table
from fastnas.data import DataConfig, load_data
from fastnas.experiment.experiment import DATA_HELP, Experiment, load_experiment, run_experiment
from fastnas.experiment.progress import Display
from fastnas.experiment.recipes import RECIPES
from fastnas.experiment.series import Series, load_series, run_series
from fastnas.files import save_tensors, write_json
from fastnas.ranks import Ranks, is_restarted, joined, may_be_restarted
from fastnas.spaces.formats import genotype_to_json, read_genotype
from fastnas.supernet.own import load_space
from fastnas.training.config import RetrainConfig, TrainingSetup
from fastnas.training.retrain import retrain
from fastnas_kernels.check import complaint, require

RECIPE_DOC = f"Settings to start from: {', '.join(RECIPES)}, or the config.json of a run. Options given beside it win."


@dataclass(frozen=True, kw_only=True)
class Search:
    """Search an architecture, retrain it, compare it with random ones, and leave a run folder with a report.

    Args:
        recipe: Settings to start from.
        run: The run folder, a new one; by default runs/ and the time. Beside torchrun, which takes --run for an option
            of its own, write --folder.
        resume: A run folder to go on with. It knows its settings: give no others.
        table: A CSV table of accuracies (NAS-Bench-201's) in which to look up what was found.
        runs: Searches side by side, with seeds that follow each other; the best goes on, judged by a short
            retraining on images held out of it.
        strengths: Instead of seeds, how much each search regularises: R-DARTS is the best of four.
        short_epochs: Epochs of that retraining; unset for a quarter of the whole one.
        budget: Memory that a step of the search may take: decides --recompute, see `fastnas plan`.
        experiment: What to do.
    """

    recipe: Annotated[str, arg(help=RECIPE_DOC)] = "digits"
    run: Annotated[Path | None, arg(aliases=["--folder"])] = None
    resume: Path | None = None
    table: Path | None = None
    runs: int = 1
    strengths: tuple[float, ...] = ()
    short_epochs: int | None = None
    budget: str | None = None
    experiment: Annotated[Experiment, arg(name="")] = Experiment()  # noqa: RUF009  (frozen)


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """Train the network of a genotype from scratch and measure it on the test set.

    Args:
        genotype: A built-in name, a file, or the text of a genotype.
        space: FILE.py:NAME of the genotype's space, if it is one of your own.
        recipe: Settings to start from.
        data: Where the images come from.
        run: The run folder, a new one or one to go on with; by default runs/ and the time. Beside torchrun, which
            takes --run for an option of its own, write --folder.
        images: What to do with them.
        setup: How and where to train.
        config: The training.
    """

    genotype: Positional[str]
    space: str | None = None
    recipe: Annotated[str, arg(help=RECIPE_DOC)] = "digits"
    data: Annotated[str, arg(help=DATA_HELP)] = "digits"
    run: Annotated[Path | None, arg(aliases=["--folder"])] = None
    images: Annotated[DataConfig, arg(name="")] = DataConfig()  # noqa: RUF009  (frozen)
    setup: Annotated[TrainingSetup, arg(name="")] = TrainingSetup()  # noqa: RUF009  (frozen)
    config: Annotated[RetrainConfig, arg(name="")] = RetrainConfig()  # noqa: RUF009  (frozen)


def run_search(command: Search, console: Console) -> None:
    with joined(command.experiment.config.device) as ranks:
        _search_with(ranks, command, console)


def _search_with(ranks: Ranks, command: Search, console: Console) -> None:
    experiment, series = command.experiment, None
    folder = Path(ranks.told(str(command.run or command.resume or _new_folder(command.experiment.method))))
    if command.runs != 1 or command.strengths:
        series = Series(
            experiment=experiment, runs=command.runs, strengths=command.strengths, short_epochs=command.short_epochs
        )
    named = command.run is not None or command.resume is not None
    remedy = "Only then they find it again."
    rule = "--run must name the run folder of processes that torchrun may restart"
    require(named or not may_be_restarted(), "search", rule, "none", remedy)
    restarted = is_restarted() and (folder / "config.json").is_file()
    if command.resume is not None or restarted:
        remedy = "Name the folder of a run."
        known = [name for name in ("series.json", "config.json") if (folder / name).is_file()]
        require(bool(known), "search", "--resume must name a run folder", str(folder), remedy)
        if known[0] == "series.json":
            series = load_series(folder)
        else:
            experiment = load_experiment(folder / "config.json")
    elif problem := ranks.told(_not_new(folder)):
        raise ValueError(problem)
    elif command.budget is not None:
        if ranks.is_first:
            with Status("planning", console=console) as status:
                experiment = fit_to_budget(experiment, command.budget, status.update, ranks.size)
        words = ranks.told(" ".join(experiment.config.recompute))  # all processes evaluate the same again
        experiment = replace(experiment, config=replace(experiment.config, recompute=tuple(words.split())))
        console.print(f"plan: --recompute {words}", highlight=False, soft_wrap=True)
    if series is not None and command.resume is None:
        series = replace(series, experiment=experiment)
    rule = "--runs and --strengths must stand in one process, which starts others"
    require(series is None or ranks.size == 1, "search", rule, f"{ranks.size} processes", "Leave torchrun out.")
    console.print(f"run folder: {folder}   (to go on after a stop: fastnas search --resume {folder})", soft_wrap=True)

    def show(title: str) -> Display:
        return Display(title, console)

    if series is None:
        outcome = run_experiment(experiment, folder, show, command.table, ranks)
    else:
        judged, best, outcome = run_series(series, folder, show, command.table)
        console.print(series_table(judged, best))
    print_outcome(outcome, console)


def run_retrain(command: Retrain, console: Console) -> None:
    with joined(command.setup.device) as ranks:
        _retrain_with(ranks, command, console)


def _retrain_with(ranks: Ranks, command: Retrain, console: Console) -> None:
    own = None if command.space is None else load_space(command.space)
    genotype = read_genotype(command.genotype, own)
    folder = Path(ranks.told(str(command.run or _new_folder("retrain"))))
    console.print(
        f"run folder: {folder}   (to go on after a stop: repeat the command with --run {folder})", soft_wrap=True
    )
    with ranks.first_before_others():
        data = load_data(command.data, command.images)
    if ranks.is_first:
        write_json(folder / "genotype.json", genotype_to_json(genotype))
    with Display(f"retrain on {data.name}", console) as display:
        result = retrain(
            genotype,
            data,
            command.config,
            command.setup,
            folder=folder,
            own=own,
            on_step=display.step,
            on_epoch=display.epoch,
            ranks=ranks,
        )
    if ranks.is_first:
        save_tensors(folder / "network.pt", result.network.state_dict())
    console.print(comparison_table(result, []))


def _new_folder(what: str) -> Path:
    return Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{what.replace(':', '.')}"


def _not_new(folder: Path) -> str:
    """What is wrong with ``folder`` as the place of a new run, if anything is."""
    if not folder.exists() or not any(folder.iterdir()):
        return ""
    remedy = f"To go on with it: fastnas search --resume {folder}."
    return complaint("search", "the run folder must be new", f"{folder}, which holds files", remedy)
