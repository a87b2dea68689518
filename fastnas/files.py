"""Files that are either whole or not there."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import ConfigDict

from fastnas_kernels.check import complaint

STRICT = ConfigDict(extra="forbid")  # a misspelt field in a configuration file is an error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside ``path`` and move it there once it is complete and on the disk.

    Whatever happens meanwhile - a kill, a full disk - the old file stays as it was.

    Args:
        path: Where the file goes; its folder is made if need be.
        write: Writes the content to the open file that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, data: object, indent: int | None = 2) -> None:
    """Write ``data`` as JSON, atomically; with ``indent`` ``None`` in one line."""
    text = json.dumps(data, indent=indent, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> object:
    """Read a JSON file; a missing or broken one is named in a single line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(complaint("run", f"{path.name} must exist", f"no file {path}")) from None
    except (ValueError, RecursionError) as error:  # among others UnicodeDecodeError, and numbers of too many digits
        raise ValueError(complaint("run", f"{path} must hold JSON", str(error).split(":")[0])) from None


def append_json_line(path: Path, record: Mapping[str, object]) -> None:
    """Append one record to a file of JSON lines and bring it to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The complete records of a file of JSON lines; a last line that a kill cut short is left out."""
    return list(_complete_records(path)) if path.exists() else []


def _complete_records(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def keep_json_lines(path: Path, keep: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    """Drop the records that ``keep`` refuses, atomically, and return the others; a missing file has none."""
    kept = [record for record in read_json_lines(path) if keep(record)]
    if path.exists():
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in kept)
        write_atomically(path, lambda file: file.write(text.encode()))
    return kept


def save_tensors(path: Path, state: Mapping[str, object]) -> None:
    """Write a nest of tensors, numbers and strings, atomically; readable by :func:`load_tensors`."""
    write_atomically(path, lambda file: torch.save(dict(state), file))
