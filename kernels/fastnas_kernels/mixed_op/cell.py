"""One function for a whole cell of mixed operations."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from fastnas_kernels.backend import are_cells_as_on_a_gpu, backend_for
from fastnas_kernels.check import invalid, require_shape
from fastnas_kernels.cpu.choice import cpu_serves
from fastnas_kernels.mixed_op.definition import reference_cell
from fastnas_kernels.mixed_op.derivative import fused_cell
from fastnas_kernels.mixed_op.drawn import DrawnPaths, drawn_cell
from fastnas_kernels.mixed_op.plan import CellPlan
from fastnas_kernels.normalisation import is_synchronised
from fastnas_kernels.tensors import accumulator


def mixed_cell(
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    mix: Tensor,
    edge_mix: Tensor | None,
    plan: CellPlan,
    statistics: Tensor | None = None,
    recompute: bool = False,
    drawn: DrawnPaths | None = None,
) -> tuple[Tensor, Tensor]:
    """All nodes of a cell whose edges carry weighted sums of candidates (Liu et al., 2019, arXiv:1806.09055, eq. 2).

    Node ``i`` is ``sum_j sum_o mix[j, o] o(s_j)``; with partial channels (Xu et al., 2020, arXiv:1907.05737, eq. 3)
    the candidates see ``1 / k`` of the channels, the others are added up with weights ``edge_mix``, and a shuffle
    interleaves both.

    Under autocast the states are cast to its dtype, which the nodes then have, too; everything else keeps its own.
    The kernels hold states in their dtype and calculate in float32, or in float64 for float64.

    Args:
        states: The input states, each ``[N, C, H, W]``, kept in channels-last memory inside.
        weights: Filters of all candidates in the order of ``plan.weight_shapes``.
        mix: Coefficients of all live candidates, edge by edge, ``[plan.num_coefficients]``, dimensionless. Weights
            of edges are already multiplied in.
        edge_mix: With partial channels, the weight of every edge for the channels that pass by, ``[E]``, or
            ``None`` to add them up; without partial channels ``None``.
        plan: What the cell consists of.
        statistics: Mean and biased variance to normalise with, ``[len(plan.norms), 2, C / k]``; ``None`` takes
            those of the batch.
        recompute: Keep states alone for the backward pass, and evaluate the candidates of one edge after another
            again in it. The kernels do so anyhow; in the plain form it changes no bit.
        drawn: What runs, where not everything does and the host does not know; other coefficients count as zero and get
            no gradient. Then there are no ``statistics``, and derivatives are first ones.

    Returns:
        All nodes, ``[N, num_nodes * C, H', W']``, and the statistics that were used, ``[len(plan.norms), 2, C / k]``;
        these carry no gradient.

    Raises:
        ValueError: If a shape, dtype or device does not fit the plan or the other arguments, or a coefficient is NaN
            (looked for on a CPU only: a GPU would have to be waited for).
        Unavailable: If the backend that ``FASTNAS_BACKEND`` forces cannot serve the device.
    """
    _require_fit(states, weights, mix, edge_mix, plan, statistics)
    if drawn is not None and statistics is not None:
        raise invalid("mixed_cell", "statistics must be None where candidates are drawn", list(statistics.shape))
    states = _cast(states)
    _require_numbers(states, weights, mix, edge_mix, statistics)
    backend = "triton" if are_cells_as_on_a_gpu() else backend_for(states[0].device)
    alone = not is_synchronised()  # kernels do not wait for other processes
    if alone and (backend == "triton" or (backend == "cpu" and drawn is None and cpu_serves(states[0], plan))):
        return _without_autocast(states, weights, mix, edge_mix, plan, statistics, drawn)
    mix = mix if drawn is None else mix * drawn.marks(plan)
    return reference_cell(states, weights, mix, edge_mix, plan, statistics, _batched(states[0]), recompute)


def _autocast_is_on(state: Tensor) -> bool:
    return not state.is_meta and torch.is_autocast_enabled(state.device.type)  # autocast knows no device "meta"


def _cast(states: Sequence[Tensor]) -> Sequence[Tensor]:
    """As PyTorch's own convolutions cast their inputs: under autocast, all but float64."""
    if not _autocast_is_on(states[0]):
        return states
    dtype = torch.get_autocast_dtype(states[0].device.type)
    return [state if state.dtype == torch.float64 else state.to(dtype) for state in states]


