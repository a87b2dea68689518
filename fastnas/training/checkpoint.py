"""Checkpoints that cannot be mistaken for another run's, cannot execute anything, and show when they are damaged."""

import json
import pickle
import struct
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastnas.errors import complaint, invalid
from fastnas.files import write_atomically
from fastnas.fingerprint import fingerprint

FORMAT = "fastnas checkpoint 2"
WHERE = "checkpoint"
# What torch.load raises for files that it did not write: its unpickler checks neither its stack nor its buffers
UNREADABLE = (
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    struct.error,
    RecursionError,
    MemoryError,
)


def save_checkpoint(path: Path, identity: str, state: Mapping[str, Any]) -> None:
    """Write ``state`` atomically, with the identity of what it belongs to and a digest; the file before it is kept."""
    broken = [name for name, tensor in _tensors(state) if not torch.isfinite(tensor).all()]
    if broken:
        remedy = f"{path} stays as it was. Lower the learning rate or weight decay, or clip gradients."
        got = f"{len(broken)} tensors that are not, among them {broken[0]}"
        raise FloatingPointError(complaint(WHERE, "what is saved must be finite", got, remedy))
    content = {"format": FORMAT, "identity": identity, "state": dict(state), "digest": fingerprint(state)}
    write_atomically(path, lambda file: torch.save(content, file), keep=previous_checkpoint(path))


def load_checkpoint(path: Path, identity: str, device: torch.device) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote; where it is damaged, what was written before it, with a warning.

    Raises:
        ValueError: If both files are damaged, or no checkpoints of fastnas, or belong to something else.
    """
    try:
        content = _read(path, device)
    except ValueError as error:
        if not previous_checkpoint(path).exists():
            raise
        try:
            content = _read(previous_checkpoint(path), device)
        except ValueError:
            raise error from None
        warnings.warn(
            f"{error} The one before it, {previous_checkpoint(path).name}, is taken.", RuntimeWarning, stacklevel=2
        )
    if content["identity"] != identity:
        rule = f"{path} must belong to this configuration and these images"
        got = f"a checkpoint of another configuration ({_difference(content['identity'], identity)})"
        raise invalid(WHERE, rule, got, _remedy(path))
    return content["state"]


def read_identity(path: Path) -> str | None:
    """What the checkpoint says that it belongs to; ``None`` if there is none, or none that can be read."""
    for place in (path, previous_checkpoint(path)):
        try:
            return _read(place, torch.device("cpu"))["identity"]
        except ValueError:
            continue
    return None


def read_settings(identity: str | None) -> dict[str, Any]:
    """The settings that an identity names last; none for one of another kind."""
    try:
        numbers = json.loads(identity or "[{}]")[-1]
    except (ValueError, LookupError, TypeError):
        return {}
    return numbers if isinstance(numbers, dict) else {}


def with_fewer_epochs(path: Path, identity: str) -> str:
    """``identity`` with the epochs of the checkpoint, where only they differ and are fewer."""
    saved = read_identity(path)
    before = read_settings(saved).get("epochs")
    parts = json.loads(identity)
    if not isinstance(before, int) or before >= parts[-1]["epochs"]:
        return identity
    parts[-1]["epochs"] = before
    return json.dumps(parts) if json.dumps(parts) == saved else identity


def has_checkpoint(path: Path) -> bool:
    """Whether there is a checkpoint, or the one before it, if a kill came between the two."""
    return path.exists() or previous_checkpoint(path).exists()


def delete_checkpoint(path: Path) -> None:
    """Delete it, and the one before it."""
    for file in (path, previous_checkpoint(path)):
        file.unlink(missing_ok=True)


def note_threads(path: Path, saved: Mapping[str, Any], device: torch.device) -> None:
    """Warn if what goes on has another number of threads than what was saved: sums then have another order."""
    before, now = saved.get("threads"), torch.get_num_threads()
    if device.type == "cpu" and before not in (None, now):
        rule = f"{path} needs {before} threads to end with the same bits"
        remedy = f"It goes on; the last digits will differ. For the same ones set OMP_NUM_THREADS={before}."
        warnings.warn(complaint(WHERE, rule, now, remedy), RuntimeWarning, stacklevel=2)


@contextmanager
def restoring(path: Path) -> Generator[None, None, None]:
    """Turn whatever goes wrong inside, while a state is taken over, into one line."""
    try:
        yield
    except (*UNREADABLE, AssertionError) as error:
        got = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise invalid(WHERE, f"{path} must hold the complete state of this run", got, _remedy(path)) from None


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    rule = f"{path} must be a checkpoint of fastnas"
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except UNREADABLE as error:
        raise invalid(WHERE, rule, f"a truncated or foreign file ({type(error).__name__})", _remedy(path)) from None
    is_ours = isinstance(content, dict) and str(content.get("format")).startswith("fastnas checkpoint ")
    if not is_ours or not {"identity", "state"} <= content.keys():
        raise invalid(WHERE, rule, "another program's file", _remedy(path))
    if content["format"] != FORMAT:
        rule = f"{path} must be a checkpoint of this version of fastnas"
        raise invalid(WHERE, rule, content["format"], _remedy(path))
    damaged = not isinstance(content["state"], dict) or content.get("digest") != fingerprint(content["state"])
    if damaged or not isinstance(content["identity"], str):
        raise invalid(WHERE, f"{path} must be what was written", "other contents than its digest says", _remedy(path))
    return content


def previous_checkpoint(path: Path) -> Path:
    """Where the one before ``path`` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _remedy(path: Path) -> str:
    return f"Delete {path} to start this part of the run again."


def _difference(one: str, other: str) -> str:
    """The first place where two texts differ."""
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = max(one.rfind(",", 0, at), one.rfind("{", 0, at), 0)
    return f"{one[start : at + 20].lstrip(', ')!r}, not {other[start : at + 20].lstrip(', ')!r}"


def _tensors(nest: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(nest, Tensor):
        yield name, nest
    elif isinstance(nest, Mapping):
        for key, part in nest.items():
            yield from _tensors(part, f"{name}.{key}" if name else str(key))
    elif isinstance(nest, list | tuple):
        for i, part in enumerate(nest):
            yield from _tensors(part, f"{name}.{i}")
