"""Print the cells of a genotype, and draw them."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from fastnas.spaces.formats import as_genotype, describe_genotype
from fastnas.supernet.own import load_space


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print the cells of a genotype, and draw them.

    Args:
        genotype: A built-in name, a file, or the text of a genotype.
        out: A .png or .svg file to draw to.
        space: FILE.py:NAME or module:name of the genotype's space, if it is one of your own.
    """

    genotype: Positional[str]
    out: Path | None = None
    space: str | None = None


def run(command: Show, console: Console) -> None:
    """Print the genotype, and draw it if a file is named."""
    own = None if command.space is None else load_space(command.space)
    genotype = as_genotype(command.genotype, own)
    console.print(describe_genotype(genotype, own))
    if command.out is not None:
        from fastnas.report.draw import save_drawing  # noqa: PLC0415  (matplotlib takes half a second)

        save_drawing(genotype, command.out, own)
        console.out(f"drawn: {command.out}")
