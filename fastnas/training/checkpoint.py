"""Checkpoints that cannot be mistaken for another run's, and cannot execute anything."""

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fastnas.files import save_tensors
from fastnas_kernels.check import complaint, require

FORMAT = "fastnas checkpoint 1"
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
)


def save_checkpoint(path: Path, identity: str, state: Mapping[str, Any]) -> None:
    """Write ``state`` atomically, marked with the identity of what it belongs to.

    Args:
        path: The file.
        identity: What must be equal for the state to fit, for example the canonical text of a configuration.
        state: A nest of dictionaries and lists of tensors, numbers and strings.
    """
    save_tensors(path, {"format": FORMAT, "identity": identity, "state": dict(state)})


def load_checkpoint(path: Path, identity: str, device: torch.device) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        ValueError: If the file is truncated, is no checkpoint of fastnas, or belongs to something else.
    """
    where, remedy = "checkpoint", f"Delete {path} to start this part of the run again."
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except UNREADABLE as error:
        got = f"a truncated or foreign file ({type(error).__name__})"
        raise ValueError(complaint(where, f"{path} must be a checkpoint of fastnas", got, remedy)) from None
    is_ours = isinstance(content, dict) and content.get("format") == FORMAT and {"identity", "state"} <= content.keys()
    require(is_ours, where, f"{path} must be a checkpoint of fastnas", "another program's file", remedy)
    same = content["identity"] == identity
    rule = f"{path} must belong to the configuration beside it"
    require(same, where, rule, "a checkpoint of another configuration", remedy)
    return content["state"]
