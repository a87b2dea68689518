"""A foreign module evaluated by the engine: its weights go in, its running statistics are moved on."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastnas.acceleration.coefficients import live_coefficients, rows_of
from fastnas.acceleration.wiring import Wiring
from fastnas_kernels.check import require
from fastnas_kernels.mixed_op.cell import mixed_cell


class Parts(NamedTuple):
    """The modules that a wiring names."""

    inputs: list[nn.Module]
    convolutions: list[nn.Conv2d]
    norms: list[nn.BatchNorm2d]
    bypassed: list[nn.Module]
    """All whose ``forward`` the engine does not call."""


def find_parts(module: nn.Module, wiring: Wiring) -> Parts:
    """Look up the modules that ``wiring`` names in ``module``."""
    inputs, convolutions, norms = (
        [module.get_submodule(name) for name in names]
        for names in (
            wiring.inputs,
            [name for primitive in wiring.live for name in primitive.convolutions],
            [name for primitive in wiring.live for name in primitive.norms],
        )
    )
    kept = {id(part) for prepare in inputs for part in prepare.modules()}
    bypassed = [part for part in module.modules() if part is not module and id(part) not in kept]
    return Parts(inputs, convolutions, norms, bypassed)  # type: ignore[arg-type]


def obstacle(parts: Parts) -> str | None:
    """Why the engine cannot stand in for the parts as they are now; ``None`` if it can."""
    for part in parts.bypassed:
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
            return f"a hook sits on its part {type(part).__name__}, and the engine does not call that part"
    if len({_uses_batch(norm) for norm in parts.norms}) > 1:
        return "some of its normalisations use the statistics of the batch and others running ones"
    return None


def evaluate(module: nn.Module, wiring: Wiring, parts: Parts, arguments: Sequence[object]) -> Tensor:
    """What ``module`` returns for ``arguments``, with its running statistics moved on as it would."""
    where = type(module).__name__
    num_states = max(1, len(wiring.inputs))
    states: list[Tensor] = list(arguments[:num_states])  # type: ignore[arg-type]
    if wiring.is_cell:
        states = [prepare(state) for prepare, state in zip(parts.inputs, states, strict=True)]
    weights, *beta = arguments[num_states:]
    rows = rows_of(weights, wiring)
    mix, edge_mix = live_coefficients(where, rows, beta[0] if beta else None, wiring, states[0].device)  # type: ignore[arg-type]
    plan, norms = wiring.plan, parts.norms
    filters = [convolution.weight for convolution in parts.convolutions]
    if norms and not _uses_batch(norms[0]):
        given = torch.stack([torch.stack([n.running_mean, n.running_var]) for n in norms])  # type: ignore[list-item]
        nodes, _ = mixed_cell(states, filters, mix, edge_mix if plan.k > 1 else None, plan, given)
    else:
        batch, (height, width) = states[0].shape[0], plan.size_after(*states[0].shape[2:])
        count = batch * height * width
        require(count > 1, where, "a channel must have more than one value to normalise by the batch", count)
        nodes, statistics = mixed_cell(states, filters, mix, edge_mix if plan.k > 1 else None, plan)
        for _ in range(wiring.updates):
            _move_running(norms, statistics, count / (count - 1))
    return nodes[:, (plan.num_nodes - wiring.num_outputs) * plan.channels :]


def _uses_batch(norm: nn.BatchNorm2d) -> bool:
    return norm.training or norm.running_mean is None


@torch.no_grad()
def _move_running(norms: Sequence[nn.BatchNorm2d], statistics: Tensor, unbiased: float) -> None:
    """Running mean and unbiased variance, exactly as :class:`torch.nn.BatchNorm2d` moves them."""
    moved = [row for row, n in enumerate(norms) if n.training and n.track_running_stats and n.running_mean is not None]
    if not moved:
        return
    counters = [norms[row].num_batches_tracked for row in moved]
    torch._foreach_add_([counter for counter in counters if counter is not None], 1)  # type: ignore[attr-defined]
    by_factor: dict[float, list[int]] = {}
    for row, counter in zip(moved, counters, strict=True):
        momentum = norms[row].momentum
        if momentum is None:  # the cumulative average
            momentum = 1.0 / float(counter) if counter is not None else 0.0
        by_factor.setdefault(momentum, []).append(row)
    means, variances = statistics.unbind(1)
    variances = variances * unbiased
    for factor, rows in by_factor.items():
        running = [norms[row].running_mean for row in rows] + [norms[row].running_var for row in rows]
        new = [means[row] for row in rows] + [variances[row] for row in rows]
        new = [value.to(old.dtype) for value, old in zip(new, running, strict=True)]  # type: ignore[union-attr]
        torch._foreach_lerp_(running, new, factor)  # type: ignore[arg-type]
