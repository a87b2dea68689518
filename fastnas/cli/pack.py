"""Put a run into one archive to share."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from fastnas.errors import invalid

_LEFT_OUT = ("checkpoint*.pt*", "*.tmp", "events.out.*", "*.lock", ".*")


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Put a run into one archive to share: configuration, genotype, metrics, model and report; no checkpoints.

    Args:
        run: A run folder.
        out: The archive; by default RUN.zip.
    """

    run: Positional[Path]
    out: Path | None = None


def run(command: Pack, console: Console) -> None:
    """Write the archive."""
    names = ("config.json", "genotype.json")
    if not any((command.run / name).is_file() for name in names):
        raise invalid("pack", "run must be a run folder", f"{command.run}, without {' or '.join(names)}")
    run = command.run.resolve()
    out = command.out or run.with_name(f"{run.name}.zip")  # a suffix is part of a run's name: lr0.1
    staged = out.with_name(f".{out.stem}.staged")
    try:
        shutil.copytree(command.run, staged / _in_archive(run.name), ignore=shutil.ignore_patterns(*_LEFT_OUT))
        made = Path(shutil.make_archive(str(out.with_name(f".{out.stem}.making")), "zip", staged))
        made.replace(out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    console.out(f"packed: {out}")


def _in_archive(name: str) -> str:
    """A name that an archive can hold: its names are UTF-8, and those of Linux are any bytes."""
    return name.encode("utf-8", "backslashreplace").decode()
