"""Derivatives of a cell and of its gradients along a direction, in plain PyTorch and a part of the cell at a time.

For backends whose kernels know no numbers with a tangent. A cell is a sum of pieces: the parts that leave its states,
and the channels that pass by them. Each piece is a function of one state or a few, and is differentiated by itself,
so that what its second derivatives keep is gone before the next piece begins. Values come from the kernels.

With ``J`` a piece's derivative at ``x``, both derivatives along ``u`` come from its gradient ``J^T c``, which is linear
in ``c``: what pulls ``u`` back through it is ``J u`` for ``c`` and the derivative of ``J^T c`` along ``u`` for ``x``.

Shape suffixes: N H W images and pixels, D channels of all nodes.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import compress
from typing import NamedTuple

import torch
from torch import Tensor

from fastnas_kernels.mixed_op.plan import CellPlan
from fastnas_kernels.mixed_op.reference import Part, parts, split, sums_of
from fastnas_kernels.mixture import mixed_sum
from fastnas_kernels.partial_channels import merge_channels
from fastnas_kernels.precision import accumulator

Some = Tensor | None
Name = tuple[str, int]
"""Of a state, a coefficient of a candidate or of an edge, or a filter."""


class Piece(NamedTuple):
    """A function of some of the cell's tensors whose results, ``[N, C, H', W']``, are added to nodes."""

    function: Callable[..., tuple[Tensor, ...]]
    takes: tuple[Name, ...]
    adds_to: tuple[Name, ...]


def tangent_of_nodes(
    plan: CellPlan, statistics: Some, nodes_NHWD: Tensor, x: Sequence[Tensor], u: Sequence[Some]
) -> Tensor:
    """The derivative of the nodes along ``u``.

    Args:
        plan: Of the cell.
        statistics: To normalise with; ``None`` takes those of the batch.
        nodes_NHWD: The nodes at ``x``.
        x: Input states ``[I, N, H, W, C]``, mix, weights of the edges, and filters.
        u: A direction, of their shapes; ``None`` stands for zeros.
    """
    values, along = _named(plan, x, nodes_NHWD), _named(plan, u, None)
    for piece in _pieces(plan, statistics):
        for name, tangent in zip(piece.adds_to, _pushed(piece, values, along), strict=True):
            _add(along, name, tangent)
    found = [_filled(along, ("state", i), values) for i in range(plan.num_inputs, plan.num_states)]
    return torch.cat(found, 1).permute(0, 2, 3, 1).to(nodes_NHWD.dtype).contiguous()


def tangents_of_gradients(
    plan: CellPlan, statistics: Some, needed: Sequence[bool], nodes_NHWD: Sequence[Tensor],
    dnodes_NHWD: tuple[Tensor, Some], x: Sequence[Tensor], u: Sequence[Some],
) -> list[Tensor]:  # fmt: skip
    """The derivatives along ``u`` of the gradients of those of ``x`` that are needed.

    Args:
        plan: Of the cell.
        statistics: To normalise with; ``None`` takes those of the batch.
        needed: For each of ``x``.
        nodes_NHWD: The nodes at ``x``, and their derivative along ``u``.
        dnodes_NHWD: The nodes' gradient, and its own tangent, ``None`` for zeros.
        x: Input states ``[I, N, H, W, C]``, mix, weights of the edges, and filters.
        u: A direction, of their shapes; ``None`` stands for zeros.
    """
    nothing = [None] * len(x)
    values, along = _named(plan, x, nodes_NHWD[0]), _named(plan, u, nodes_NHWD[1])
    pulled, bent = _named(plan, nothing, dnodes_NHWD[0]), _named(plan, nothing, dnodes_NHWD[1])
    nodes = {*pulled}
    wanted = nodes | {*_named(plan, [v if need else None for v, need in zip(x, needed, strict=True)], None)}
    for piece in reversed(list(_pieces(plan, statistics))):
        for name, gradient, tangent in _bent(piece, values, along, wanted, pulled, bent):
            if name in nodes:
                _add(pulled, name, gradient)
            _add(bent, name, tangent)
    return _gathered(plan, bent, values, x, needed)


