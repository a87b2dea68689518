"""Runs a lowered cell on the CPU, forward and backward, each direction by one call of the compiled code.

The arguments and results are those of the Triton kernels: see :mod:`fastnas_kernels.mixed_op.derivative`.

Shape suffixes: I input states, N H W images and pixels, S channels of a state, D channels of all nodes, R rows of
statistics, C channels that the candidates see.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import compress

import numpy as np
import torch
from torch import Tensor

from fastnas_kernels.cpu.compiler import library
from fastnas_kernels.mixed_op.lowering import Lowered, lower
from fastnas_kernels.mixed_op.plan import CellPlan
from fastnas_kernels.mixed_op.tables import Tables, mix_gradient, noted_statistics, pack, spread_statistics, tables_of

REALS = {torch.float32: "float", torch.float64: "double"}
LARGEST_KERNEL = 15
"""Side of the largest filter for which the compiled code has room."""
Images = Sequence[Tensor]
"""One tensor, or two: numbers and their tangents. Everything else of numbers with tangents is one tensor of pairs,
``[..., 2]``."""
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
_IMAGES = ("inputs", "nodes", "dnodes", "dinputs")
"""Those of the pointers behind which the tangents are tensors of their own."""


def _structure(dual: bool) -> type[ctypes.Structure]:
    """The ``Cell`` of ``source/cell.hpp``."""
    numbers = [(name, ctypes.c_ssize_t) for name in _INTEGERS]
    pointers = [(name, ctypes.c_void_p * 2 if dual and name in _IMAGES else ctypes.c_void_p) for name in _POINTERS]
    return type("Cell", (ctypes.Structure,), {"_fields_": [*numbers, ("eps", ctypes.c_double), *pointers]})


_CELL, _DUAL_CELL = _structure(False), _structure(True)


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
    dtype = inputs_INHWS.dtype
    packed = pack(weights, tables_for(plan, statistics is not None), dtype)
    (nodes,), stats = forward([inputs_INHWS], packed, mix.to(dtype), edge_mix.to(dtype), statistics, plan)
    return nodes, stats, packed, noted(stats, plan, statistics is not None)


def forward(
    inputs: Images, packed: Tensor, mix: Tensor, edge_mix: Tensor, statistics: Tensor | None, plan: CellPlan
) -> tuple[Images, Tensor]:
    """Nodes and statistics, of numbers or of numbers with tangents."""
    lowered, frozen, pair = lower(plan), statistics is not None, packed.shape[1:]
    _, images, height, width, _ = inputs[0].shape
    shape = images, *plan.size_after(height, width), plan.num_nodes * plan.channels
    nodes = [x.new_empty(shape) for x in inputs]
    stats = packed.new_zeros(lowered.num_rows + 2, 3, plan.mixed_channels, *pair)  # some rows stay zero
    if statistics is not None:
        spread_statistics(statistics, tables_for(plan, frozen), plan.eps, stats[..., 0] if pair else stats)
    given = {"packed": packed, "mix": mix, "edge_mix": edge_mix, "stats": stats}
    _run("cell_forward", plan, frozen, {"inputs": inputs, "nodes": nodes}, given)
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
    images = {"dnodes": [dnodes_NHWD], "inputs": [inputs_INHWS], "nodes": [nodes_NHWD]}
    given = {"packed": packed, "mix": mix.to(dtype), "edge_mix": edge_mix.to(dtype), "stats": stats}
    dinputs, dpacked, sums, passed = backward(images, given, frozen, needs, plan)
    found = (
        dinputs and dinputs[0],
        None if dpacked is None else dpacked.index_select(0, tables_for(plan, frozen).unpacking),
        mix_gradient(lower(plan), tables_for(plan, frozen), sums) if needs[2] else None,
        passed,
    )
    return tuple(inputs_INHWS.new_empty(0) if x is None else x for x in found)  # type: ignore[return-value]


def backward(
    images: Mapping[str, Images], given: dict[str, Tensor], frozen: bool, needs: Sequence[bool], plan: CellPlan
) -> tuple[Images | None, Tensor | None, Tensor, Tensor | None]:
    """Gradients of the input states and of the packed weights, rows of sums, and the gradient of the weights of the
    edges, ``None`` where not needed; of numbers or of numbers with tangents, as everything is that is given."""
    packed = given["packed"]
    of_states, of_weights, _, of_edges = needs
    results = {
        "sums": packed.new_zeros(lower(plan).sum_spans[-1][1] + 1, 2, plan.mixed_channels, *packed.shape[1:]),
        "dpacked": torch.empty_like(packed) if of_weights else None,
        "passed": packed.new_zeros(len(plan.edges), *packed.shape[1:]) if of_edges else None,
    }
    dinputs = [x.new_empty(x.shape) for x in images["inputs"]] if of_states else None
    written = {name: result for name, result in results.items() if result is not None}
    _run("cell_backward", plan, frozen, {**images, **({"dinputs": dinputs} if dinputs else {})}, given | written)
    return dinputs, results["dpacked"], written["sums"], results["passed"]


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
    states, filters, _, edges = (True,) * 4 if needs is None else needs
    left_out = set(compress(("dinputs", "dpacked", "passed"), (not states, not filters, not edges)))
    names = [name for name in _POINTERS[4:] if name not in left_out]
    # Only whether a pointer is there decides what is held, not where it points to
    images, others = (
        dict.fromkeys((n for n in names if (n in _IMAGES) == which), _ALIGNMENT) for which in (True, False)
    )
    cell = _described(plan, frozen, shape, {name: [place] * (1 + dual) for name, place in images.items()}, others)
    function = _function("cell_forward" if needs is None else "cell_backward", dtype, plan.mixed_channels, dual)
    return function(ctypes.byref(cell), None)


def _run(name: str, plan: CellPlan, frozen: bool, images: Mapping[str, Images], others: dict[str, Tensor]) -> None:
    # Copies have to live until the end
    images = {name: [part.contiguous() for part in parts] for name, parts in images.items()}
    others = {name: tensor.contiguous() for name, tensor in others.items()}
    inputs = images["inputs"]
    places = {name: [part.data_ptr() for part in parts] for name, parts in images.items()}
    cell = _described(
        plan, frozen, inputs[0].shape, places, {name: tensor.data_ptr() for name, tensor in others.items()}
    )
    function = _function(name, inputs[0].dtype, plan.mixed_channels, len(inputs) > 1)
    memory = _workspace(function(ctypes.byref(cell), None) + _ALIGNMENT)
    function(ctypes.byref(cell), memory.data_ptr() + -memory.data_ptr() % _ALIGNMENT)
    if len(memory) <= MOST_IDLE:
        idle.append(memory)


idle: list[Tensor] = []
"""Memory that no call works in. A system that hands out new memory clears its pages first, every time."""
MOST_IDLE = 2**26
"""Bytes of one piece of it. Larger ones would be missed elsewhere, and their pages are a small part of the work."""


def _workspace(num_bytes: int) -> Tensor:
    """Memory of at least that size: what an earlier call left, unless it is too small. Threads that call at the same
    time have one each."""
    try:
        memory = idle.pop()
    except IndexError:
        memory = None
    return memory if memory is not None and len(memory) >= num_bytes else torch.empty(num_bytes, dtype=torch.uint8)


def _described(
    plan: CellPlan, frozen: bool, shape: Sequence[int], images: dict[str, list[int]], others: dict[str, int]
) -> ctypes.Structure:
    lowered, tables = lower(plan), tables_for(plan, frozen)
    _, num_images, height, width, _ = shape
    out_height, out_width = plan.size_after(height, width)
    ranges, sum_rows = _ranges(lowered)
    dual = len(images["inputs"]) > 1
    structure = _DUAL_CELL if dual else _CELL
    return structure(
        images=num_images,
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
        **{name: (ctypes.c_void_p * 2)(*parts) if dual else parts[0] for name, parts in images.items()},
        **others,
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
    function.argtypes = ctypes.POINTER(_DUAL_CELL if dual else _CELL), ctypes.c_void_p
    function.restype = ctypes.c_ssize_t
    return function


def run_dual_forward(
    inputs_INHWS: Sequence[Tensor],
    weights: Sequence[Tensor],
    tangents: Sequence[Tensor],
    mix: Sequence[Tensor],
    edge_mix: Sequence[Tensor],
    statistics: Tensor | None,
    plan: CellPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Nodes ``[N, H', W', D]``, their tangent, statistics ``[R, 3, C, 2]``, packed weights ``[weights, 2]``, and the
    statistics of the plan's normalisations; no ``tangents`` stand for zeros."""
    dtype, tables = inputs_INHWS[0].dtype, tables_for(plan, statistics is not None)
    values = pack(weights, tables, dtype)
    packed = torch.stack([values, pack(tangents, tables, dtype, False) if tangents else torch.zeros_like(values)], -1)
    both, stats = forward(inputs_INHWS, packed, _pair(mix, dtype), _pair(edge_mix, dtype), statistics, plan)
    nodes, along = both
    return nodes, along, stats, packed, noted(stats[..., 0], plan, statistics is not None)


