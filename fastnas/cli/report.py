"""Write report.html of a run folder, finished or not."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html of a run folder, finished or not.

    Args:
        run: The run folder.
    """

    run: Positional[Path]


def run(command: Report, console: Console) -> None:
    """Write the page."""
    from fastnas.report.page import write_report  # noqa: PLC0415  (matplotlib takes half a second)

    console.out(f"report: {write_report(command.run)}")
