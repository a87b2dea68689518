"""Put runs next to each other: a table, a CSV file and a page."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Put runs next to each other: a table, a CSV file and a page.

    Args:
        runs: Run folders, or folders of runs.
        out: Where to write the CSV file; the page stands beside it.
    """

    runs: Positional[tuple[Path, ...]]
    out: Path = Path("comparison.csv")


def run(command: Compare, console: Console) -> None:
    """Print the table, and write the CSV file and the page."""
    from fastnas.report.compare import (  # noqa: PLC0415  (matplotlib takes half a second)
        compare_runs,
        find_runs,
        write_comparison,
    )

    rows = compare_runs(find_runs(command.runs))
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(Text(value) for value in row.values()))
    console.print(table)
    page = command.out.with_suffix(".html")
    write_comparison(rows, command.out, page)
    console.out(f"written: {command.out} and {page}")
