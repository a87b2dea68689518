"""The command line: words only. Each verb is a dataclass; tyro makes its options and its help."""

import errno
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.status import Status
from rich.table import Table
from tyro.conf import Positional, subcommand

from fastnas.checks.check import check
from fastnas.cli.data import Index, Shards, run_index, run_shards
from fastnas.cli.latency import Latency, run_latency, size_of_network
from fastnas.cli.models import Evaluate, Export, Predict, run_evaluate, run_export, run_predict
from fastnas.cli.planning import PlanCommand, make_plan, scale_over_gpus
from fastnas.cli.profile import Profile, run_profile
from fastnas.cli.runs import Compare, Pack, run_compare, run_pack
from fastnas.cli.training_verbs import Retrain, Search, run_retrain, run_search
from fastnas.costs.tables import NetworkSize
from fastnas.experiment.experiment import Experiment, load_experiment, method_named
from fastnas.experiment.recipes import RECIPES
from fastnas.memory.text import describe as describe_plan
from fastnas.memory.text import describe_scaling
from fastnas.methods.library import METHODS
from fastnas.methods.registry import summarize
from fastnas.ranks import place_in_environment
from fastnas.report.text import genotype_text
from fastnas.spaces.formats import read_genotype
from fastnas.supernet.own import load_space
from fastnas_kernels.check import Unavailable, complaint, require

DESCRIPTION = "Differentiable architecture search: the DARTS family in one engine. `fastnas search` alone does it all."


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html of a run folder, finished or not.

    Args:
        run: The run folder.
    """

    run: Positional[Path]


@dataclass(frozen=True, kw_only=True)
class Methods:
    """List the methods."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """Compare the gradient of a method with what it claims to be, on a tiny problem in float64.

    The exit status is 1 if anything failed.

    Args:
        method: One of those that `fastnas methods` lists, or module:function of your own that returns a Method.
        space: darts, gdas_frc, nasbench201, s1, s2, s3, s4, sharpdarts, sharperdarts, dso, or FILE.py:NAME of your own.
        seed: Decides everything random.
    """

    method: str = "darts"
    space: str = "nasbench201"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print the cells of a genotype, and draw them.

    Args:
        genotype: A built-in name, a file, or the text of a genotype.
        out: A .png or .svg file to draw to.
        space: FILE.py:NAME of the genotype's space, if it is one of your own.
    """

    genotype: Positional[str]
    out: Path | None = None
    space: str | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = "fastnas"
    # PyTorch's own dual numbers, which second order goes through, say it of themselves
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
    try:
        ranks = place_in_environment()
        name = name if ranks.size == 1 else f"fastnas, rank {ranks.index}"
        console = Console(quiet=not ranks.is_first)
        command = parse(arguments)
        succeeded = _RUN[type(command)](command, console)
    except KeyboardInterrupt:
        # The first line printed names the run folder, and how to go on
        print("fastnas: interrupted. Everything up to the last checkpoint is kept.", file=sys.stderr)
        return 130
    except (ValueError, FloatingPointError, Unavailable, torch.OutOfMemoryError, OSError) as error:
        print(f"{name}: {' '.join(_explain(error).split())}", file=sys.stderr)
        return 1
    return 1 if succeeded is False else 0


