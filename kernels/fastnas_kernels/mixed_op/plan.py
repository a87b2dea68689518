"""What a cell computes, as a value: edges, their candidates, and the order of all weights and statistics.

Everything here is known on the host before the first tensor, so a plan can be hashed, compared and compiled into
the tables that the kernels read.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

from fastnas_kernels.check import invalid
from fastnas_kernels.partial_channels import require_partial

Kind = Literal["max_pool", "avg_pool", "skip", "depthwise"]


class Candidate(NamedTuple):
    """One way to compute an edge.

    Args:
        kind: ``max_pool`` and ``avg_pool`` are 3x3 pools with normalisation; ``skip`` is the identity, at stride 2
            the factorised reduction; ``depthwise`` is ReLU, depthwise and 1x1 convolution and normalisation.
        kernel: Side of the depthwise filter, odd.
        dilation: Of the depthwise filter.
        repeats: 2 for separable convolutions, which do it twice, the second time at stride 1; otherwise 1.
    """

    kind: Kind
    kernel: int = 3
    dilation: int = 1
    repeats: int = 1


class EdgePlan(NamedTuple):
    """An edge from state ``source`` to state ``target`` and its live candidates; ``none`` is never among them."""

    source: int
    target: int
    candidates: tuple[Candidate, ...]


class Norm(NamedTuple):
    """One normalisation of the cell: the ``stage``-th of candidate ``candidate`` on edge ``edge``."""

    edge: int
    candidate: int
    stage: int


@dataclass(frozen=True)
class CellPlan:
    """All that is fixed about a cell.

    Args:
        channels: Channels of every state.
        num_inputs: States that enter.
        num_nodes: States that are computed; together they are the output.
        edges: Ordered by target.
        stride: Of the edges that leave an input state; all others keep the resolution.
        k: The candidates see the first ``channels / k`` channels of a state, the others pass by
            (Xu et al., 2020, arXiv:1907.05737).
        eps: Added to every variance.
    """

    channels: int
    num_inputs: int
    num_nodes: int
    edges: tuple[EdgePlan, ...]
    stride: int = 1
    k: int = 1
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.stride not in (1, 2):
            raise invalid("CellPlan", "stride must be 1 or 2", self.stride)
        skips = any(c.kind == "skip" for e in self.edges if self.stride_of(e.source) == 2 for c in e.candidates)
        require_partial("CellPlan", self.channels, self.k, even=skips)
        for edge in self.edges:
            forward = 0 <= edge.source < edge.target and self.num_inputs <= edge.target < self.num_states
            if not forward:
                raise invalid("CellPlan", "edges must lead from a state to a later node", edge[:2])
            for candidate in edge.candidates:
                if candidate.kernel % 2 != 1:
                    raise invalid("CellPlan", "kernel must be odd", candidate.kernel)
                if candidate.repeats not in (1, 2):
                    raise invalid("CellPlan", "repeats must be 1 or 2", candidate.repeats)
        targets = [edge.target for edge in self.edges]
        if targets != sorted(targets):
            raise invalid("CellPlan", "edges must be ordered by target", targets)
        missing = set(range(self.num_inputs, self.num_states)) - {e.target for e in self.edges if e.candidates}
        if missing:
            raise invalid("CellPlan", "every node must have a live candidate", f"none into {sorted(missing)}")
        # Fills their caches: torch.compile cannot enter the lock that they have in Python 3.11
        _ = self.text, self.first_coefficient, self.weight_shapes, self.filter_shapes

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # asked for at every call of a cell; of the edges, it takes as long as a launch
        return hash(self.text)

    @cached_property
    def text(self) -> str:
        """The plan in letters, for operators whose arguments are tensors, numbers and text."""
        return json.dumps([self.channels, self.num_inputs, self.num_nodes, self.edges, self.stride, self.k, self.eps])

    @property
    def num_states(self) -> int:
        return self.num_inputs + self.num_nodes

    @property
    def mixed_channels(self) -> int:
        """Channels that the candidates see."""
        return self.channels // self.k

    @cached_property
    def first_coefficient(self) -> tuple[int, ...]:
        """Where the coefficients of each edge begin in the flat vector of all of them."""
        starts = [0]
        for edge in self.edges:
            starts.append(starts[-1] + len(edge.candidates))
        return tuple(starts)

    @property
    def num_coefficients(self) -> int:
        return self.first_coefficient[-1]

    @property
    def mixes(self) -> bool:
        """Whether there is more than one candidate in all, and more than identities."""
        return self.num_coefficients > 1 and len(self.norms) > 0

    def stride_of(self, source: int) -> int:
        """Stride of the edges that leave ``source``."""
        return self.stride if source < self.num_inputs else 1

    def leaving(self, source: int) -> list[int]:
        """Numbers of the edges that leave ``source``."""
        return [number for number, edge in enumerate(self.edges) if edge.source == source]

    def entering(self, target: int) -> list[int]:
        """Numbers of the edges that enter ``target``."""
        return [number for number, edge in enumerate(self.edges) if edge.target == target]

    def size_after(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output, from those of the input states (pixels)."""
        return -(-height // self.stride), -(-width // self.stride)

    def each(self) -> Iterator[tuple[int, int, Candidate]]:
        """All candidates as ``(edge, position, candidate)``, in the order of coefficients and weights."""
        for number, edge in enumerate(self.edges):
            for position, candidate in enumerate(edge.candidates):
                yield number, position, candidate

    def factorised(self, edge: int, candidate: Candidate) -> bool:
        """Whether the candidate is a skip that has to halve the resolution."""
        return candidate.kind == "skip" and self.stride_of(self.edges[edge].source) == 2

    @cached_property
    def weight_shapes(self) -> dict[tuple[int, int], list[tuple[int, int, int, int]]]:
        """Shapes of the weights of every ``(edge, position)``, in the order in which they are handed over: for each
        stage the depthwise and the 1x1 filter; for a factorised reduction its two 1x1 filters."""
        c = self.mixed_channels
        shapes = {}
        for edge, position, candidate in self.each():
            of_candidate = []
            if candidate.kind == "depthwise":
                of_candidate = [(c, 1, candidate.kernel, candidate.kernel), (c, c, 1, 1)] * candidate.repeats
            elif self.factorised(edge, candidate):
                of_candidate = [(c // 2, c, 1, 1)] * 2
            shapes[edge, position] = of_candidate
        return shapes

    @cached_property
    def filter_shapes(self) -> list[tuple[int, int, int, int]]:
        """Shapes of all weights, one after another."""
        return [shape for shapes in self.weight_shapes.values() for shape in shapes]

    @cached_property
    def norms(self) -> tuple[Norm, ...]:
        """All normalisations: the rows of the statistics."""
        stages = {"max_pool": 1, "avg_pool": 1, "skip": 0}
        return tuple(
            Norm(edge, position, stage)
            for edge, position, candidate in self.each()
            for stage in range(1 if self.factorised(edge, candidate) else stages.get(candidate.kind, candidate.repeats))
        )

    def row(self, norm: Norm, shared: bool) -> int:
        """The row of the statistics that belongs to ``norm``.

        A pool gives the same result on every edge that leaves a state, so while statistics come from the batch
        (``shared``) the first of these edges keeps them for all.
        """
        edge, kind = self.edges[norm.edge], self.edges[norm.edge].candidates[norm.candidate].kind
        if shared and kind in ("max_pool", "avg_pool"):
            for number in self.leaving(edge.source):
                for position, candidate in enumerate(self.edges[number].candidates):
                    if candidate.kind == kind:
                        return self.norms.index(Norm(number, position, 0))
        return self.norms.index(norm)


class Size(NamedTuple):
    """Images, height and width of the input states and height and width of the output, in pixels."""

    images: int
    height: int
    width: int
    out_height: int
    out_width: int

    @property
    def pixels(self) -> int:
        return self.images * self.height * self.width

    @property
    def out_pixels(self) -> int:
        return self.images * self.out_height * self.out_width


@lru_cache(maxsize=256)
def plan_from_text(text: str) -> CellPlan:
    """The plan whose ``text`` this is."""
    channels, num_inputs, num_nodes, edges, stride, k, eps = json.loads(text)
    parsed = tuple(EdgePlan(source, target, tuple(Candidate(*c) for c in cs)) for source, target, cs in edges)
    return CellPlan(channels, num_inputs, num_nodes, parsed, stride, k, eps)
