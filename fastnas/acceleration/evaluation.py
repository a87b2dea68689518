"""A foreign module evaluated by the engine: its weights go in, its running statistics are moved on."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastnas.acceleration.beside import Beside, move_running, uses_batch
from fastnas.acceleration.guards import hook_tables
from fastnas.acceleration.wiring import Part, Wiring
from fastnas.errors import invalid
from fastnas_kernels.mixed_op.cell import mixed_cell
from fastnas_kernels.mixture import mixed_sum

Rows = Tensor | Sequence[Tensor | float]
"""Coefficients of one edge: a tensor ``[K]`` or K numbers."""


class EvaluatedModules(NamedTuple):
    """The modules that a wiring names.

    Args:
        inputs: That prepare the input states.
        convolutions: By name.
        norms: By name.
        by_themselves: Candidates that the engine does not know, by name.
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
    of_layers = (name for primitive in wiring.layers for name in primitive.convolutions)
    norms_of_layers = (name for primitive in wiring.layers for name in primitive.norms)
    convolutions, norms, by_themselves = (
        {name: module.get_submodule(name) for name in names}
        for names in ((*wiring.convolutions, *of_layers), (*wiring.norms, *norms_of_layers), wiring.by_themselves)
    )
    kept = {id(part) for root in (*inputs, *by_themselves.values()) for part in root.modules()}
    bypassed = [part for part in module.modules() if part is not module and id(part) not in kept]
    training = [module.get_submodule(name) for name in wiring.modes]
    return EvaluatedModules(inputs, convolutions, norms, by_themselves, bypassed, training)  # type: ignore[arg-type]


def find_obstacle(found: EvaluatedModules) -> str | None:
    """Why the engine cannot stand in for the modules as they are now; ``None`` if it can."""
    if any(map(any, map(hook_tables, found.bypassed))):
        part = next(part for part in found.bypassed if any(hook_tables(part)))
        return f"a hook sits on its part {type(part).__name__}, and the engine does not call that part"
    if len({uses_batch(norm) for norm in found.norms.values()}) > 1:
        return "some of its normalisations use the statistics of the batch and others running ones"
    if found.training and len({part.training for part in (*found.training, *found.norms.values())}) > 1:
        return "some of its parts are in training mode and others in eval mode"
    return None


def evaluate(
    module: nn.Module, wiring: Wiring, found: EvaluatedModules, arguments: Sequence[object], drop: float = 0.0
) -> Tensor | None:
    """What ``module`` returns for ``arguments``, with its running statistics moved on as it would.

    ``None`` if only the module knows what to do: nothing is left to add up, a number names no candidate, or running
    statistics normalise and biases need a gradient. ``drop`` is the probability of drop-path.
    """
    where = type(module).__name__
    num_states = wiring.plan.num_inputs
    weights, *beta = arguments[num_states:]
    rows = _rows(weights, wiring)
    _require_rows(where, rows, beta, wiring)
    by_batch = not found.norms or uses_batch(next(iter(found.norms.values())))
    if any(wiring.biases) and not by_batch and torch.is_grad_enabled():
        return None
    offsets = None
    if wiring.skips_zeros or wiring.selects:
        active = _active(rows, beta.pop() if wiring.selects else None, wiring)  # type: ignore[arg-type]
        if active is None:
            return None
        offsets = _left_out(rows, active) if wiring.offsets else None
        wiring = wiring.restrict(active)
    states: list[Tensor] = list(arguments[:num_states])  # type: ignore[arg-type]
    if wiring.inputs:
        states = [prepare(state) for prepare, state in zip(found.inputs, states, strict=True)]
    edge_mix: Tensor | Sequence[Tensor] | None = beta[0] if beta else None  # type: ignore[assignment]
    call = _Call(where, wiring, found, states, rows, edge_mix)
    if not wiring.by_nodes:
        result = _evaluate_dropped(call, drop) if drop else _evaluate_known(call)
        contiguous = result.is_contiguous() or (wiring.keeps_layout and states[0].is_contiguous())
        if drop or not result.requires_grad:
            return result.contiguous() if contiguous else result
        # One copy, for the engine keeps its maps: what stands behind may change the module's in place (drop-path does)
        return result.clone(memory_format=torch.contiguous_format if contiguous else torch.channels_last)
    return _evaluate_by_nodes(call, offsets)


