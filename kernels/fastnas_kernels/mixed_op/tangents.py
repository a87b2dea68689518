"""Derivatives of a cell and of its gradients along a direction, in plain PyTorch and a part of the cell at a time.

For backends whose kernels know no numbers with a tangent. A cell is a sum of pieces: the candidates of one kind on all
edges that leave a state, and the channels that pass by the candidates into a node. Each piece is differentiated by
itself, so that what its second derivatives keep is gone before the next piece begins. Values come from the kernels.

With ``J`` a piece's derivative at ``x``, ``J u`` is forward mode. The derivative of its gradient ``J^T c`` along ``u``
is what pulls ``u`` back through that gradient: second derivatives are symmetric. Forward mode would take less time
there, but the graphs of gradients at dual numbers live, in cycles of references, until the level of the numbers ends.

Shape suffixes: N H W images and pixels, D channels of all nodes.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import compress
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastnas_kernels.mixed_op.definition import Part, groups, split, spread, sums_of
from fastnas_kernels.mixed_op.plan import CellPlan
from fastnas_kernels.mixture import mixed_sum
from fastnas_kernels.partial_channels import merge_channels
from fastnas_kernels.tensors import accumulator

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
        for group in groups(plan, state, batched=True):
            part = Part((group,))
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


def _pushed(piece: Piece, values: dict[Name, Tensor], along: dict[Name, Tensor]) -> Sequence[Some]:
    """``J u`` of a piece; ``None`` stands for zeros."""
    if not any(name in along for name in piece.takes):
        return [None] * len(piece.adds_to)
    with torch.no_grad(), _dual_numbers():
        x = [_exact(values[name]) for name in piece.takes]
        u = [along.get(name) for name in piece.takes]
        pairs = zip(x, u, strict=True)
        y = piece.function(*(v if t is None else forward_ad.make_dual(v, _exact(t)) for v, t in pairs))
        return [forward_ad.unpack_dual(v).tangent for v in y]


@contextmanager
def _dual_numbers() -> Generator[None, None, None]:
    """PyTorch's forward mode, which Functions switch off inside, and whose levels do not nest."""
    with forward_ad._set_fwd_grad_enabled(True), ExitStack() as level:
        if forward_ad._current_level < 0:
            level.enter_context(forward_ad.dual_level())
        yield


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
        gradients = spread(_gradients(y, list(compress(x, either)), c, create_graph=True), either)
    pairs = [
        (g, along[name]) for g, name in zip(gradients, piece.takes, strict=True) if g is not None and name in along
    ]
    pairs += [(v, bent[name]) for v, name in zip(y, piece.adds_to, strict=True) if name in bent]
    outputs, given = [v for v, _ in pairs], [_exact(t) for _, t in pairs]
    tangents = spread(_gradients(outputs, list(compress(x, wants)), given), wants)
    return [
        (name, g.detach(), t)
        for name, g, t in zip(piece.takes, gradients, tangents, strict=True)
        if g is not None and t is not None
    ]


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
