"""Choose which images a search uses, class by class, and keep their numbers in a file; nothing is copied."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import arg

from fastnas.cli.options import quote_command
from fastnas.data import load_data, write_index
from fastnas.experiment.settings import DATA_HELP


@dataclass(frozen=True, kw_only=True)
class Index:
    """Choose which images a search uses, class by class, and keep their numbers in a file; nothing is copied.

    Args:
        data: Where the images come from.
        fractions: Shares of every class for the weights and for alpha.
        seed: Decides which images.
        out: The file, JSON.
    """

    data: Annotated[str, arg(help=DATA_HELP)]
    fractions: tuple[float, float] = (0.1, 0.025)
    seed: int = 0
    out: Path = Path("index.json")


def run(command: Index, console: Console) -> None:
    """Write the index file."""
    halves = write_index(command.out, load_data(command.data), command.fractions, command.seed)
    counts = f"{len(halves.weights)} images for the weights, {len(halves.alpha)} for alpha"
    line = f"index: {command.out}   ({counts}; use it: {quote_command('--index', command.out)})"
    console.out(line)