class _Call(NamedTuple):
    """A wiring, the modules that it names, and what they are given: states, coefficients and weights of the edges."""

    where: str
    wiring: Wiring
    found: EvaluatedModules
    states: Sequence[Tensor]
    rows: Tensor | Sequence[Rows]
    beta: Tensor | Sequence[Tensor] | None

    def select(self, part: Part) -> "_Call":
        """The call for a part of the wiring."""
        rows, beta = self.rows, self.beta
        some = rows[list(part.edges)] if isinstance(rows, Tensor) else [rows[number] for number in part.edges]
        shares = None if beta is None else torch.stack([beta[number] for number in part.edges])
        states = [self.states[source] for source in part.sources]
        return self._replace(wiring=part.wiring, states=states, rows=some, beta=shares)


def _evaluate_by_nodes(call: _Call, offsets: Sequence[Tensor] | None) -> Tensor:
    """Node by node, for some candidates have no kernel or run by themselves, in the order and the memory layout of the
    module's own forward: they may draw random numbers."""
    wiring, found, plan = call.wiring, call.found, call.wiring.plan
    states = list(call.states)
    call = call._replace(states=states)  # which grow, node by node
    beside = Beside(wiring, found.convolutions, found.norms, call.rows, call.beta)
    read, terms = set[int](), list[Tensor]()
    for target, parts in enumerate(wiring.by_node, start=len(states)):
        terms = []
        for part in parts:
            read |= set(part.sources)
            maps = _evaluate_known(call.select(part))
            terms.append(maps.contiguous() if states[0].is_contiguous() else maps)
        maps, coefficients = [], []
        for number in plan.entering(target):
            source = plan.edges[number].source
            for position, primitive in enumerate(wiring.edges[number].primitives):
                if primitive.by_itself is not None:
                    maps.append(found.by_themselves[primitive.by_itself](states[source]))
                elif primitive.layer is not None and primitive.layer.kind == "conv":
                    terms.append(beside.convolve(source, states[source])[number, position])
                    read.add(source)
                    continue
                elif primitive.layer is not None:
                    maps.append(beside.pool(source, states[source], primitive.layer))
                else:
                    continue
                read.add(source)
                coefficients.append(beside.coefficient(number, position))
        if maps:
            terms.append(mixed_sum(maps, torch.stack(coefficients)))
        if offsets is not None:
            terms += [offsets[number] for number in plan.entering(target)]
        states.append(sum(terms[1:], terms[0]))  # coefficients that switch everything off were declined before
    for source in set(range(len(states) - wiring.num_outputs)) - read:  # all that reads it multiplies it by zero
        states[-1] = states[-1] + 0 * states[source].flatten()[0]
    if wiring.num_outputs > 1:
        return torch.cat(states[-wiring.num_outputs :], 1)
    return states[-1].clone() if len(terms) == 1 else states[-1]  # it may be changed in place, the engine's maps not


def _evaluate_dropped(call: _Call, drop: float) -> Tensor:
    """Node by node, for each edge drops images of its map, drawn edge by edge as the family's drop-path draws them
    (Larsson et al., 2017, arXiv:1605.07648)."""
    wiring, states, keep = call.wiring, list(call.states), 1.0 - drop
    call = call._replace(states=states)  # which grow, node by node
    for target, parts in enumerate(wiring.by_edge, start=len(states)):
        shape = states[0].shape[0], 1, 1, 1
        masks = {edge: states[0].new_empty(shape).bernoulli_(keep) / keep for edge in wiring.plan.entering(target)}
        total = None
        for part in parts:
            maps = _evaluate_known(call.select(part))
            for edge, y in zip(part.edges, maps.split(wiring.plan.channels, 1), strict=True):
                total = y * masks[edge] if total is None else torch.addcmul(total, y, masks[edge])
        assert total is not None  # every node of a plan has a live candidate
        states.append(total)
    return torch.cat(states[-wiring.num_outputs :], 1)


