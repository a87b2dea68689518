"""A cell of which only candidates run that were drawn, where the host need not know which.

All candidates stand in one table, which lies on the device and is built once. A draw picks rows of it: for each edge
and each path through it a place for the convolution that reads the state and one for the second half of a separable
one, and at stride 2 another for the second half of a factorised reduction. So what is launched is the same for every
draw. A place that a draw does not need holds a convolution without taps, whose coefficient is zero.

Branches stand in the order in which a cell of the drawn candidates alone has them, so that both add up in one order.

Shape suffixes: E edges, P paths of an edge, V places, X terms of all nodes, I input states, N H W images and pixels, S
channels of a state, D channels of all nodes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastnas_kernels.backend import on_device_of
from fastnas_kernels.mixed_op.definition import spread
from fastnas_kernels.mixed_op.derivative import chosen, families, prepared
from fastnas_kernels.mixed_op.lowering import Branch, Lowered, SourceRange, lower
from fastnas_kernels.mixed_op.plan import CellPlan, plan_from_text
from fastnas_kernels.operators import operator, signed

FIRST, OTHER_HALF, SECOND = range(3)
"""What stands in a place: a branch that reads the state; the second half of a factorised reduction, which does, too;
the second half of a separable convolution."""
SLOT, READS, READ_BY, COEFFICIENT = (Branch._fields.index(name) for name in ("slot", "reads", "read_by", "coefficient"))
POOLS_AND_SKIP = {"skip": 1, "max_pool": 2, "avg_pool": 4}
"""Columns of the table of edges that hold coefficients."""


class Place(NamedTuple):
    """Of one branch of one path through an edge."""

    edge: int
    path: int
    part: int


class Picked(NamedTuple):
    """What a draw makes of the tables, as :class:`fastnas_kernels.mixed_op.tables.Tables` has them."""

    branches: Tensor
    edges: Tensor
    entering: Tensor
    mix_rows: Tensor


@dataclass(frozen=True, eq=False)
class DrawnPaths:
    """What runs in all cells of a type.

    Args:
        positions_EP: For every path through an edge the place of what runs among the edge's candidates, or -1 for
            nothing; int64, on the device of the cells.
    """

    positions_EP: Tensor
    _picked: dict[CellPlan, Picked] = field(default_factory=dict)

    def picked(self, plan: CellPlan) -> Picked:
        """The tables of a cell, made once for all that are alike."""
        if plan not in self._picked:
            self._picked[plan] = pick(self.positions_EP, places_of(plan, self.positions_EP.shape[1]))
        return self._picked[plan]

    def marks(self, plan: CellPlan) -> Tensor:
        """Which of the plan's coefficients belong to what runs; bool."""
        return _marks(self.positions_EP, places_of(plan, self.positions_EP.shape[1]))[:-1]


