"""Runs a lowered cell on the CPU, forward and backward, each direction by one call of the compiled code.

The arguments and results are those of the Triton kernels: see :mod:`fastnas_kernels.mixed_op.function`.

Shape suffixes: I input states, N H W images and pixels, S channels of a state, D channels of all nodes, R rows of
statistics, C channels that the candidates see.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import compress

import numpy as np
import torch
from torch import Tensor

from fastnas_kernels.cpu.compiler import library
from fastnas_kernels.mixed_op.lowering import Lowered, lower
from fastnas_kernels.mixed_op.plan import CellPlan
from fastnas_kernels.mixed_op.rows import mix_gradient, noted_statistics, pack, spread_statistics
from fastnas_kernels.mixed_op.tables import Tables, tables_of

REALS = {torch.float32: "float", torch.float64: "double"}
LARGEST_KERNEL = 15
"""Side of the largest filter for which the compiled code has room."""
CHUNK_BYTES = 2**23
"""Raw outputs that are computed before they are used: they should still lie in a cache then."""

_INTEGERS = (
    "images", "height", "width", "out_height", "out_width", "channels", "mixed", "k", "num_inputs", "num_nodes",
    "stride", "num_edges", "num_branches", "num_sources", "frozen", "threads", "chunk_bytes", "packed_length",
)  # fmt: skip
_POINTERS = (
    "branches", "edges", "ranges", "sum_rows", "inputs", "packed", "mix", "edge_mix", "nodes", "stats", "dnodes",
    "dinputs", "dpacked", "sums", "passed",
)  # fmt: skip


class _Cell(ctypes.Structure):
    """The ``Cell`` of ``source/cell.hpp``."""

    _fields_ = (
        *((name, ctypes.c_ssize_t) for name in _INTEGERS),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    )


def run_forward(
    inputs_INHWS: Tensor,
    weights: Sequence[Tensor],
    mix: Tensor,
    edge_mix: Tensor,
    statistics: Tensor | None,
    plan: CellPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Nodes ``[N, H', W', D]``, statistics ``[R, 3, C]``, packed weights, and the statistics of the plan's
    normalisations, ``[norms, 2, C]``, empty if they were given."""
    lowered, dtype, frozen = lower(plan), inputs_INHWS.dtype, statistics is not None
    tables = tables_of(lowered, torch.device("cpu"), not frozen, 1)
    _, images, height, width, _ = inputs_INHWS.shape
    nodes = torch.empty(images, *plan.size_after(height, width), plan.num_nodes * plan.channels, dtype=dtype)
    stats = torch.zeros(lowered.num_rows + 2, 3, plan.mixed_channels, dtype=dtype)  # some rows stay zero
    if statistics is not None:
        spread_statistics(statistics, tables, plan.eps, stats)
    tensors = {
        "inputs": inputs_INHWS.contiguous(),
        "packed": pack(weights, tables, dtype),
        "mix": mix.to(dtype).contiguous(),
        "edge_mix": edge_mix.to(dtype).contiguous(),
        "nodes": nodes,
        "stats": stats,
    }
    _run("cell_forward", lowered, tables, frozen, tensors)
    noted = stats.new_empty(0, 2, plan.mixed_channels) if frozen else noted_statistics(lowered, tables, stats)
    return nodes, stats, tensors["packed"], noted