def _evaluate_known(call: _Call) -> Tensor:
    where, wiring, found, states, rows, beta = call
    plan = wiring.plan
    mix, edge_mix = _live_coefficients(rows, beta, wiring, states[0].device)
    shifts = [[_parameter(found.convolutions[name], "bias") for name in names] for names in wiring.biases]
    if any(shifts):  # lost in the normalisation: their gradient is zero, and not absent
        mix = mix + 0 * torch.stack([bias.sum() for biases in shifts for bias in biases]).sum()  # type: ignore[union-attr]
    norms = [found.norms[name] for name in wiring.norms]
    filters = [_parameter(found.convolutions[name], "weight") for name in wiring.convolutions]
    if [weight.shape for weight in filters] != plan.filter_shapes:
        shapes = [list(w.shape) for w, shape in zip(filters, plan.filter_shapes, strict=True) if w.shape != shape]
        raise RuntimeError(restore_first(where, f"a filter of shape {shapes[0]}"))
    if norms and not uses_batch(norms[0]):
        given = torch.stack([torch.stack([n.running_mean, n.running_var]) for n in norms])  # type: ignore[list-item]
        given = _shift(given, shifts, -1)
        nodes, _ = mixed_cell(states, filters, mix, edge_mix if plan.k > 1 else None, plan, given)
    else:
        batch, (height, width) = states[0].shape[0], plan.size_after(*states[0].shape[2:])
        count = batch * height * width
        if count <= 1:
            raise invalid(where, "a channel must have more than one value to normalise by the batch", count)
        nodes, statistics = mixed_cell(states, filters, mix, edge_mix if plan.k > 1 else None, plan)
        statistics = _shift(statistics, shifts, 1)
        for _ in range(wiring.updates):
            move_running(norms, statistics, count / (count - 1))
    return nodes[:, (plan.num_nodes - wiring.num_outputs) * plan.channels :]


def _parameter(module: nn.Module, name: str) -> Any:
    """``getattr(module, name)``, found at once where it is a parameter: a cell reads hundreds of them."""
    table = module._parameters
    return table[name] if name in table else getattr(module, name)


@torch.no_grad()
def _shift(statistics: Tensor, shifts: Sequence[Sequence[Tensor | None]], sign: int) -> Tensor:
    """``statistics`` with the biases before each normalisation added to its mean, or taken away."""
    if not any(shifts):
        return statistics
    moved = statistics.clone()
    for row, biases in enumerate(shifts):
        if biases:
            moved[row, 0] += sign * torch.cat(list(biases)).to(moved.dtype)  # type: ignore[arg-type]
    return moved


def restore_first(where: str, got: str) -> str:
    """The error after a structural change."""
    return (
        f"{where}: its parts must be those that fastnas.accelerate found, got {got}. "
        "Call fastnas.restore before you change them and fastnas.accelerate afterwards."
    )


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
        what = "numbers of candidates" if wiring.selects else "weights of edges"
        raise invalid(where, f"{what} must be {num_edges}", len(beta[0]))  # type: ignore[arg-type]
    widths = [rows.shape[1]] * num_edges if isinstance(rows, Tensor) else [len(row) for row in rows]  # type: ignore[arg-type]
    for edge, width in zip(wiring.edges, widths, strict=False):
        if width < len(edge.primitives):
            raise invalid(where, f"weights must be {len(edge.primitives)} for each edge", width)


def _active(
    rows: Tensor | Sequence[Rows], chosen: Tensor | None, wiring: Wiring
) -> tuple[tuple[bool, ...], ...] | None:
    """Which candidates of each edge have a coefficient other than zero, or are ``chosen``; ``None`` if a node has
    nothing to add up, or a number names no candidate, as -1, which foreign code may count from the end.

    Reads all coefficients with one transfer from their device, where the module's own forward makes one for each.
    """
    edges = wiring.edges
    if chosen is not None:
        picks = torch.as_tensor(chosen)[: len(edges)].flatten().tolist()
        if any(pick not in range(len(e.primitives)) for e, pick in zip(edges, picks, strict=True)):
            return None
        numbers = [[k == pick for k in range(len(e.primitives))] for e, pick in zip(edges, picks, strict=True)]
    elif isinstance(rows, Tensor):
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
        if any(flag and edge.primitives[k].contributes for k, flag in enumerate(flags)):
            adds_up.add(plan.target)
    return active if len(adds_up) == wiring.plan.num_nodes else None


def _left_out(rows: Tensor | Sequence[Rows], active: Sequence[Sequence[bool]]) -> list[Tensor]:
    """For each edge, the sum of the coefficients of the candidates that do not run."""
    return [
        torch.stack(
            [n for n, flag in zip(_numbers(row), flags, strict=False) if not flag] or [_numbers(row)[0] * 0]
        ).sum()
        for row, flags in zip(rows, active, strict=False)
    ]


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
    if isinstance(rows, Tensor) and (wiring.skips_zeros or wiring.selects):
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