def _named(plan: CellPlan, x: Sequence[Some], nodes_NHWD: Some) -> dict[Name, Tensor]:
    """One of the cell's tensors for each name, of those that are there; states as ``[N, C, H, W]``."""
    inputs, mix, edge_mix, *weights = x
    states = list(enumerate(() if inputs is None else inputs))
    if nodes_NHWD is not None:
        states += enumerate(nodes_NHWD.chunk(plan.num_nodes, -1), plan.num_inputs)
    named = {("state", i): state.permute(0, 3, 1, 2) for i, state in states}
    named |= {("weight", i): weight for i, weight in enumerate(weights) if weight is not None}
    for kind, coefficients in (("mix", mix), ("edge", edge_mix)):
        named |= {(kind, i): c for i, c in enumerate(() if coefficients is None else coefficients.unbind())}
    return named


def _gathered(
    plan: CellPlan, named: dict[Name, Tensor], like: dict[Name, Tensor], x: Sequence[Tensor], needed: Sequence[bool]
) -> list[Tensor]:
    """Tensors as ``x`` is, of those that are needed, from ``named``; zeros where it has none."""

    def stacked(kind: str, count: int) -> Tensor:
        return torch.stack([_filled(named, (kind, i), like) for i in range(count)])

    makers: list[Callable[[], Tensor]] = [
        lambda: stacked("state", plan.num_inputs).permute(0, 1, 3, 4, 2),
        lambda: stacked("mix", plan.num_coefficients),
        lambda: stacked("edge", len(plan.edges)),
        *(partial(_filled, named, ("weight", i), like) for i in range(len(x) - 3)),
    ]
    return [make().to(v.dtype) for make, v in compress(zip(makers, x, strict=True), needed)]


def _filled(named: dict[Name, Tensor], name: Name, like: dict[Name, Tensor]) -> Tensor:
    return named[name] if name in named else torch.zeros_like(like[name], dtype=accumulator(like[name].dtype))


def _add(named: dict[Name, Tensor], name: Name, more: Some) -> None:
    if more is not None:
        named[name] = named[name] + more if name in named else more


def _pieces(plan: CellPlan, statistics: Some) -> Iterator[Piece]:
    """Of which the cell is the sum, each after all that add to the states that it takes."""
    first = 0
    numbers = {}
    for place, shapes in plan.weight_shapes.items():
        numbers[place] = range(first, first + len(shapes))
        first += len(shapes)
    for state in range(plan.num_states):
        if plan.k > 1 and state >= plan.num_inputs:
            edges = plan.entering(state)
            takes = [("state", plan.edges[edge].source) for edge in edges] + [("edge", edge) for edge in edges]
            yield Piece(partial(_passing, plan, edges), tuple(takes), (("state", state),))
        for part in parts(plan, state, batched=False):
            coefficients = [("mix", plan.first_coefficient[edge] + position) for edge, position in part.places]
            filters = [("weight", i) for place in part.places for i in numbers[place]]
            targets = tuple(("state", target) for target in part.reached(plan))
            function = partial(_mixed, plan, statistics, state, part)
            yield Piece(function, (("state", state), *coefficients, *filters), targets)


def _mixed(
    plan: CellPlan, statistics: Some, source: int, part: Part, state: Tensor, *arguments: Tensor
) -> tuple[Tensor, ...]:
    """What a part adds to each node that it reaches; ``arguments`` are its coefficients, and then its weights."""
    sums = sums_of(state, source, part, plan, statistics, arguments)
    if plan.k == 1:
        return tuple(sums.values())
    return tuple(merge_channels(y, torch.cat([torch.zeros_like(y)] * (plan.k - 1), 1), plan.k) for y in sums.values())


