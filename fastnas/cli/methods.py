"""List the methods: their names, what they do, and where they come from."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from fastnas.errors import invalid
from fastnas.methods.registry import METHODS, list_methods, summarize


@dataclass(frozen=True, kw_only=True)
class Methods:
    """List the methods: their names, what they do, and where they come from.

    Args:
        pattern: Only those whose names match, such as '*darts*'.
    """

    pattern: Positional[str] = "*"


def run(command: Methods, console: Console) -> None:
    """Print the table."""
    names = list_methods(command.pattern)
    if not names:
        raise invalid(
            "methods", "the pattern must match a method", repr(command.pattern), "Name one such as '*darts*'."
        )
    table = Table("method", "what it does", "source")
    for name in names:
        table.add_row(name, Text(summarize(METHODS[name])), Text(METHODS[name]().source))
    console.print(table)
