"""Search an architecture, retrain it, compare it with random ones, and leave a run folder with a report."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.status import Status
from tyro.conf import arg

from fastnas.cli.options import quote_command
from fastnas.cli.plan import fit_to_budget
from fastnas.cli.printing import describe_data, describe_folder, print_outcome, tabulate_series
from fastnas.cli.recipe import RECIPE_HELP, SMOKE_HELP, find_value, recipe_in
from fastnas.data import ImageData
from fastnas.errors import invalid
from fastnas.experiment.experiment import run_experiment
from fastnas.experiment.extending import extended_run
from fastnas.experiment.folder import holds_files, new_folder
from fastnas.experiment.progress import Display
from fastnas.experiment.series import Series, load_series, run_series
from fastnas.experiment.settings import Experiment, load_experiment, names_code_in, require_used
from fastnas.ranks import Ranks, is_restarted, join_processes, may_be_restarted

FIRST = (
    "--data",
    "--method",
    "--space",
    "--recipe",
    "--epochs",
    "--channels",
    "--batch-size",
    "--seed",
    "--run",
    "--resume",
    "--smoke",
)
MORE = ("--epochs", "--retrain.epochs")
WITH_RESUME = ("--resume", "--table", "--trust", *MORE)


@dataclass(frozen=True, kw_only=True)
class Search:
    """Search an architecture, retrain it, compare it with random ones, and leave a run folder with a report.

    Args:
        recipe: Settings to start from.
        smoke: Shrink the recipe.
        trust: Let a config.json, also that of a run to go on with, name code to run as method or space.
        run: The run folder, a new one; by default runs/ and the time. Beside torchrun, which takes --run for an option
            of its own, write --folder.
        resume: A run folder to go on with. It knows its settings: give no others, but for larger --epochs or
            --retrain.epochs, which let a finished search or its retrainings go on.
        table: A CSV table of accuracies (NAS-Bench-201's) in which to look up what was found.
        runs: Searches side by side, with seeds that follow each other; the best goes on, validated by a short
            retraining on images held out of it.
        strengths: Instead of seeds, how much each search regularises: R-DARTS is the best of four.
        short_epochs: Epochs of that retraining; unset for a quarter of the whole one.
        budget: Memory that a step of the search may take: decides --recompute, see `fastnas plan`.
        experiment: What to do.
    """

    recipe: Annotated[str, arg(help=RECIPE_HELP)] = "digits"
    smoke: Annotated[bool, arg(help=SMOKE_HELP)] = False
    trust: bool = False
    run: Annotated[Path | None, arg(aliases=["--folder"])] = None
    resume: Path | None = None
    table: Path | None = None
    runs: int = 1
    strengths: tuple[float, ...] = ()
    short_epochs: int | None = None
    budget: str | None = None
    experiment: Annotated[Experiment, arg(name="")] = Experiment()


def default(arguments: list[str]) -> Search:
    """The command with the defaults of the recipe that ``arguments`` name."""
    resumed = find_value("--resume", arguments)
    if resumed is not None:
        beside = [a for a in arguments if a.startswith("--") and a.split("=")[0] not in WITH_RESUME]
        if beside and not {"--help", "--help-all"} & set(beside):
            remedy = "The run's config.json decides them; to change one, start a new run with --recipe RUN/config.json."
            raise invalid("search", "--resume takes no other settings", " ".join(beside), remedy)
        several, one = (Path(resumed) / name for name in ("series.json", "config.json"))
        if several.is_file() and any(find_value(option, arguments) is not None for option in MORE):
            remedy = f"Name one of them: --resume {Path(resumed) / 'runs' / '0'}."
            raise invalid(
                "search", "more epochs can be given to one run only", f"{resumed}, which holds several", remedy
            )
        if one.is_file() and not several.is_file():
            return Search(experiment=load_experiment(one, "--trust" in arguments))
    epochs = find_value("--epochs", arguments)
    if resumed is None and epochs is not None and find_value("--minutes", arguments) is not None:
        raise invalid("search", "--minutes chooses the epochs", f"--epochs {epochs} beside it", "Give one of them.")
    return Search(experiment=recipe_in(arguments))


def run(command: Search, console: Console) -> None:
    """Search as the command says, alone or as one of several processes."""
    with join_processes(command.experiment.config.device) as ranks:
        _search(ranks, command, console)


def _search(ranks: Ranks, command: Search, console: Console) -> None:
    experiment, series = command.experiment, None
    longer: AbstractContextManager[Experiment] | None = None
    folder = Path(ranks.broadcast(str(command.run or command.resume or new_folder(experiment.method))))
    if command.run is None and command.resume is None and may_be_restarted():
        rule = "--run must be given where torchrun may restart processes"
        raise invalid("search", rule, "none", "Only then do they find the run again.")
    restarted = is_restarted() and (folder / "config.json").is_file()
    if command.resume is not None or restarted:
        experiment, series = _load(folder, command.trust or restarted)
        wanted = _epochs(command.experiment)
        if command.resume is not None and series is None and wanted != _epochs(experiment):
            longer = extended_run(experiment, folder, *wanted, ranks)
    else:
        require_used(experiment)
        if ranks.broadcast("used" if holds_files(folder) else ""):
            remedy = f"To go on with it: {quote_command('fastnas', 'search', '--resume', folder)}."
            raise invalid("search", "the run folder must be new", f"{folder}, which is not empty", remedy)
        if command.budget is not None:
            experiment = _within_budget(experiment, command.budget, ranks, console)
        if command.runs != 1 or command.strengths:
            series = Series(
                experiment=experiment, runs=command.runs, strengths=command.strengths, short_epochs=command.short_epochs
            )
        elif command.short_epochs is not None:
            raise invalid("search", "--short-epochs needs --runs or --strengths", command.short_epochs)
    if series is not None and ranks.size > 1:
        rule = "--runs and --strengths need a single process, which starts the others"
        raise invalid("search", rule, f"{ranks.size} processes", "Leave torchrun out.")
    trust = ["--trust"] if names_code_in(experiment) else []

    def start(data: ImageData) -> None:
        resume = quote_command("fastnas", "search", "--resume", folder, *trust)
        for line in [describe_folder(folder, resume), *describe_data(data)]:
            console.out(line)

    def show(title: str) -> Display:
        return Display(title, console)

    if series is None:
        with longer or nullcontext(experiment) as found:
            outcome = run_experiment(found, folder, show, command.table, ranks, on_start=start)
    else:
        validated, best, outcome = run_series(series, folder, show, command.table, on_start=start)
        console.print(tabulate_series(validated, best))
    print_outcome(outcome, console)


def _epochs(experiment: Experiment) -> tuple[int, int]:
    return experiment.config.epochs, experiment.retrain.epochs


def _load(folder: Path, trust: bool) -> tuple[Experiment, Series | None]:
    """What the run in ``folder`` is to do."""
    if (folder / "series.json").is_file():
        series = load_series(folder, trust)
        return series.experiment, series
    if (folder / "config.json").is_file():
        return load_experiment(folder / "config.json", trust), None
    raise invalid("search", "--resume must name a run folder", str(folder), "Name the folder of a run.")


def _within_budget(experiment: Experiment, budget: str, ranks: Ranks, console: Console) -> Experiment:
    if ranks.is_first:
        with Status("planning", console=console) as status:
            experiment = fit_to_budget(experiment, budget, status.update, ranks.size)
    words = ranks.broadcast(" ".join(experiment.config.recompute))  # all processes recompute the same
    console.out(f"plan: --recompute {words}")
    return replace(experiment, config=replace(experiment.config, recompute=tuple(words.split())))
