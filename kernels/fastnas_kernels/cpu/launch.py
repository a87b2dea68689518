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
    "stride", "num_edges", "num_branches", "num_sources", "frozen", "threads", "chunk_bytes",
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
    dtype, tables = inputs_INHWS.dtype, tables_for(plan, statistics is not None)
    packed = pack(weights, tables, dtype)
    nodes, stats = forward(inputs_INHWS, packed, mix.to(dtype), edge_mix.to(dtype), statistics, plan)
    return nodes, stats, packed, noted(stats, plan, statistics is not None)


def forward(
    inputs: Tensor, packed: Tensor, mix: Tensor, edge_mix: Tensor, statistics: Tensor | None, plan: CellPlan
) -> tuple[Tensor, Tensor]:
    """Nodes and statistics; all of numbers, or all of pairs, ``[..., 2]``, of a number and its tangent."""
    lowered, frozen, pair = lower(plan), statistics is not None, inputs.shape[5:]
    tables = tables_for(plan, frozen)
    _, images, height, width, _ = inputs.shape[:5]
    nodes = inputs.new_empty(images, *plan.size_after(height, width), plan.num_nodes * plan.channels, *pair)
    stats = inputs.new_zeros(lowered.num_rows + 2, 3, plan.mixed_channels, *pair)  # some rows stay zero
    if statistics is not None:
        spread_statistics(statistics, tables, plan.eps, stats[..., 0] if pair else stats)
    tensors = {"inputs": inputs, "packed": packed, "mix": mix, "edge_mix": edge_mix}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    _run("cell_forward", lowered, tables, frozen, {**tensors, "nodes": nodes, "stats": stats})
    return nodes, stats


def noted(stats: Tensor, plan: CellPlan, frozen: bool) -> Tensor:
    """The statistics of the plan's normalisations, ``[norms, 2, C]``, empty if they were given."""
    if frozen:
        return stats.new_empty(0, 2, plan.mixed_channels)
    return noted_statistics(lower(plan), tables_for(plan, frozen), stats)


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
    dtype = inputs_INHWS.dtype
    tensors = {
        "dnodes": dnodes_NHWD,
        "inputs": inputs_INHWS,
        "nodes": nodes_NHWD,
        "packed": packed,
        "mix": mix.to(dtype),
        "edge_mix": edge_mix.to(dtype),
        "stats": stats,
    }
    dinputs, dpacked, sums, passed = backward(tensors, frozen, needs, plan)
    tables = tables_for(plan, frozen)
    found = (
        dinputs,
        None if dpacked is None else dpacked.index_select(0, tables.unpacking),
        mix_gradient(lower(plan), tables, sums) if needs[2] else None,
        passed,
    )
    return tuple(inputs_INHWS.new_empty(0) if x is None else x for x in found)  # type: ignore[return-value]


def backward(
    given: dict[str, Tensor], frozen: bool, needs: Sequence[bool], plan: CellPlan
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor | None]:
    """Gradients of the input states and of the packed weights, rows of sums, and the gradient of the weights of the
    edges, ``None`` where not needed; of numbers or of pairs, as all tensors that are ``given``, by their names."""
    lowered, inputs = lower(plan), given["inputs"]
    pair = inputs.shape[5:]
    of_states, of_weights, _, of_edges = needs
    results = {
        "sums": inputs.new_zeros(lowered.sum_spans[-1][1] + 1, 2, plan.mixed_channels, *pair),
        "dinputs": inputs.new_empty(inputs.shape) if of_states else None,
        "dpacked": torch.empty_like(given["packed"]) if of_weights else None,
        "passed": inputs.new_zeros(len(plan.edges), *pair) if of_edges else None,
    }
    tensors = {name: tensor.contiguous() for name, tensor in given.items()}
    tensors |= {name: result for name, result in results.items() if result is not None}
    _run("cell_backward", lowered, tables_for(plan, frozen), frozen, tensors)
    return results["dinputs"], results["dpacked"], tensors["sums"], results["passed"]


def tables_for(plan: CellPlan, frozen: bool) -> Tables:
    """The tables of a plan whose statistics are given or not."""
    return tables_of(lower(plan), torch.device("cpu"), not frozen, 1)


def workspace_bytes(
    shape: Sequence[int],
    dtype: torch.dtype,
    plan: CellPlan,
    frozen: bool,
    needs: Sequence[bool] | None,
    dual: bool = False,
) -> int:
    """What a call holds inside itself, in bytes, where nothing is run.

    Args:
        shape: Of the input states, ``[I, N, H, W, S]``.
        dtype: Of them.
        plan: The cell.
        frozen: Whether statistics are given.
        needs: Which gradients are asked for, see :func:`run_backward`; ``None`` for the forward pass.
        dual: Whether every number has a tangent.
    """
    lowered, tables = lower(plan), tables_for(plan, frozen)
    states, filters, _, edges = (True,) * 4 if needs is None else needs
    left_out = set(compress(("dinputs", "dpacked", "passed"), (not states, not filters, not edges)))
    names = [name for name in _POINTERS[4:] if name not in left_out]
    # Only whether a pointer is there decides what is held, not where it points to
    cell = _described(lowered, tables, frozen, shape, dict.fromkeys(names, _ALIGNMENT))
    function = _function("cell_forward" if needs is None else "cell_backward", dtype, plan.mixed_channels, dual)
    return function(ctypes.byref(cell), None)


def _run(name: str, lowered: Lowered, tables: Tables, frozen: bool, tensors: dict[str, Tensor]) -> None:
    inputs = tensors["inputs"]
    pointers = {key: tensor.data_ptr() for key, tensor in tensors.items()}
    cell = _described(lowered, tables, frozen, inputs.shape, pointers)
    function = _function(name, inputs.dtype, lowered.plan.mixed_channels, inputs.dim() > 5)
    num_bytes = function(ctypes.byref(cell), None)
    memory = torch.empty(num_bytes + _ALIGNMENT, dtype=torch.uint8)
    function(ctypes.byref(cell), memory.data_ptr() + -memory.data_ptr() % _ALIGNMENT)


def _described(
    lowered: Lowered,
    tables: Tables,
    frozen: bool,
    shape: Sequence[int],
    pointers: dict[str, int],
) -> _Cell:
    plan = lowered.plan
    _, images, height, width, _ = shape[:5]
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


def prepare(real: str, channels: int, dual: bool = False) -> ctypes.CDLL:
    """The library for that many channels, of numbers or of numbers with a tangent, compiled if it is not yet.

    Raises:
        NoCompiler: If that cannot be done here.
    """
    return library(real, min(16, max(4, 1 << (channels - 1).bit_length())), dual)


@lru_cache
def _function(name: str, dtype: torch.dtype, channels: int, dual: bool) -> Callable[..., int]:
    function = getattr(prepare(REALS[dtype], channels, dual), name)
    function.argtypes = ctypes.POINTER(_Cell), ctypes.c_void_p
    function.restype = ctypes.c_ssize_t
    return function
