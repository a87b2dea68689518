"""Put runs next to each other: a table, a CSV file and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from fastnas.errors import invalid


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

    page = command.out.with_suffix(".html")
    if page == command.out:
        remedy = f"Name it {command.out.with_suffix('.csv')}: the page stands beside it."
        raise invalid("compare", "--out must name the CSV file", str(command.out), remedy)
    rows = compare_runs(find_runs(command.runs))
    console.print(arrange(rows))
    write_comparison(rows, command.out, page)
    console.out(f"written: {command.out} and {page}")


def arrange(rows: Sequence[Mapping[str, str]]) -> Table:
    """A column a run while these are fewer than the facts, so that it fits a terminal; otherwise a row a run."""
    if len(rows) < len(rows[0]):
        first, *facts = rows[0]
        lines = [{first: fact} | {str(i): row[fact] for i, row in enumerate(rows)} for fact in facts]
        headings = [first, *(row[first] for row in rows)]
    else:
        lines, headings = rows, list(rows[0])
    table = Table()
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    for line in lines:
        table.add_row(*(Text(value) for value in line.values()))
    return table
