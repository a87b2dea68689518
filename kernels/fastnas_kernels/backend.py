"""Which implementation serves a tensor: Triton on GPUs, the eager definitions elsewhere, or what the user forces."""

import importlib.util
import os
from typing import Literal

import torch

from fastnas_kernels.check import complaint

Backend = Literal["triton", "reference"]
_TRITON_IS_INSTALLED = importlib.util.find_spec("triton") is not None


def backend_for(device: torch.device) -> Backend:
    """Name the backend that computes on ``device``.

    CUDA tensors are served by Triton and all others by the eager definitions (``reference``), unless the environment
    variable ``FASTNAS_BACKEND=triton|cpu|reference``, read at every call, forces one. Where that one cannot serve,
    there is an error and never a silent fallback.

    Args:
        device: Where the tensors lie.

    Returns:
        ``"triton"`` or ``"reference"``.

    Raises:
        RuntimeError: If the variable has an unknown value, or the backend cannot serve ``device`` here.
    """
    backend = os.environ.get("FASTNAS_BACKEND") or ("triton" if device.type == "cuda" else "reference")
    if backend == "reference":
        return "reference"
    if backend == "triton":
        _require_triton(device)
        return "triton"
    remedy = "Set it to triton or reference, or unset it."
    if backend == "cpu":
        remedy = f"The compiled backend for the CPU is not there yet. {remedy}"
    rule = "FASTNAS_BACKEND must be triton, cpu or reference" if backend != "cpu" else "FASTNAS_BACKEND must exist"
    raise RuntimeError(complaint("backend_for", rule, repr(backend), remedy))


def _require_triton(device: torch.device) -> None:
    if not _TRITON_IS_INSTALLED:
        remedy = "Install it, or set FASTNAS_BACKEND=reference."
        raise RuntimeError(complaint("backend_for", "the package triton must be installed", "none", remedy))
    if device.type not in ("cuda", "meta") and os.environ.get("TRITON_INTERPRET") != "1":
        rule = "tensors must be on CUDA when FASTNAS_BACKEND=triton"
        remedy = "Move them to a GPU, unset FASTNAS_BACKEND, or set TRITON_INTERPRET=1 (very slow, for tests)."
        raise RuntimeError(complaint("backend_for", rule, device, remedy))
