"""Files that are either whole or not there."""

import errno
import glob
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import torch

from fastnas_kernels.check import complaint

if TYPE_CHECKING:  # a machine where kernels are measured need not have it
    from pydantic import ConfigDict, TypeAdapter

T = TypeVar("T")
TEMPORARY = ".part"  # how the names of files end that are not complete
ABANDONED = 3600.0  # seconds after which nobody writes to such a file any more
LARGEST = 2**28  # bytes of a file of text
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CHECKSUM = "checksum"
STRICT: "ConfigDict" = {
    "extra": "forbid",
    "allow_inf_nan": False,
}  # a misspelt field in a configuration file is an error


def write_atomically(path: Path, write: Callable[[BinaryIO], object], keep: Path | None = None) -> None:
    """Write a file beside ``path`` and move it there once it is complete and on the disk.

    Whatever happens meanwhile - a kill, a full disk - the old file stays as it was.

    Args:
        path: Where the file goes; its folder is made if need be.
        write: Writes the content to the open file that it is given.
        keep: What the old file is called from then on; ``None`` to replace it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    except OSError as error:
        raise explain(error, path) from None
    try:
        with open(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        if keep is not None and path.exists():
            keep.unlink(missing_ok=True)
            try:
                os.link(path, keep)  # so that there is no moment without the file
            except OSError:  # a file system without links
                os.replace(path, keep)
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explain(error, path) from None
        if isinstance(error.__context__, OSError) and error.__context__.errno in FULL:  # PyTorch's writer hides it
            raise explain(error.__context__, path) from None
        raise


def _remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed left beside ``path``."""
    for other in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > ABANDONED:
                other.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that processes which were killed left in ``folder`` and the folders in it.

    Nobody else may write there meanwhile.
    """
    for other in folder.rglob(f".*{TEMPORARY}"):
        other.unlink(missing_ok=True)


def explain(error: OSError, path: Path) -> OSError:
    """The same error, saying in one line which file could not be written and what to do."""
    remedies = {
        errno.ENOSPC: "What was saved before is whole: free some space and go on with --resume.",
        errno.EDQUOT: "What was saved before is whole: free some space and go on with --resume.",
        errno.EFBIG: "What was saved before is whole: raise the limit on file sizes and go on with --resume.",
        errno.EROFS: "Name a folder on a disk that can be written.",
        errno.EACCES: "Name a folder that you may write to, or change its permissions.",
        errno.EPERM: "Name a folder that you may write to, or change its permissions.",
        errno.ENAMETOOLONG: "Name a folder with a shorter name.",
        errno.ENOTDIR: "Name a folder, not a file.",
        errno.EEXIST: "Name a folder, not a file.",
    }
    text = complaint(
        "disk", f"{path} must be written", error.strerror or str(error), remedies.get(error.errno or 0, "")
    )
    made = type(error)(text)
    made.errno = error.errno
    return made


def write_json(path: Path, data: object, indent: int | None = 2, checksum: bool = False) -> None:
    """Write ``data`` as JSON, atomically."""
    if checksum:
        assert isinstance(data, Mapping)
        data = {**data, CHECKSUM: sum_up(data)}
    text = json.dumps(data, indent=indent, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def sum_up(data: object, before: str = "") -> str:
    """Sixteen hexadecimal digits of what JSON says of ``data``, in whatever order and layout."""
    text = json.dumps(data, sort_keys=True, allow_nan=False)
    return hashlib.sha256(f"{before}{text}".encode()).hexdigest()[:16]


def read_json(path: Path) -> object:
    """Read a JSON file, and compare it with its checksum, if it has one; the checksum itself is left out."""
    return without_checksum(parse_json(read_text(path), path), str(path))


def without_checksum(content: object, what: str) -> object:
    """Decoded JSON without its checksum, if it has one."""
    if not isinstance(content, dict) or CHECKSUM not in content:
        return content
    rest = {name: value for name, value in content.items() if name != CHECKSUM}
    if content[CHECKSUM] != sum_up(rest):
        remedy = f"Restore it. If the change is yours, delete its line {CHECKSUM!r}."
        raise ValueError(complaint("run", f"{what} must not have been changed", "other content", remedy))
    return rest


def parse_json(text: str, path: Path, line: int | None = None) -> object:
    """Decode JSON. Numbers that are not finite are none."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # among others numbers of too many digits
        place = f"{path}" if line is None else f"line {line} of {path}"
        got = str(error).split(":")[0] or "too many brackets"
        raise ValueError(complaint("run", f"{place} must hold JSON", got)) from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no finite number")


def read_text(path: Path, what: str = "JSON") -> str:
    """The text of a regular file of at most :data:`LARGEST` bytes."""
    if not path.exists():
        raise FileNotFoundError(complaint("run", f"{path.name} must exist", f"no file {path}"))
    size = path.stat().st_size if path.is_file() else None
    if size is None or size > LARGEST:
        rule = f"{path} must be a file of at most {LARGEST >> 20} MiB"
        raise ValueError(complaint("run", rule, "no regular file" if size is None else f"{size:,} bytes"))
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(complaint("run", f"{path} must hold {what}", "bytes that are no text")) from None


def validate(adapter: "TypeAdapter[T]", data: object, where: str, rule: str, remedy: str = "") -> T:
    """Return the value that decoded JSON describes; the error of a file that breaks ``rule`` names its first wrong
    field."""
    from pydantic import ValidationError  # noqa: PLC0415  (see above)

    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its values"
        raise ValueError(complaint(where, rule, f"{place}: {first['msg']}", remedy)) from None


def append_json_line(path: Path, record: Mapping[str, object]) -> None:
    """Append one record to a file of JSON lines and bring it to the disk; a half line at its end goes."""
    line = json.dumps(record, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            _drop_half_line(file)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise explain(error, path) from None


def _drop_half_line(file: BinaryIO) -> None:
    """Cut ``file`` behind its last complete line."""
    end = file.seek(0, os.SEEK_END)
    if end == 0 or (file.seek(end - 1), file.read(1))[1] == b"\n":
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines without a last line that a kill cut short; a missing file has none."""
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(read_text(path).split("\n")[:-1], 1):
        record = parse_json(line, path, number)
        if not isinstance(record, dict):
            got = type(record).__name__
            raise ValueError(complaint("run", f"line {number} of {path} must be a JSON object", got))
        records.append(record)
    return records


def save_tensors(path: Path, state: Mapping[str, object]) -> None:
    """Write a nest of tensors, numbers and strings, atomically; readable by :func:`load_tensors`."""
    write_atomically(path, lambda file: torch.save(dict(state), file))