def _without_autocast(
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    mix: Tensor,
    edge_mix: Tensor | None,
    plan: CellPlan,
    statistics: Tensor | None,
    drawn: DrawnPaths | None,
) -> tuple[Tensor, Tensor]:
    off = torch.autocast(states[0].device.type, enabled=False) if _autocast_is_on(states[0]) else nullcontext()
    with off:
        if drawn is not None:
            return drawn_cell(states, weights, mix, edge_mix, plan, drawn), mix.new_empty(0, 2, plan.mixed_channels)
        return fused_cell(states, weights, mix, edge_mix, plan, statistics)


def _batched(state: Tensor) -> bool:
    """Whether one convolution for all edges is worth its copies: where starting operations costs more than running
    them. Measured on one core, a cell of small states (2^13 elements) takes 0.6 of the time, one of large states
    (2^18) 1.3 times as long."""
    return state.is_cuda or state.numel() <= 2**16


def _require_fit(
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    mix: Tensor,
    edge_mix: Tensor | None,
    plan: CellPlan,
    statistics: Tensor | None,
) -> None:
    where = "mixed_cell"
    if len(states) != plan.num_inputs:
        raise invalid(where, f"states must be {plan.num_inputs}", len(states))
    shape = states[0].shape
    fits = len(shape) == 4 and shape[1] == plan.channels
    if not fits:
        raise invalid(where, f"states must have shape [N, {plan.channels}, H, W]", list(shape))
    for state in states:
        require_shape(where, "states", state, shape, "all input states are alike")
    if [weight.shape for weight in weights] != plan.filter_shapes:
        _complain_of_weights(where, weights, plan.filter_shapes)
    require_shape(where, "mix", mix, [plan.num_coefficients], "one coefficient for each live candidate")
    if edge_mix is not None:
        if plan.k <= 1:
            raise invalid(where, "edge_mix must be None without partial channels", list(edge_mix.shape))
        require_shape(where, "edge_mix", edge_mix, [len(plan.edges)], "one coefficient for each edge")
    if statistics is not None:
        rows = [len(plan.norms), 2, plan.mixed_channels]
        require_shape(where, "statistics", statistics, rows, "mean and variance of each normalisation")


def _complain_of_weights(where: str, weights: Sequence[Tensor], expected: Sequence[tuple[int, ...]]) -> None:
    if len(weights) != len(expected):
        raise invalid(where, f"weights must be {len(expected)}", len(weights))
    for number, (weight, shape) in enumerate(zip(weights, expected, strict=True)):
        require_shape(where, f"weights[{number}]", weight, shape, "the plan's weight_shapes")


def _require_numbers(
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    mix: Tensor,
    edge_mix: Tensor | None,
    statistics: Tensor | None,
) -> None:
    coefficients = [x for x in (mix, edge_mix, statistics) if x is not None]
    kinds = {(x.dtype, x.device) for x in (*states, *weights, *coefficients)}
    if len(kinds) > 1 or not mix.is_floating_point():  # one look at all of them: a cell has hundreds of weights
        _require_kinds(states, weights, mix, edge_mix, statistics)
    for name, tensor in (("mix", mix), ("edge_mix", edge_mix)):
        if tensor is not None and _can_be_read(tensor) and bool(tensor.isnan().any()):
            raise invalid("mixed_cell", f"{name} must not hold NaN", tensor.tolist())


def _require_kinds(
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    mix: Tensor,
    edge_mix: Tensor | None,
    statistics: Tensor | None,
) -> None:
    where, first = "mixed_cell", states[0]
    others = {"mix": mix, "edge_mix": edge_mix, "statistics": statistics}
    named = [("states", state) for state in states] + [(f"weights[{i}]", weight) for i, weight in enumerate(weights)]
    named += [(name, tensor) for name, tensor in others.items() if tensor is not None]
    for name, tensor in named:
        if tensor.device != first.device:
            raise invalid(where, f"{name} must be on the device of the states, {first.device}", tensor.device)
    for name, tensor in named:
        if not tensor.is_floating_point():
            raise invalid(where, f"{name} must have a floating dtype", tensor.dtype)
    exact = accumulator(first.dtype)
    for name, tensor in named:
        if tensor.dtype == first.dtype or name in ("mix", "edge_mix"):  # coefficients are few, and cast
            continue
        same = name == "states" or (name.startswith("weights") and not _autocast_is_on(first))
        if same or tensor.dtype != exact:
            rule = f"{name} must have the dtype of the states, {first.dtype}"
            rule = rule if same or exact == first.dtype else f"{rule}, or {exact}"
            raise invalid(where, rule, tensor.dtype)


def _can_be_read(tensor: Tensor) -> bool:
    """Whether values lie in this process's memory and nothing is traced: nobody has to wait for them."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    plain = type(tensor) in (Tensor, torch.nn.Parameter)
    return plain and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # type: ignore[attr-defined]
