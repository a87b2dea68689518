"""A foreign module evaluated by the engine: its weights go in, its running statistics are moved on."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastnas.acceleration.wiring import Edge, Wiring
from fastnas.errors import invalid
from fastnas_kernels.mixed_op.cell import mixed_cell

Rows = Tensor | Sequence[Tensor | float]
"""Coefficients of one edge: a tensor ``[K]`` or K numbers."""


class EvaluatedModules(NamedTuple):
    """The modules that a wiring names.

    Args:
        inputs: That prepare the input states.
        convolutions: By name.
        norms: By name.
        by_themselves: Candidates that run beside the engine, by name.
        bypassed: All modules whose ``forward`` the engine does not call.
        training: Modules whose training mode must be that of the normalisations.
    """

    inputs: list[nn.Module]
    convolutions: Mapping[str, nn.Conv2d]
    norms: Mapping[str, nn.BatchNorm2d]
    by_themselves: Mapping[str, nn.Module]
    bypassed: list[nn.Module]
    training: list[nn.Module]


def find_modules(module: nn.Module, wiring: Wiring) -> EvaluatedModules:
    """Look up the modules that ``wiring`` names in ``module``."""
    inputs = [module.get_submodule(name) for name in wiring.inputs]
    convolutions, norms, by_themselves = (
        {name: module.get_submodule(name) for name in names}
        for names in (wiring.convolutions, wiring.norms, wiring.by_themselves)
    )
    kept = {id(part) for root in (*inputs, *by_themselves.values()) for part in root.modules()}
    bypassed = [part for part in module.modules() if part is not module and id(part) not in kept]
    training = [module.get_submodule(name) for name in wiring.modes]
    return EvaluatedModules(inputs, convolutions, norms, by_themselves, bypassed, training)  # type: ignore[arg-type]


def obstacle(found: EvaluatedModules) -> str | None:
    """Why the engine cannot stand in for the modules as they are now; ``None`` if it can."""
    for part in found.bypassed:
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
            return f"a hook sits on its part {type(part).__name__}, and the engine does not call that part"
    if len({_uses_batch(norm) for norm in found.norms.values()}) > 1:
        return "some of its normalisations use the statistics of the batch and others running ones"
    if len({part.training for part in (*found.training, *found.norms.values())}) > 1 and found.training:
        return "some of its parts are in training mode and others in eval mode"
    return None


def evaluate(module: nn.Module, wiring: Wiring, found: EvaluatedModules, arguments: Sequence[object]) -> Tensor | None:
    """What ``module`` returns for ``arguments``, with its running statistics moved on as it would.

    ``None`` if coefficients are zero in such a way that nothing is left to add up: only the module knows what then.
    """
    where = type(module).__name__
    num_states = max(1, len(wiring.inputs))
    weights, *beta = arguments[num_states:]
    rows = _rows(weights, wiring)
    _require_rows(where, rows, beta, wiring)
    if wiring.skips_zeros:
        active = _active(rows, wiring)
        if active is None:
            return None
        wiring = wiring.restricted(active)
    states: list[Tensor] = list(arguments[:num_states])  # type: ignore[arg-type]
    if wiring.is_cell:
        states = [prepare(state) for prepare, state in zip(found.inputs, states, strict=True)]
    edge_mix: Tensor | Sequence[Tensor] | None = beta[0] if beta else None  # type: ignore[assignment]
    if not wiring.by_themselves:
        result = _evaluate_known(where, wiring, found, states, rows, edge_mix)
        if wiring.keeps_layout:
            result = _laid_out_as(states[0], result)
        # A copy, for the engine keeps its maps: what stands behind may change the module's in place (drop-path does)
        return result.clone(memory_format=_layout(result)) if result.requires_grad else result
    return _evaluate_by_nodes(where, wiring, found, states, rows, edge_mix)


def _evaluate_by_nodes(
    where: str,
    wiring: Wiring,
    found: EvaluatedModules,
    states: list[Tensor],
    rows: Tensor | Sequence[Rows],
    beta: Tensor | Sequence[Tensor] | None,
) -> Tensor:
    """Node by node, for some candidates run by themselves, in the order and the memory layout of the module's own
    forward: they may draw random numbers."""
    plan = wiring.plan
    states = list(states)
    for target, parts in enumerate(wiring.by_node or ((),), start=len(states)):
        total = None
        for part in parts:
            some = rows[list(part.edges)] if isinstance(rows, Tensor) else [rows[number] for number in part.edges]
            shares = None if beta is None else torch.stack([beta[number] for number in part.edges])
            inputs = [states[source] for source in part.sources]
            term = _laid_out_as(states[0], _evaluate_known(where, part.wiring, found, inputs, some, shares))
            total = term if total is None else total + term
        for number, edge in enumerate(wiring.edges):
            source, end = (plan.edges[number].source, plan.edges[number].target) if plan.edges else (0, target)
            for position, primitive in enumerate(edge.primitives if end == target else ()):
                if primitive.by_itself is not None:
                    term = rows[number][position] * found.by_themselves[primitive.by_itself](states[source])
                    term = term if beta is None else beta[number] * term
                    total = term if total is None else total + term
        assert total is not None  # coefficients that switch everything off were declined before
        states.append(total)
    return torch.cat(states[-wiring.num_outputs :], 1) if wiring.is_cell else states[-1]


def _layout(maps: Tensor) -> torch.memory_format:
    return torch.contiguous_format if maps.is_contiguous() else torch.channels_last


def _laid_out_as(state: Tensor, maps: Tensor) -> Tensor:
    """``maps``, contiguous if ``state`` is."""
    return maps.contiguous() if state.is_contiguous() else maps


def _evaluate_known(
    where: str,
    wiring: Wiring,
    found: EvaluatedModules,
    states: Sequence[Tensor],
    rows: Tensor | Sequence[Rows],
    beta: Tensor | Sequence[Tensor] | None,
) -> Tensor:
    plan = wiring.plan
    mix, edge_mix = _live_coefficients(rows, beta, wiring, states[0].device)
    norms = [found.norms[name] for name in wiring.norms]
    filters = [found.convolutions[name].weight for name in wiring.convolutions]
    if any(weight.shape != shape for weight, shape in zip(filters, plan.filter_shapes, strict=True)):
        shapes = [list(w.shape) for w, shape in zip(filters, plan.filter_shapes, strict=True) if w.shape != shape]
        raise RuntimeError(restore_first(where, f"a filter of shape {shapes[0]}"))
    if norms and not _uses_batch(norms[0]):
        given = torch.stack([torch.stack([n.running_mean, n.running_var]) for n in norms])  # type: ignore[list-item]
        nodes, _ = mixed_cell(states, filters, mix, edge_mix if plan.k > 1 else None, plan, given)
    else:
        batch, (height, width) = states[0].shape[0], plan.size_after(*states[0].shape[2:])
        count = batch * height * width
        if count <= 1:
            raise invalid(where, "a channel must have more than one value to normalise by the batch", count)
        nodes, statistics = mixed_cell(states, filters, mix, edge_mix if plan.k > 1 else None, plan)
        for _ in range(wiring.updates):
            _move_running(norms, statistics, count / (count - 1))
    return nodes[:, (plan.num_nodes - wiring.num_outputs) * plan.channels :]


def restore_first(where: str, got: str) -> str:
    """The error after a structural change."""
    return (
        f"{where}: its parts must be those that fastnas.accelerate found, got {got}. "
        "Call fastnas.restore before you change them and fastnas.accelerate afterwards."
    )


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


# From the coefficients that foreign code hands over to those that the engine takes


def _rows(weights: object, wiring: Wiring) -> Tensor | Sequence[Rows]:
    """One row of coefficients for each edge, whatever the foreign code keeps them in."""
    if not wiring.is_cell:
        return weights[None] if isinstance(weights, Tensor) else [weights]  # type: ignore[list-item]
    if not wiring.nested:
        return weights  # type: ignore[return-value]
    return [row for of_node in weights for row in of_node]  # type: ignore[attr-defined]


def _require_rows(where: str, rows: Tensor | Sequence[Rows], beta: Sequence[object], wiring: Wiring) -> None:
    num_edges = len(wiring.edges)
    if len(rows) < num_edges:
        raise invalid(where, f"weights must have a row for each of {num_edges} edges", len(rows))
    if beta and len(beta[0]) < num_edges:  # type: ignore[arg-type]
        raise invalid(where, f"weights of edges must be {num_edges}", len(beta[0]))  # type: ignore[arg-type]
    widths = [rows.shape[1]] * num_edges if isinstance(rows, Tensor) else [len(row) for row in rows]  # type: ignore[arg-type]
    for edge, width in zip(wiring.edges, widths, strict=False):
        if width < len(edge.primitives):
            raise invalid(where, f"weights must be {len(edge.primitives)} for each edge", width)


def _active(rows: Tensor | Sequence[Rows], wiring: Wiring) -> tuple[tuple[bool, ...], ...] | None:
    """Which candidates of each edge have a coefficient other than zero; ``None`` if a node has nothing to add up.

    Reads all coefficients with one transfer from their device, where the module's own forward makes one for each.
    """
    edges = wiring.edges
    if isinstance(rows, Tensor):
        numbers = (rows[: len(edges)].detach() != 0).tolist()
    else:
        flat = torch.stack([torch.as_tensor(n).detach() for row in rows for n in row])  # type: ignore[union-attr]
        values = iter((flat != 0).tolist())
        numbers = [[next(values) for _ in row] for row in rows]  # type: ignore[union-attr]
    active = tuple(tuple(row[: len(edge.primitives)]) for edge, row in zip(edges, numbers, strict=False))
    if wiring.plan.k > 1 and not all(map(any, active)):
        return None
    adds_up: set[int] = set()
    for edge, flags, plan in zip(edges, active, wiring.plan.edges, strict=True):
        if any(flag and _contributes(edge, k) for k, flag in enumerate(flags)):
            adds_up.add(plan.target)
    return active if len(adds_up) == wiring.plan.num_nodes else None


def _contributes(edge: Edge, position: int) -> bool:
    primitive = edge.primitives[position]
    return primitive.candidate is not None or primitive.by_itself is not None


def _live_coefficients(
    rows: Tensor | Sequence[Rows],
    beta: Tensor | Sequence[Tensor] | None,
    wiring: Wiring,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """The flat coefficients of all live candidates with those of their edges multiplied in, and those of the edges.

    All coefficients take part in the graph, also those of ``none``, so that their gradient is zero and not absent.
    """
    num_edges, columns = len(wiring.edges), wiring.columns
    edge_mix = None
    if beta is not None:
        edge_mix = (beta if isinstance(beta, Tensor) else torch.stack(list(beta)))[:num_edges].to(device)
    span = range(columns[0][0], columns[0][-1] + 1) if columns[0] else range(0)
    if isinstance(rows, Tensor) and all(columns_of_edge == tuple(span) for columns_of_edge in columns):
        mix_EK = rows[:num_edges, span.start : span.stop].to(device)
        mix_EK = mix_EK if edge_mix is None else mix_EK * edge_mix[:, None]
        return mix_EK.reshape(-1), edge_mix
    if isinstance(rows, Tensor) and wiring.skips_zeros:
        index = torch.tensor(wiring.flat_columns, device=rows.device)
        mix = rows[:num_edges].flatten()[index[0] * rows.shape[1] + index[1]].to(device)
        return (mix if edge_mix is None else mix * edge_mix[index[0].to(device)]), edge_mix
    picked = []
    for number, (row, columns_of_edge) in enumerate(zip(rows, columns, strict=False)):
        numbers = _numbers(row)
        if columns_of_edge:
            live = torch.stack([numbers[column] for column in columns_of_edge]).to(device)
            picked.append(live if edge_mix is None else live * edge_mix[number])
    return torch.cat(picked), edge_mix


def _numbers(row: Rows) -> Sequence[Tensor]:
    if isinstance(row, Tensor):
        return row.unbind()
    # Stacked first: the gradient of a number that is not picked is then zero, as where it is multiplied by zero
    return torch.stack([torch.as_tensor(number) for number in row]).unbind()
