"""When the compiled code serves a cell on the CPU."""

import warnings
from functools import lru_cache

import torch
from torch import Tensor

from fastnas_kernels.backend import forced_backend
from fastnas_kernels.check import complaint
from fastnas_kernels.cpu.compiler import NoCompiler
from fastnas_kernels.cpu.launch import LARGEST_KERNEL, REALS, prepare
from fastnas_kernels.mixed_op.plan import CellPlan


def cpu_serves(state: Tensor, plan: CellPlan) -> bool:
    """Whether a cell with such input states runs in compiled code; otherwise its definition in PyTorch serves.

    That is so for float32 and float64 and filters of up to 15 pixels, if a compiler is found and the cell is more than
    a sum of identities, which PyTorch adds up as fast. All other cells that were tried took a half to a seventh of the
    definition's time or, a single pool of one image of 4x4 pixels, the same: from one image of four channels and one
    pixel to sixteen of 32x32 (``profiling/results/peers-cpu.md``).

    Raises:
        RuntimeError: If ``FASTNAS_BACKEND=cpu`` forces what cannot be.
    """
    reason = _obstacle(state, plan)
    if reason is not None and forced_backend() == "cpu":
        remedy = "Unset FASTNAS_BACKEND, or set it to reference."
        raise RuntimeError(
            complaint("mixed_cell", "FASTNAS_BACKEND=cpu must be able to serve the cell", reason, remedy)
        )
    return reason is None and (forced_backend() == "cpu" or len(plan.norms) > 0)


def _obstacle(state: Tensor, plan: CellPlan) -> str | None:
    if state.dtype not in REALS:
        return f"states of {state.dtype}"
    largest = max([1, *(candidate.kernel for _, _, candidate in plan.each())])
    if largest > LARGEST_KERNEL:
        return f"a filter of {largest} pixels, more than {LARGEST_KERNEL}"
    return None if state.is_meta else _compiled(REALS[state.dtype], plan.mixed_channels)


@torch.compiler.assume_constant_result  # tracers need not look into compilers and files
def _compiled(real: str, channels: int) -> str | None:
    return _failure(real, channels)


@lru_cache
def _failure(real: str, channels: int) -> str | None:
    """Compiles what is needed; says why that cannot be done, the first time also as a warning."""
    try:
        prepare(real, channels)
    except NoCompiler as error:
        _warn_once(str(error))
        return str(error)
    return None


@lru_cache
def _warn_once(reason: str) -> None:
    remedy = "PyTorch computes them, several times slower: install one, or set CXX."
    text = complaint("mixed_cell", "a C++ compiler must be there for fast cells on the CPU", reason, remedy)
    warnings.warn(text, RuntimeWarning, stacklevel=2)
