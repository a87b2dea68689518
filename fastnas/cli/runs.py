"""The commands ``fastnas compare`` and ``fastnas pack``."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
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


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Put a run into one archive to share: configuration, genotype, metrics, model and report; no checkpoints.

    Args:
        run: A run folder.
        out: The archive; by default RUN.zip.
    """

    run: Positional[Path]
    out: Path | None = None


def run_compare(command: Compare, console: Console) -> None:
    from fastnas.report.compare import (  # noqa: PLC0415  (matplotlib takes half a second)
        compare_runs,
        find_runs,
        write_comparison,
    )

    rows = compare_runs(find_runs(command.runs))
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    page = command.out.with_suffix(".html")
    write_comparison(rows, command.out, page)
    console.print(f"written: {command.out} and {page}", highlight=False, soft_wrap=True)


def run_pack(command: Pack, console: Console) -> None:
    names = ("config.json", "genotype.json")
    if not any((command.run / name).is_file() for name in names):
        raise invalid("pack", "run must be a run folder", f"{command.run}, without {' or '.join(names)}")
    out = command.out or command.run.resolve().with_suffix(".zip")
    staged = out.with_name(f".{out.stem}.staged")
    try:
        shutil.copytree(command.run, staged / command.run.resolve().name, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        made = Path(shutil.make_archive(str(out.with_name(f".{out.stem}.making")), "zip", staged))
        made.replace(out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    console.print(f"packed: {out}", highlight=False, soft_wrap=True)


_LEFT_OUT = ("checkpoint*.pt*", "*.tmp", "events.out.*", "*.lock", ".*")