@dataclass(frozen=True, eq=False)
class Places(Lowered):
    """A cell's places as its branches: what of a branch depends on the draw is not filled in.

    Args:
        places: What stands where.
        whole: The cell with all candidates.
    """

    places: tuple[Place, ...]
    whole: Lowered

    @property
    def has_halves(self) -> bool:  # type: ignore[override]
        """So that the row of sums that stands for none is zero."""
        return True

    def norm_rows(self, shared: bool) -> np.ndarray:
        """Nothing: nobody asks for statistics of what was drawn."""
        return np.zeros((2, 0), dtype=np.int64)

    def live_channels(self) -> np.ndarray:
        return np.ones((self.num_rows + 2, self.plan.mixed_channels), dtype=bool)

    def mix_rows(self) -> np.ndarray:
        """``[2, coefficients + 1]``: of pools and identities; -1 where branches decide, and for what is none."""
        rows = np.full((2, self.plan.num_coefficients + 1), -1, dtype=np.int64)
        for source, (first, _, last) in enumerate(self.ranges):
            for rank, edge in enumerate(self.plan.leaving(source)):
                for column, kind in enumerate(("max_pool", "avg_pool", "skip"), start=1):
                    is_branch = kind == "skip" and self.plan.stride_of(source) == 2
                    if not is_branch and (coefficient := self._coefficient(edge, kind)) >= 0:
                        rows[0, coefficient] = 2 * (self.sum_spans[source][0] + last - first + 2 * rank) + column
        return rows

    def entering(self, target: int) -> list[int]:
        """As many as are summed at state ``target``, whichever they are."""
        return [
            v
            for v, place in enumerate(self.places)
            if self.plan.edges[place.edge].target == target and place.part != SECOND
        ]

    def bundles(self, source: int, size: int) -> list[tuple[int, int]]:
        first, middle, _ = self.ranges[source]
        return [(v, 1) for v in range(first, middle)]

    def of(self, part: int) -> np.ndarray:
        """``[V]``: where the same path through the same edge has ``part``, -1 where it has none."""
        at = {place: v for v, place in enumerate(self.places)}
        return np.array([at.get(place._replace(part=part), -1) for place in self.places], dtype=np.int64)

    @cached_property
    def choices(self) -> np.ndarray:
        """``[V, K + 1]``: the row of the table for each candidate of the place's edge, the last for nothing. What is no
        branch there has the place's own row, behind those of all branches."""
        most = max((len(edge.candidates) for edge in self.plan.edges), default=0)
        rows = np.repeat(len(self.whole.branches) + np.arange(len(self.places))[:, None], most + 1, axis=1)
        of_norm: dict[tuple[int, int, int], int] = {}
        for number, (branch, norm) in enumerate(zip(self.whole.branches, self.whole.norms, strict=True)):
            of_norm[norm.edge, norm.candidate, SECOND if norm.stage else OTHER_HALF if branch.origin else FIRST] = (
                number
            )
        for v, place in enumerate(self.places):
            for position in range(most):
                number = of_norm.get((place.edge, position, place.part))
                if number is not None:
                    rows[v, position] = number
        return rows

    @cached_property
    def table(self) -> np.ndarray:
        """All branches, and for each place one without taps, whose filter is its own zeros."""
        c, none = self.plan.mixed_channels, self.plan.num_coefficients
        blank = [
            branch._replace(pointwise=self.whole.packing.size + v * _padded(c * c), coefficient=none)
            for v, branch in enumerate(self.branches)
        ]
        return np.array([*self.whole.branches, *blank], dtype=np.int64).reshape(-1, len(Branch._fields))

    @cached_property
    def order(self) -> np.ndarray:
        """By what places are sorted, for each row of the table: all places of a range before those of the next."""
        ends = [0] * len(self.places)
        for mine, theirs in zip(self.ranges, self.whole.ranges, strict=True):
            ends[mine.first : mine.middle] = [theirs.middle] * (mine.middle - mine.first)
            ends[mine.middle : mine.last] = [theirs.last] * (mine.last - mine.middle)
        return np.array(
            [2 * b for b in range(len(self.whole.branches))] + [2 * end - 1 for end in ends], dtype=np.int64
        )

    @cached_property
    def rows_of_sums(self) -> np.ndarray:
        spans = zip(self.sum_spans, self.ranges, strict=True)
        rows = chain.from_iterable(range(begin, begin + last - first) for (begin, _), (first, _, last) in spans)
        return np.array(list(rows), dtype=np.int64)


