"""Which implementation serves a tensor: Triton on GPUs, compiled code on CPUs, the eager definitions elsewhere, or what
the user forces."""

import importlib.util
import os
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from fastnas_kernels.check import Unavailable, complaint

Backend = Literal["triton", "cpu", "reference"]
_TRITON_IS_INSTALLED = importlib.util.find_spec("triton") is not None
_as_on_a_gpu = 0  # how many contexts are open: a number, for torch.compile of PyTorch 2.11 reads no ContextVar


@contextmanager
def cells_as_on_a_gpu() -> Generator[None, None, None]:
    """Cells of tensors without memory take the way of Triton's kernels in this context, to count what a GPU would hold.

    Nothing is launched, and no GPU, Triton or compiler is needed.
    """
    global _as_on_a_gpu  # noqa: PLW0603  (one process has one answer; it is not a thread's)
    _as_on_a_gpu += 1
    try:
        yield
    finally:
        _as_on_a_gpu -= 1


def are_cells_as_on_a_gpu() -> bool:
    """Whether the code runs inside :func:`cells_as_on_a_gpu`."""
    return _as_on_a_gpu > 0


def backend_for(device: torch.device) -> Backend:
    """Name the backend that computes on ``device``.

    CUDA tensors are served by Triton, those of the CPU by compiled code (``cpu``) where a family of kernels has it,
    and all others by the eager definitions (``reference``), unless the environment variable
    ``FASTNAS_BACKEND=triton|cpu|reference``, read at every call, forces one. Where that one cannot serve, there is an
    error and never a silent fallback.

    Args:
        device: Where the tensors lie.

    Returns:
        ``"triton"``, ``"cpu"`` or ``"reference"``.

    Raises:
        Unavailable: If the variable has an unknown value, or the backend cannot serve ``device`` here.
    """
    backend = forced_backend() or {"cuda": "triton", "cpu": "cpu"}.get(device.type, "reference")
    if backend == "reference":
        return "reference"
    if backend == "triton":
        _require_triton(device)
        return "triton"
    if backend == "cpu":
        rule = "tensors must be on the CPU when FASTNAS_BACKEND=cpu"
        if device.type not in ("cpu", "meta"):
            raise Unavailable(complaint("backend_for", rule, device, "Move them there, or unset FASTNAS_BACKEND."))
        return "cpu"
    rule = "FASTNAS_BACKEND must be triton, cpu or reference"
    raise Unavailable(complaint("backend_for", rule, repr(backend), "Set it to one of them, or unset it."))


def forced_backend() -> str | None:
    """What the environment variable ``FASTNAS_BACKEND`` says, ``None`` if it is not set."""
    return os.environ.get("FASTNAS_BACKEND") or None


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the GPU on which ``tensor`` lies the current one, for as long as kernels are launched.

    Triton launches on the current GPU, whichever its arguments lie on: without this, a tensor of another one would be
    read from the wrong device. For tensors of other devices it does nothing.
    """
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _require_triton(device: torch.device) -> None:
    if not _TRITON_IS_INSTALLED:
        remedy = "Install it, or set FASTNAS_BACKEND=reference."
        raise Unavailable(complaint("backend_for", "the package triton must be installed", "none", remedy))
    if device.type not in ("cuda", "meta") and os.environ.get("TRITON_INTERPRET") != "1":
        rule = "tensors must be on CUDA when FASTNAS_BACKEND=triton"
        remedy = "Move them to a GPU, unset FASTNAS_BACKEND, or set TRITON_INTERPRET=1 (very slow, for tests)."
        raise Unavailable(complaint("backend_for", rule, device, remedy))
