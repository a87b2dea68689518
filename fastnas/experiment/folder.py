"""A run folder belongs to one process at a time, and a start that fails leaves none behind."""

import json
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from fastnas.errors import invalid
from fastnas.files import remove_leftovers
from fastnas.ranks import ALONE, Ranks

try:
    import fcntl
except ImportError:  # not on Windows, where nothing is locked
    fcntl = None

LOCK = ".lock"
_RESULTS = ("checkpoint.pt", "metrics.jsonl")


def new_folder(what: str) -> Path:
    """The folder of a run that was given none: runs/, the time, and what it is about."""
    plain = "".join(c if c.isalnum() or c in "_-" else "." for c in what)
    return Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{plain[-40:]}"


def holds_files(folder: Path) -> bool:
    """Whether ``folder`` cannot be that of a new run."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


@contextmanager
def open_run(folder: Path, ranks: Ranks = ALONE) -> Generator[None, None, None]:
    """Make ``folder`` if need be and hold it inside of a ``with`` block, so that no other process writes to it.

    The lock is the operating system's: it is gone when its holder is, however that ended. A folder that the block made
    and in which nothing was saved is removed again if the block fails.

    Args:
        folder: The run folder.
        ranks: The processes that share it; the first one holds it.

    Raises:
        ValueError: If another process holds it; the message names the process and its host.
    """
    if not ranks.is_first:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder):
            remove_leftovers(folder)  # of processes that were killed: nobody else writes here now
            yield
    except BaseException:
        if made and not any(any(folder.rglob(name)) for name in _RESULTS):
            _remove(folder, made)
        raise


@contextmanager
def _locked(folder: Path) -> Generator[None, None, None]:
    path = folder / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                rule = f"{folder} must not be in use by another process"
                remedy = "Wait for it, stop it, or take another folder."
                raise invalid("run", rule, _holder(descriptor), remedy) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        yield
        path.unlink(missing_ok=True)
    except BaseException:
        if _is_ours(descriptor):
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> dict[str, object]:
    try:
        content = json.loads(os.pread(descriptor, 1000, 0))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _holder(descriptor: int) -> str:
    content = _read(descriptor)
    return f"process {content.get('pid', '?')} on {content.get('host', '?')}"


def _is_ours(descriptor: int) -> bool:
    return _read(descriptor) == {"host": socket.gethostname(), "pid": os.getpid()}


def _remove(folder: Path, made: list[Path]) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink(missing_ok=True)
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        path.rmdir()
    for path in made:
        with suppress(OSError):
            path.rmdir()