def run_dual_backward(
    dnodes_NHWD: Sequence[Tensor],
    inputs_INHWS: Sequence[Tensor],
    nodes_NHWD: Sequence[Tensor],
    packed: Tensor,
    mix: Sequence[Tensor],
    edge_mix: Sequence[Tensor],
    stats: Tensor,
    frozen: bool,
    needs: Sequence[bool],
    plan: CellPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The four gradients of :func:`fastnas_kernels.cpu.launch.run_backward`, then their tangents."""
    dtype, tables = inputs_INHWS[0].dtype, tables_for(plan, frozen)
    images = {"dnodes": dnodes_NHWD, "inputs": inputs_INHWS, "nodes": nodes_NHWD}
    given = {"packed": packed, "mix": _pair(mix, dtype), "edge_mix": _pair(edge_mix, dtype), "stats": stats}
    dinputs, dpacked, sums, passed = backward(images, given, frozen, needs, plan)
    nothing = stats.new_empty(0, 2)
    found = (
        dinputs or _parted(nothing),
        _parted(nothing if dpacked is None else dpacked.index_select(0, tables.unpacking)),
        [mix_gradient(lower(plan), tables, part) for part in _parted(sums)] if needs[2] else _parted(nothing),
        _parted(nothing if passed is None else passed),
    )
    return (*(values for values, _ in found), *(tangents for _, tangents in found))  # type: ignore[return-value]


def _pair(both: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.stack([x.to(dtype) for x in both], -1)


def _parted(pairs: Tensor) -> tuple[Tensor, Tensor]:
    values, tangents = (x.clone(memory_format=torch.contiguous_format) for x in pairs.unbind(-1))
    return values, tangents
