"""From a plan to what the kernels read: branches, integer tables, and one packed vector of weights.

A *branch* is one depthwise and 1x1 convolution. A dilated convolution is one branch, a separable one two, the
second reading the first. A factorised reduction is two as well: each reads every second pixel with a 1x1
"depthwise" filter of ones and fills half of the output's channels; the other half of its 1x1 filter is zero, and
a channel that is zero everywhere normalises to zero, so both halves can be added like any two branches.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, groupby, pairwise
from math import prod
from typing import NamedTuple

import numpy as np

from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, Norm


class Branch(NamedTuple):
    """One depthwise and 1x1 convolution: the fields are the columns of the table."""

    kernel: int
    dilation: int
    origin: int
    """Added to the position that is read, in pixels: 1 in the second half of a factorised reduction."""
    depthwise: int
    """Where the filter ``[kernel * kernel, C]`` begins in the packed weights."""
    pointwise: int
    """Where the filter ``[C in, C out]`` begins in the packed weights."""
    reads: int
    """The branch whose normalised output is read, or -1 for the state."""
    coefficient: int
    """Its place in the mix, or -1 where another branch reads this one."""
    target: int
    """The node that it enters, counted from 0."""
    slot: int
    """Where its raw output lies while a cell is evaluated forward."""
    read_by: int = -1
    """The branch that reads this one, or -1."""


class SourceRange(NamedTuple):
    """The branches that leave one state: ``[first, middle)`` read the state, ``[middle, last)`` read those."""

    first: int
    middle: int
    last: int


class _Packing:
    """Collects where each packed weight comes from: an index into all weights, flattened one after another."""

    def __init__(self, num_weights: int) -> None:
        self.zero, self.one = num_weights, num_weights + 1
        self.sources: list[np.ndarray] = []
        self.length = 0

    def add(self, sources: np.ndarray) -> int:
        """Append, padded to a multiple of 4 elements so that every filter begins at 16 bytes."""
        begin = self.length
        padding = np.full(-sources.size % 4, self.zero)
        self.sources += [sources.ravel(), padding]
        self.length += sources.size + padding.size
        return begin


@dataclass(frozen=True, eq=False)
class Lowered:
    """A plan as branches; see the module."""

    plan: CellPlan
    branches: tuple[Branch, ...]
    norms: tuple[Norm, ...]
    """The normalisation of every branch."""
    ranges: tuple[SourceRange, ...]
    """One for each state that an edge can leave."""
    packing: np.ndarray
    """``[P]``: what the packed weights hold; the last two indices are the constants zero and one."""

    @property
    def num_slots(self) -> int:
        """Raw outputs that are alive at once going forward."""
        return max((branch.slot for branch in self.branches), default=-1) + 1

    @property
    def num_rows(self) -> int:
        """Rows of statistics: one for each branch, then max- and avg-pool of each edge."""
        return len(self.branches) + 2 * len(self.plan.edges)

    @cached_property
    def has_halves(self) -> bool:
        """Whether there is a factorised reduction, whose results are sums of two branches'."""
        return any(self.plan.factorised(edge, candidate) for edge, _, candidate in self.plan.each())

    @cached_property
    def dense(self) -> bool:
        """Whether no filter that reads another branch is dilated."""
        return all(c.dilation == 1 for edge in self.plan.edges for c in edge.candidates if c.repeats > 1)

    @cached_property
    def most_dilated(self) -> int:
        """The largest dilation of a filter."""
        return max((branch.dilation for branch in self.branches), default=1)

    @cached_property
    def unpacking(self) -> np.ndarray:
        """Where each weight lies in the packed vector, ``[number of weights]``."""
        total = sum(prod(shape) for shapes in self.plan.weight_shapes.values() for shape in shapes)
        places = np.zeros(total + 2, dtype=np.int64)
        places[self.packing] = np.arange(self.packing.size)
        return places[:total]

    def pool_row(self, edge: int, kind: str) -> int:
        """The row of statistics that a pool on ``edge`` would have of its own."""
        return len(self.branches) + 2 * edge + (kind == "avg_pool")

    def pool_rows(self, source: int) -> dict[str, int]:
        """The row that all edges which leave ``source`` share, for each kind of pool that one of them has."""
        return self._pool_rows[source]

    @cached_property
    def _pool_rows(self) -> list[dict[str, int]]:
        found: list[dict[str, int]] = [{} for _ in range(self.plan.num_states)]
        for number, edge in enumerate(self.plan.edges):
            for kind in ("max_pool", "avg_pool"):
                if self._coefficient(number, kind) >= 0:
                    found[edge.source].setdefault(kind, self.pool_row(number, kind))
        return found

    def _coefficient(self, edge: int, kind: str) -> int:
        kinds = [candidate.kind for candidate in self.plan.edges[edge].candidates]
        return self.plan.first_coefficient[edge] + kinds.index(kind) if kind in kinds else -1  # type: ignore[arg-type]

    def norm_rows(self, shared: bool) -> np.ndarray:
        """``[2, R]``: for each normalisation of the plan the two rows whose sum is its statistics; an additional
        last row, which is zero, stands for none."""
        rows, zero = [], self.num_rows + 1
        of_norm: dict[Norm, list[int]] = {}
        for number, norm in enumerate(self.norms):
            of_norm.setdefault(norm, []).append(number)
        for norm in self.plan.norms:
            edge = self.plan.edges[norm.edge]
            kind = edge.candidates[norm.candidate].kind
            if kind in ("max_pool", "avg_pool"):
                row = self.pool_rows(edge.source)[kind] if shared else self.pool_row(norm.edge, kind)
                rows.append((row, zero))
            else:
                rows.append((*of_norm[norm], zero)[:2])
        return np.array(rows, dtype=np.int64).reshape(-1, 2).T

    @cached_property
    def leaving(self) -> tuple[int, ...]:
        """All edges, source by source."""
        return tuple(edge for source in range(len(self.ranges)) for edge in self.plan.leaving(source))

    @cached_property
    def sum_spans(self) -> list[tuple[int, int]]:
        """For each source the rows ``[first, last)`` of the sums that backward needs. A row holds two sums: of ``dy``
        and of ``dy`` times the normalised output, for each branch; of ``dy`` and times max-pool, then times avg-pool
        and times the state, for each edge."""
        spans, begin = [], 0
        for source, (first, _, last) in enumerate(self.ranges):
            spans.append((begin, begin + last - first + 2 * len(self.plan.leaving(source))))
            begin = spans[-1][1]
        return spans

    def mix_rows(self) -> np.ndarray:
        """``[2, coefficients]``: the sums that make the gradient of each coefficient, as ``2 row + column``; an
        additional last row, which is zero, stands for none."""
        none = 2 * self.sum_spans[-1][1]
        sums: list[list[int]] = [[] for _ in range(self.plan.num_coefficients)]
        for source, (first, _, last) in enumerate(self.ranges):
            begin = self.sum_spans[source][0]
            for number, branch in enumerate(self.branches[first:last], start=begin):
                if branch.coefficient >= 0:
                    sums[branch.coefficient].append(2 * number + 1)
            for rank, edge in enumerate(self.plan.leaving(source)):
                for place, kind in enumerate(("max_pool", "avg_pool", "skip"), start=1):
                    coefficient = self._coefficient(edge, kind)
                    if coefficient >= 0 and not sums[coefficient]:
                        sums[coefficient].append(2 * (begin + last - first + 2 * rank) + place)
        return np.array([(*of, none)[:2] for of in sums], dtype=np.int64).T

    def live_channels(self) -> np.ndarray:
        """``[rows, C]``: false for the channels of half a factorised reduction that the other half fills."""
        live = np.ones((self.num_rows + 2, self.plan.mixed_channels), dtype=bool)
        half = self.plan.mixed_channels // 2
        for number, (branch, norm) in enumerate(zip(self.branches, self.norms, strict=True)):
            candidate = self.plan.edges[norm.edge].candidates[norm.candidate]
            if self.plan.factorised(norm.edge, candidate):
                live[number, :half], live[number, half:] = not branch.origin, bool(branch.origin)
        return live

    def edge_table(self, shared: bool) -> np.ndarray:
        """``[E, 7]``: source; coefficient of an identity; coefficient and row of max-pool; coefficient and row of
        avg-pool; node. A coefficient is -1 where the candidate is absent. ``shared``: pools of a state share a row."""
        rows = []
        for number, edge in enumerate(self.plan.edges):
            identity = -1 if self.plan.stride_of(edge.source) == 2 else self._coefficient(number, "skip")
            row = [edge.source, identity]
            for kind in ("max_pool", "avg_pool"):
                own = self.pool_row(number, kind)
                shared_row = self.pool_rows(edge.source).get(kind, own)
                row += [self._coefficient(number, kind), shared_row if shared else own]
            rows.append([*row, edge.target - self.plan.num_inputs])
        return np.array(rows, dtype=np.int32)

    def entering(self, target: int) -> list[int]:
        """Branches that are summed at state ``target``."""
        node = target - self.plan.num_inputs
        return [b for b, branch in enumerate(self.branches) if branch.target == node and branch.coefficient >= 0]

    def bundles(self, source: int, size: int) -> list[tuple[int, int]]:
        """``(first, number)`` of up to ``size`` branches that read ``source`` at the same places, as many in one as in
        the next."""
        first, middle, _ = self.ranges[source]
        found: list[tuple[int, int]] = []
        kinds = groupby(range(first, middle), lambda b: (*self.branches[b][:3], self.branches[b].coefficient < 0))
        for _, alike in kinds:
            start, *others = alike
            number = 1 + len(others)
            programs = -(-number // size)
            bounds = [start + number * i // programs for i in range(programs + 1)]
            found += [(a, b - a) for a, b in pairwise(bounds)]
        return found


class _Part(NamedTuple):
    """A branch before it has a number: ``stage`` 1 reads the branch of stage 0 at the same ``place``."""

    place: tuple[int, int]
    stage: int
    kernel: int
    dilation: int
    origin: int
    final: bool
    taps: np.ndarray
    products: np.ndarray

    @property
    def order(self) -> tuple[int, ...]:
        """Branches that read the same pixels stand side by side, so that one program can serve several."""
        return (self.stage, self.kernel, self.dilation, self.origin, self.final)


def _parts(
    plan: CellPlan, place: tuple[int, int], candidate: Candidate, starts: list[int], pack: _Packing
) -> list[_Part]:
    """The branches of one candidate; ``starts`` says where each of its weights begins among all of them."""
    c = plan.mixed_channels
    if plan.factorised(place[0], candidate):
        parts = []
        for half, start in enumerate(starts):
            products = np.full((c, c), pack.zero)  # [in, out]
            products[:, half * (c // 2) : (half + 1) * (c // 2)] = (start + np.arange(c // 2 * c)).reshape(-1, c).T
            parts.append(_Part(place, 0, 1, 1, half, True, np.full((1, c), pack.one), products))
        return parts
    parts = []
    for stage in range(len(starts) // 2):
        taps = (starts[2 * stage] + np.arange(c * candidate.kernel**2)).reshape(c, -1).T
        products = (starts[2 * stage + 1] + np.arange(c * c)).reshape(c, c).T
        final = stage == candidate.repeats - 1
        parts.append(_Part(place, stage, candidate.kernel, candidate.dilation, 0, final, taps, products))
    return parts


@lru_cache(maxsize=256)
def lower(plan: CellPlan) -> Lowered:
    """The branches of ``plan``, state by state."""
    sizes = {place: [prod(shape) for shape in shapes] for place, shapes in plan.weight_shapes.items()}
    pack = _Packing(sum(map(sum, sizes.values())))
    of_source: list[list[_Part]] = [[] for _ in range(plan.num_states - 1)]
    begin = 0
    for edge, position, candidate in plan.each():
        starts = [begin + offset for offset in accumulate(sizes[edge, position], initial=0)]
        begin = starts.pop()
        of_source[plan.edges[edge].source] += _parts(plan, (edge, position), candidate, starts, pack)

    branches: list[Branch] = []
    norms: list[Norm] = []
    ranges: list[SourceRange] = []
    next_slot, num_final = 0, sum(part.final for parts in of_source for part in parts)
    for parts in of_source:
        first, spare, latest = len(branches), num_final, {}
        for part in sorted(parts, key=lambda part: part.order):
            edge, position = part.place
            branches.append(
                Branch(
                    kernel=part.kernel,
                    dilation=part.dilation,
                    origin=part.origin,
                    depthwise=pack.add(part.taps),
                    pointwise=pack.add(part.products),
                    reads=latest[part.place] if part.stage else -1,
                    coefficient=plan.first_coefficient[edge] + position if part.final else -1,
                    target=plan.edges[edge].target - plan.num_inputs,
                    slot=next_slot if part.final else spare,
                )
            )
            number = len(branches) - 1
            if part.stage:
                branches[latest[part.place]] = branches[latest[part.place]]._replace(read_by=number)
            latest[part.place] = number
            next_slot, spare = next_slot + part.final, spare + (not part.final)
            norms.append(Norm(edge, position, part.stage))
        middle = first + sum(part.stage == 0 for part in parts)
        ranges.append(SourceRange(first, middle, len(branches)))
    packing = np.concatenate(pack.sources) if pack.sources else np.empty(0, dtype=np.int64)
    return Lowered(plan, tuple(branches), tuple(norms), tuple(ranges), packing)