def _padded(size: int) -> int:
    return -(-size // 4) * 4


@lru_cache(maxsize=256)
def places_of(plan: CellPlan, paths: int) -> Places:
    """The places of ``plan`` for draws of so many ``paths`` through an edge."""
    whole, places, ranges = lower(plan), list[Place](), list[SourceRange]()
    for source in range(len(whole.ranges)):
        first = len(places)
        places += _places(plan, source, paths, (FIRST, OTHER_HALF))
        middle = len(places)
        places += _places(plan, source, paths, (SECOND,))
        ranges.append(SourceRange(first, middle, len(places)))
    zeros = np.full(len(places) * _padded(plan.mixed_channels**2), whole.unpacking.size, dtype=np.int64)
    blank = tuple(
        Branch(0, 1, 0, 0, 0, -1, -1, plan.edges[place.edge].target - plan.num_inputs, v)
        for v, place in enumerate(places)
    )
    packing = np.concatenate([whole.packing, zeros])
    return Places(plan, blank, (), tuple(ranges), packing, tuple(places), whole)


def _places(plan: CellPlan, source: int, paths: int, parts: Sequence[int]) -> Iterator[Place]:
    for edge in plan.leaving(source):
        candidates = plan.edges[edge].candidates
        halves = any(plan.factorised(edge, c) for c in candidates)
        filters = [c for c in candidates if c.kind == "depthwise"]
        has = halves or bool(filters), halves, any(c.repeats == 2 for c in filters)
        yield from (Place(edge, path, part) for path in range(paths) for part in parts if has[part])


class _OnDevice(NamedTuple):
    """The arrays of :class:`Places` where they are read."""

    edge: Tensor
    path: Tensor
    choices: Tensor
    table: Tensor
    order: Tensor
    firsts: Tensor
    seconds: Tensor
    rows_of_sums: Tensor
    half: Tensor
    """1 for the second half of a factorised reduction."""
    terms: Tensor
    """``[X]``: the places of what a node adds up, node by node: the first of each path, or its second half."""
    nodes: Tensor
    """``[X]``: the node of each term."""
    edges: Tensor
    starts: Tensor
    """``[E]``: where the coefficients of each edge begin."""
    mix_rows: Tensor


@lru_cache(maxsize=256)
def _on_device(places: Places, device: torch.device) -> _OnDevice:
    plan = places.plan
    terms = [v for target in range(plan.num_inputs, plan.num_states) for v in places.entering(target)]
    parts = [place.part for place in places.places]
    arrays = (
        [place.edge for place in places.places],
        [place.path for place in places.places],
        places.choices,
        places.table,
        places.order,
        places.of(FIRST),
        places.of(SECOND),
        places.rows_of_sums,
        [part == OTHER_HALF for part in parts],
        terms,
        [plan.edges[places.places[v].edge].target for v in terms],
        places.edge_table(True),
        plan.first_coefficient[:-1],
        places.mix_rows(),
    )
    return _OnDevice(*(torch.from_numpy(np.asarray(array, dtype=np.int64)).to(device) for array in arrays))


def _marks(positions_EP: Tensor, places: Places) -> Tensor:
    """Which coefficients run, and one more that stands for none."""
    number, starts_E = places.plan.num_coefficients, _on_device(places, positions_EP.device).starts
    at_EP = torch.where(positions_EP < 0, number, starts_E[:, None] + positions_EP)
    marks = torch.zeros(number + 1, dtype=torch.bool, device=positions_EP.device)
    return marks.index_fill(0, at_EP.flatten(), True)


def pick(positions_EP: Tensor, places: Places) -> Picked:
    """The tables of a draw, by operations of the device alone."""
    own, none = _on_device(places, positions_EP.device), places.plan.num_coefficients
    chosen_V = positions_EP[own.edge, own.path]
    row_V = own.choices.gather(1, chosen_V[:, None] % own.choices.shape[1]).squeeze(1)  # -1 is the last
    order_V = own.order[row_V].argsort(stable=True)
    place_V = order_V.argsort()
    drawn = own.table[row_V[order_V]]
    is_halved_V = own.table[row_V][:, READ_BY] >= 0
    second_V, first_V = own.seconds[order_V], own.firsts[order_V]
    is_second_V = second_V == order_V
    columns = list(drawn.unbind(1))
    columns[SLOT] = torch.arange(len(order_V), device=order_V.device)
    columns[READS] = torch.where(is_second_V, place_V[first_V], -1)
    columns[READ_BY] = torch.where(is_halved_V[order_V], place_V[second_V], -1)
    terms_X = own.terms
    ends_X = torch.where(is_halved_V[terms_X], own.seconds[terms_X], terms_X)
    entering_X = (own.nodes * len(order_V) + place_V[ends_X]).sort().values % max(1, len(order_V))

    marks = _marks(positions_EP, places)
    edges = list(own.edges.unbind(1))
    for column in POOLS_AND_SKIP.values():
        edges[column] = torch.where((edges[column] >= 0) & marks[edges[column]], edges[column], -1)
    nothing = 2 * places.sum_spans[-1][1]
    mix_rows = torch.where((own.mix_rows >= 0) & marks, own.mix_rows, nothing)
    coefficient_V = torch.where(columns[COEFFICIENT] < 0, none, columns[COEFFICIENT])
    at_V = own.half[order_V] * (none + 1) + coefficient_V
    mix_rows = mix_rows.flatten().scatter(0, at_V, 2 * own.rows_of_sums + 1).view(2, -1)[:, :none]
    return Picked(torch.stack(columns, 1).int(), torch.stack(edges, 1).int(), entering_X.int(), mix_rows)


@operator("drawn_cell")
def _forward(
    inputs_INHWS: Tensor, weights: list[Tensor], mix: Tensor, edge_mix: Tensor, picked: list[Tensor], paths: int,
    plan: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Nodes ``[N, H', W', D]``, rows of statistics and packed weights; ``mix`` ends with a zero."""
    from fastnas_kernels.mixed_op import launch  # noqa: PLC0415  (Triton, which exists on Linux only)

    with on_device_of(inputs_INHWS):
        run = launch.launcher_of(inputs_INHWS, places_of(plan_from_text(plan), paths))
        run = run.picked(Picked(*picked)._asdict())
        nodes, stats, packed, _ = launch.forward_by(run, inputs_INHWS, weights, mix, edge_mix, None)
    return nodes, stats, packed


@operator("drawn_cell_backward")
def _backward(
    dnodes_NHWD: Tensor, inputs_INHWS: Tensor, nodes_NHWD: Tensor, packed: Tensor, mix: Tensor, edge_mix: Tensor,
    stats: Tensor, needs: list[bool], picked: list[Tensor], paths: int, plan: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the input states, of all weights one after another, of the mix without its zero and of the weights
    of the edges; empty where ``needs`` says no, zero for what was not drawn."""
    from fastnas_kernels.mixed_op import launch, launch_backward  # noqa: PLC0415

    with on_device_of(inputs_INHWS):
        run = launch.launcher_of(inputs_INHWS, places_of(plan_from_text(plan), paths))
        run = run.picked(Picked(*picked)._asdict())
        return launch_backward.backward_by(
            run, dnodes_NHWD, inputs_INHWS, nodes_NHWD, packed, mix, edge_mix, stats, needs
        )


class _DrawnCell(torch.autograd.Function):
    """Nodes from the input states, mix, weights of the edges, and filters; differentiable once."""

    @staticmethod
    @signed
    def forward(ctx, plan: str, paths: int, picked: list[Tensor], *x: Tensor) -> Tensor:
        inputs, mix, edge_mix, *weights = x
        mix = torch.cat([mix, mix.new_zeros(1)])
        nodes, stats, packed = _forward(inputs, list(weights), mix, edge_mix, picked, paths, plan)
        ctx.plan, ctx.paths, ctx.shapes = plan, paths, [weight.shape for weight in weights]
        ctx.save_for_backward(inputs, mix, edge_mix, nodes, stats, packed, *picked, *weights)
        return nodes

    @staticmethod
    @once_differentiable
    def backward(ctx, dnodes: Tensor) -> tuple[Tensor | None, ...]:
        inputs, mix, edge_mix, nodes, stats, packed, *others = ctx.saved_tensors
        picked, weights = others[: len(Picked._fields)], others[len(Picked._fields) :]
        needed = ctx.needs_input_grad[3:]
        x = inputs, mix[:-1], edge_mix, *weights
        found = _backward(
            dnodes, inputs, nodes, packed, mix, edge_mix, stats, families(needed), picked, ctx.paths, ctx.plan
        )
        return None, None, None, *spread(chosen(found, x, needed), needed)


def drawn_cell(
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    mix: Tensor,
    edge_mix: Tensor | None,
    plan: CellPlan,
    drawn: DrawnPaths,
) -> Tensor:
    """:func:`fastnas_kernels.mixed_op.cell.mixed_cell` of what was drawn, by the kernels: the coefficients of other
    candidates are not read, and their gradients and those of their weights are zero."""
    x = prepared(states, weights, mix, edge_mix, plan)
    nodes = _DrawnCell.apply(plan.text, drawn.positions_EP.shape[1], list(drawn.picked(plan)), *x)
    return nodes.permute(0, 3, 1, 2)
