"""Run folders, as the command line names them."""

from datetime import datetime
from pathlib import Path


def new_folder(what: str) -> Path:
    """The folder of a run that was given none: runs/, the time, and what it is about."""
    plain = "".join(c if c.isalnum() or c in "_-" else "." for c in what)
    return Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{plain[-40:]}"


def holds_files(folder: Path) -> bool:
    """Whether ``folder`` cannot be that of a new run."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def run_folder_line(folder: Path, command: str) -> str:
    """What is printed when a run has begun."""
    return f"run folder: {folder}   (to go on after a stop: {command})"