def _explain(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "What was saved before is whole: free some space and go on with --resume."
        return complaint("disk", "there must be room for the run's files", error.strerror, remedy)
    return str(error)


def parse(arguments: list[str]) -> Any:
    """The command that the arguments spell, its defaults taken from the recipe that they name."""
    recipe = _recipe(_value_of("--recipe", arguments))
    search_default = Search(experiment=recipe)
    plan_default = PlanCommand(experiment=recipe)
    given = arguments[:1] == ["latency"] and {"--recipe", "--data"} & {a.split("=")[0] for a in arguments}
    size = size_of_network(recipe, _value_of("--data", arguments)) if given else NetworkSize()
    retrain_default = Retrain(genotype="", data=recipe.data, images=recipe.images, config=recipe.retrain)
    if _value_of("--resume", arguments) is not None:
        beside = [a for a in arguments[1:] if a.startswith("--") and a.split("=")[0] not in ("--resume", "--table")]
        remedy = "The run's config.json decides them; to change one, start a new run with --recipe RUN/config.json."
        require(not beside, "search", "--resume must stand without other settings", " ".join(beside), remedy)
    commands = (
        Annotated[Search, subcommand("search", default=search_default)]
        | Annotated[Retrain, subcommand("retrain", default=replace(retrain_default, genotype=tyro.MISSING))]
        | Annotated[PlanCommand, subcommand("plan", default=plan_default)]
        | Annotated[Report, subcommand("report")]
        | Annotated[Predict, subcommand("predict")]
        | Annotated[Evaluate, subcommand("evaluate")]
        | Annotated[Export, subcommand("export")]
        | Annotated[Compare, subcommand("compare")]
        | Annotated[Pack, subcommand("pack")]
        | Annotated[Methods, subcommand("methods")]
        | Annotated[Check, subcommand("check")]
        | Annotated[Show, subcommand("show")]
        | Annotated[Latency, subcommand("latency", default=Latency(size=size))]
        | Annotated[Profile, subcommand("profile")]
        | Annotated[Index, subcommand("index")]
        | Annotated[Shards, subcommand("shards")]
    )
    return tyro.cli(commands, args=arguments, prog="fastnas", description=DESCRIPTION)  # type: ignore[arg-type]


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    for position, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
        if argument == option and position + 1 < len(arguments):
            return arguments[position + 1]
    return None


def _recipe(name: str | None) -> Experiment:
    if name is None or name in RECIPES:
        return RECIPES[name or "digits"]
    path = Path(name)
    require(path.is_file(), "recipe", f"name must be one of {', '.join(RECIPES)}, or a config.json", repr(name))
    return load_experiment(path)


def _plan(command: PlanCommand, console: Console) -> bool:
    with Status("planning", console=console) as status:
        found = make_plan(command, status.update)
    for line in [*describe_plan(found), *describe_scaling(scale_over_gpus(command, found))]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return found.chosen is not None


def _report(command: Report, console: Console) -> None:
    from fastnas.report.page import write_report  # noqa: PLC0415  (matplotlib takes half a second)

    console.print(f"report: {write_report(command.run)}", highlight=False, soft_wrap=True)


def _methods(command: Methods, console: Console) -> None:
    table = Table("method", "what it does", "source")
    for name, recipe in METHODS.items():
        table.add_row(name, summarize(recipe), recipe().source)
    console.print(table)


def _check(command: Check, console: Console) -> bool:
    report = check(load_space(command.space), method_named(command.method), seed=command.seed)
    console.print(report.table())
    return report.ok


def _show(command: Show, console: Console) -> None:
    own = None if command.space is None else load_space(command.space)
    genotype = read_genotype(command.genotype, own)
    console.print(genotype_text(genotype, own), markup=False, highlight=False)
    if command.out is not None:
        from fastnas.report.draw import save_drawing  # noqa: PLC0415  (matplotlib takes half a second)

        save_drawing(genotype, command.out, own)
        console.print(f"drawn: {command.out}", highlight=False, soft_wrap=True)


_RUN: dict[type, Callable[[Any, Console], bool | None]] = {
    Search: run_search,
    PlanCommand: _plan,
    Retrain: run_retrain,
    Report: _report,
    Predict: run_predict,
    Evaluate: run_evaluate,
    Export: run_export,
    Compare: run_compare,
    Pack: run_pack,
    Methods: _methods,
    Check: _check,
    Show: _show,
    Latency: run_latency,
    Profile: run_profile,
    Index: run_index,
    Shards: run_shards,
}

if __name__ == "__main__":
    sys.exit(main())