def _passing(plan: CellPlan, edges: Sequence[int], *arguments: Tensor) -> tuple[Tensor]:
    """The channels that pass by the candidates of edges into a node; ``arguments`` are states and weights of edges."""
    sources = [plan.edges[edge].source for edge in edges]
    passed = [split(x, plan, source)[1] for x, source in zip(arguments[: len(edges)], sources, strict=True)]
    y = mixed_sum(passed, torch.stack(arguments[len(edges) :]))
    return (merge_channels(torch.zeros_like(y[:, : plan.mixed_channels]), y, plan.k),)


def _pushed(piece: Piece, values: dict[Name, Tensor], along: dict[Name, Tensor]) -> list[Some]:
    """``J u`` of a piece; ``None`` stands for zeros."""
    moved = [name in along for name in piece.takes]
    if not any(moved):
        return [None] * len(piece.adds_to)
    with torch.enable_grad():
        x = _leaves(piece, values, moved)
        y = piece.function(*x)
        c = [torch.zeros_like(v, requires_grad=True) for v in y]
        gradients = _gradients(y, list(compress(x, moved)), c, create_graph=True)
    tangents = _gradients(gradients, c, [_exact(along[name]) for name in compress(piece.takes, moved)])
    return [t if v.requires_grad else None for v, t in zip(y, tangents, strict=True)]


def _bent(
    piece: Piece,
    values: dict[Name, Tensor],
    along: dict[Name, Tensor],
    wanted: set[Name],
    pulled: dict[Name, Tensor],
    bent: dict[Name, Tensor],
) -> list[tuple[Name, Tensor, Tensor]]:
    """``J^T c`` of a piece and its derivative along ``u`` and the tangent of ``c``, for each name that is wanted."""
    moved, wants = ([name in names for name in piece.takes] for names in (along, wanted))
    either = [a or b for a, b in zip(moved, wants, strict=True)]
    if not any(wants):
        return []
    with torch.enable_grad():
        x = _leaves(piece, values, either)
        y = piece.function(*x)
        c = [_exact(pulled[name]) for name in piece.adds_to]
        gradients = _spread(_gradients(y, list(compress(x, either)), c, create_graph=True), either)
    pairs = [(g, along[name]) for g, name in zip(gradients, piece.takes, strict=True) if name in along]
    pairs += [(v, bent[name]) for v, name in zip(y, piece.adds_to, strict=True) if name in bent]
    outputs, given = [v for v, _ in pairs], [_exact(t) for _, t in pairs]
    tangents = _gradients(outputs, list(compress(x, wants)), given)
    names, of_wanted = compress(piece.takes, wants), (g.detach() for g in compress(gradients, wants))
    return list(zip(names, of_wanted, tangents, strict=True))


def _spread(found: Sequence[Tensor], given: Sequence[bool]) -> list[Some]:
    rest = iter(found)
    return [next(rest) if there else None for there in given]


def _leaves(piece: Piece, values: dict[Name, Tensor], differentiable: Sequence[bool]) -> list[Tensor]:
    return [
        _exact(values[name]).detach().requires_grad_(need)
        for name, need in zip(piece.takes, differentiable, strict=True)
    ]


def _gradients(
    y: Sequence[Tensor], x: Sequence[Tensor], c: Sequence[Tensor], create_graph: bool = False
) -> list[Tensor]:
    """``J^T c``, zeros where ``y`` does not depend on ``x``."""
    pairs = [(v, t) for v, t in zip(y, c, strict=True) if v.requires_grad]
    if not pairs:
        return [torch.zeros_like(v) for v in x]
    outputs, given = zip(*pairs, strict=True)
    return list(
        torch.autograd.grad(outputs, x, given, create_graph=create_graph, allow_unused=True, materialize_grads=True)
    )


def _exact(x: Tensor) -> Tensor:
    return x.to(accumulator(x.dtype))
