"""When the compiled code serves a cell on the CPU."""

import warnings
from functools import lru_cache

from torch import Tensor

from fastnas_kernels.backend import forced_backend
from fastnas_kernels.check import Unavailable, complaint
from fastnas_kernels.cpu.compiler import NoCompiler
from fastnas_kernels.cpu.launch import LARGEST_KERNEL, REALS, prepare
from fastnas_kernels.mixed_op.plan import CellPlan


def cpu_serves(state: Tensor, plan: CellPlan) -> bool:
    """Whether a cell with such input states runs in compiled code; otherwise its definition in PyTorch serves.

    That is so for float32 and float64 and filters of up to 15 pixels, if a compiler is found and the cell is more than
    a sum of few or large identities, for which PyTorch takes 0.8 of the time. All other cells that were tried took at
    most the definition's time, a single pool, and a ninth of it in the median of whole cells, from two images of four
    channels and one pixel to sixteen of 32x32; edge by edge, PyTorch is faster only where nothing is mixed
    (``profiling/sizes.py`` and ``profiling/results/sizes-cpu.md``).

    Raises:
        Unavailable: If ``FASTNAS_BACKEND=cpu`` forces what cannot be.
    """
    reason = _obstacle(state, plan)
    if reason is not None and forced_backend() == "cpu":
        remedy = "Unset FASTNAS_BACKEND, or set it to reference."
        raise Unavailable(complaint("mixed_cell", "FASTNAS_BACKEND=cpu must be able to serve the cell", reason, remedy))
    return reason is None and (forced_backend() == "cpu" or not _only_adds(state, plan))


def _only_adds(state: Tensor, plan: CellPlan) -> bool:
    """Whether there are only identities, so few or so large that PyTorch adds them up as fast. In small cells it is the
    start of its operations that takes the time: two edges of 64 numbers take 1.4 times as long there, fourteen 3.9."""
    return not plan.norms and (len(plan.edges) == 1 or state.numel() > 2**16)


def _obstacle(state: Tensor, plan: CellPlan) -> str | None:
    if state.dtype not in REALS:
        return f"states of {state.dtype}"
    largest = max([1, *(candidate.kernel for _, _, candidate in plan.each())])
    if largest > LARGEST_KERNEL:
        return f"a filter of {largest} pixels, more than {LARGEST_KERNEL}"
    return None if state.is_meta else _compiled(REALS[state.dtype], plan.mixed_channels)


def cpu_knows_tangents(state: Tensor, plan: CellPlan) -> bool:
    """Whether the second derivatives of a cell that :func:`cpu_serves` run in compiled code, too."""
    return _compiled(REALS[state.dtype], plan.mixed_channels, True) is None


def _compiled(real: str, channels: int, dual: bool = False) -> str | None:
    return _failure(real, channels, dual)


# Tracers need not look into compilers and files. This is what torch.compiler.assume_constant_result does, which would
# first import torch._dynamo, a second for everybody who imports fastnas
vars(_compiled)["_dynamo_marked_constant"] = True


@lru_cache
def _failure(real: str, channels: int, dual: bool) -> str | None:
    """Compiles what is needed; says why that cannot be done, the first time also as a warning."""
    try:
        prepare(real, channels, dual)
    except NoCompiler as error:
        _warn_once(str(error))
        return str(error)
    return None


@lru_cache
def _warn_once(reason: str) -> None:
    remedy = "PyTorch computes them, several times slower: install one, or set CXX."
    text = complaint("mixed_cell", "a C++ compiler must be there for fast cells on the CPU", reason, remedy)
    warnings.warn(text, RuntimeWarning, stacklevel=2)