def run_backward(
    dnodes_NHWD: Tensor,
    inputs_INHWS: Tensor,
    nodes_NHWD: Tensor,
    packed: Tensor,
    mix: Tensor,
    edge_mix: Tensor,
    stats: Tensor,
    frozen: bool,
    needs: Sequence[bool],
    plan: CellPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the input states, of all weights one after another, of the mix and of the weights of the edges;
    empty where not needed."""
    lowered, dtype = lower(plan), inputs_INHWS.dtype
    tables = tables_of(lowered, torch.device("cpu"), not frozen, 1)
    of_states, of_weights, of_mix, of_edges = needs
    sums = torch.zeros(lowered.sum_spans[-1][1] + 1, 2, plan.mixed_channels, dtype=dtype)
    results = {
        "sums": sums,
        "dinputs": torch.empty(inputs_INHWS.shape, dtype=dtype) if of_states else None,
        "dpacked": torch.empty(packed.shape, dtype=dtype) if of_weights else None,
        "passed": torch.zeros(len(plan.edges), dtype=dtype) if of_edges else None,
    }
    tensors = {
        "inputs": inputs_INHWS.contiguous(),
        "packed": packed.contiguous(),
        "mix": mix.to(dtype).contiguous(),
        "edge_mix": edge_mix.to(dtype).contiguous(),
        "nodes": nodes_NHWD.contiguous(),
        "stats": stats.contiguous(),
        "dnodes": dnodes_NHWD.contiguous(),
        **{name: result for name, result in results.items() if result is not None},
    }
    _run("cell_backward", lowered, tables, frozen, tensors)
    dpacked = results["dpacked"]
    found = (
        results["dinputs"],
        None if dpacked is None else dpacked.index_select(0, tables.unpacking),
        mix_gradient(lowered, tables, sums) if of_mix else None,
        results["passed"],
    )
    return tuple(inputs_INHWS.new_empty(0) if x is None else x for x in found)  # type: ignore[return-value]


def workspace_bytes(
    shape: Sequence[int], dtype: torch.dtype, plan: CellPlan, frozen: bool, needs: Sequence[bool] | None
) -> int:
    """What a call holds inside itself, in bytes, where nothing is run.

    Args:
        shape: Of the input states, ``[I, N, H, W, S]``.
        dtype: Of them.
        plan: The cell.
        frozen: Whether statistics are given.
        needs: Which gradients are asked for, see :func:`run_backward`; ``None`` for the forward pass.
    """
    lowered = lower(plan)
    tables = tables_of(lowered, torch.device("cpu"), not frozen, 1)
    states, filters, _, edges = (True,) * 4 if needs is None else needs
    left_out = set(compress(("dinputs", "dpacked", "passed"), (not states, not filters, not edges)))
    names = [name for name in _POINTERS[4:] if name not in left_out]
    # Only whether a pointer is there decides what is held, not where it points to
    cell = _described(lowered, tables, frozen, shape, lowered.packing.size, dict.fromkeys(names, _ALIGNMENT))
    function = _function("cell_forward" if needs is None else "cell_backward", dtype, plan.mixed_channels)
    return function(ctypes.byref(cell), None)


def _run(name: str, lowered: Lowered, tables: Tables, frozen: bool, tensors: dict[str, Tensor]) -> None:
    inputs = tensors["inputs"]
    pointers = {key: tensor.data_ptr() for key, tensor in tensors.items()}
    cell = _described(lowered, tables, frozen, inputs.shape, tensors["packed"].numel(), pointers)
    function = _function(name, inputs.dtype, lowered.plan.mixed_channels)
    num_bytes = function(ctypes.byref(cell), None)
    memory = torch.empty(num_bytes + _ALIGNMENT, dtype=torch.uint8)
    function(ctypes.byref(cell), memory.data_ptr() + -memory.data_ptr() % _ALIGNMENT)


def _described(
    lowered: Lowered,
    tables: Tables,
    frozen: bool,
    shape: Sequence[int],
    packed_length: int,
    pointers: dict[str, int],
) -> _Cell:
    plan = lowered.plan
    _, images, height, width, _ = shape
    out_height, out_width = plan.size_after(height, width)
    ranges, sum_rows = _ranges(lowered)
    return _Cell(
        images=images,
        height=height,
        width=width,
        out_height=out_height,
        out_width=out_width,
        channels=plan.channels,
        mixed=plan.mixed_channels,
        k=plan.k,
        num_inputs=plan.num_inputs,
        num_nodes=plan.num_nodes,
        stride=plan.stride,
        num_edges=len(plan.edges),
        num_branches=len(lowered.branches),
        num_sources=len(lowered.ranges),
        frozen=frozen,
        threads=torch.get_num_threads(),
        chunk_bytes=CHUNK_BYTES,
        packed_length=packed_length,
        eps=plan.eps,
        branches=tables.branches.data_ptr(),
        edges=tables.edges.data_ptr(),
        ranges=ranges.ctypes.data,
        sum_rows=sum_rows.ctypes.data,
        **pointers,
    )


_ALIGNMENT = 64


@lru_cache(maxsize=256)
def _ranges(lowered: Lowered) -> tuple[np.ndarray, np.ndarray]:
    """First, middle and last branch of every source, and its first row of the sums."""
    starts = [begin for begin, _ in lowered.sum_spans]
    return np.array(lowered.ranges, dtype=np.int32), np.array(starts, dtype=np.int32)


def prepare(real: str, channels: int) -> ctypes.CDLL:
    """The library for that many channels, compiled if it is not yet.

    Raises:
        NoCompiler: If that cannot be done here.
    """
    return library(real, min(16, max(4, 1 << (channels - 1).bit_length())))


@lru_cache
def _function(name: str, dtype: torch.dtype, channels: int) -> Callable[..., int]:
    function = getattr(prepare(REALS[dtype], channels), name)
    function.argtypes = ctypes.POINTER(_Cell), ctypes.c_void_p
    function.restype = ctypes.c_ssize_t
    return function
