"""A limit that the derived network always meets.

Of all architectures whose cost is at most the limit, find the one that the coefficients like best. The edges are
decided one after the other. Of all ways to decide the first of them, only those that no other way beats in both cost
and score can be the beginning of the best architecture; they stay few, because costs repeat from edge to edge.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import NamedTuple

import numpy as np

from fastnas.costs.tables import CostTable, derived_cost
from fastnas.mechanisms.derivation import derive
from fastnas.spaces.genotype import CellGenotype, Gene, Genotype
from fastnas.spaces.space import Space
from fastnas_kernels.check import invalid

Coefficients = Mapping[str, Sequence[Sequence[float]]]
EdgeCoefficients = Mapping[str, Sequence[float]]


@dataclass(frozen=True, eq=False)
class DeriveWithin:
    """Derivation under a hard limit: the result costs at most ``limit``, whatever the coefficients are.

    If what ``derivation`` gives meets the limit, that is the result. Otherwise it is the architecture within the
    limit with the largest sum, over its edges, of coefficient times edge coefficient - the sum that the rule of
    DARTS (:func:`fastnas.mechanisms.derivation.derive`) maximises without a limit. Among equal sums the cheapest.
    A derivation that takes another ``rule`` beneath it (:class:`~fastnas.mechanisms.derivation.SkipCap`,
    :class:`~fastnas.mechanisms.derivation.AboveThreshold`, :func:`~fastnas.mechanisms.derivation.nonzero`) gets this
    one.

    Called as any derivation: ``replace(method, derivation=DeriveWithin(table, limit))``.

    Args:
        table: The costs.
        limit: In the unit of the table.
        derivation: The rule without a limit.

    Raises:
        ValueError: If no architecture of the space costs so little; names the least that one costs.
    """

    table: CostTable
    limit: float
    derivation: Callable[..., Genotype] = derive

    def __post_init__(self) -> None:
        edges = _edges(self.table, {}, {})
        cheapest = float(_ways(edges, self.table.constant)[-1][edges[-1].keep].costs[0])
        named = f"{cheapest:,.0f}" if cheapest >= 1000 else f"{cheapest:.6g}"
        if not cheapest <= self.limit:
            rule = f"limit must be at least what the cheapest architecture costs, {named} {self.table.unit}"
            raise invalid("DeriveWithin", rule, self.limit, "Raise it, or take a smaller network.")

    def __call__(self, space: Space, mix: Coefficients, edge_mix: EdgeCoefficients | None = None) -> Genotype:
        """From coefficients ``[E, K]``, and ``[E]`` of the edges or ``None``, to a genotype within the limit."""
        if space != self.table.space:
            rule = "the table must be one of the search's space"
            raise invalid("DeriveWithin", rule, f"{self.table.space.name} and {space.name}")
        if "rule" in signature(self.derivation).parameters:
            return self.derivation(space, mix, edge_mix, rule=partial(self._derive, derive))
        return self._derive(self.derivation, space, mix, edge_mix)

    def _derive(
        self,
        rule: Callable[..., Genotype],
        space: Space,
        mix: Coefficients,
        edge_mix: EdgeCoefficients | None = None,
    ) -> Genotype:
        free = rule(space, mix, edge_mix)
        if derived_cost(free, self.table) <= self.limit:
            return free
        edges = _edges(self.table, mix, edge_mix or {})
        return _genotype(space, edges, _best_columns(edges, _ways(edges, self.table.constant), self.limit))


class _Edge(NamedTuple):
    """One decision: drop the edge, if its node has edges to spare, or keep it with one of its candidates."""

    cell_type: str
    target: int
    source: int
    keep: int  # edges that its node keeps
    last: bool  # of its node
    columns: np.ndarray  # of alpha, those that can be derived
    costs: np.ndarray
    scores: np.ndarray


class _Front(NamedTuple):
    """Ways to decide the edges so far that no other way beats, the cheapest and worst first; of each the decision on
    the last edge (a column of alpha, or -1), how many edges of the node were kept before it, and its place then."""

    costs: np.ndarray
    scores: np.ndarray
    columns: np.ndarray
    kept_before: np.ndarray
    places_before: np.ndarray


Fronts = Mapping[int, _Front]
"""By the number of edges of the current node that are kept so far."""


def _edges(table: CostTable, mix: Coefficients, edge_mix: EdgeCoefficients) -> list[_Edge]:
    space = table.space
    edges = []
    for cell_type in space.cell_types:
        costs_EK = table.candidates[cell_type].numpy()
        mix_EK = np.asarray(mix[cell_type], float) if cell_type in mix else np.zeros_like(costs_EK)
        share_E = np.asarray(edge_mix[cell_type], float) if cell_type in edge_mix else np.ones(len(space.edges))
        for row, (source, target) in enumerate(space.edges):
            columns = np.array([space.primitives.index(p) for p in space.derivable_on(cell_type, row)])
            keep, scores = space.kept_edges or len(space.sources(target)), mix_EK[row, columns] * share_E[row]
            last = source == target - 1
            edges.append(_Edge(cell_type, target, source, keep, last, columns, costs_EK[row, columns], scores))
    return edges


def _ways(edges: Sequence[_Edge], constant: float) -> list[Fronts]:
    """What is worth knowing after each edge. Costs are added up in the order in which :func:`derived_cost` does, so
    that both agree to the last bit."""
    none = np.array([-1])
    fronts: Fronts = {0: _Front(np.array([constant]), np.zeros(1), none, none, none)}
    history = []
    for edge in edges:
        reached: dict[int, list[_Front]] = {}
        for kept, front in fronts.items():
            for kept_after, ways in _decide(edge, kept, front):
                reached.setdefault(kept_after, []).append(ways)
        history.append({kept: _keep_unbeaten(ways) for kept, ways in reached.items()})
        fronts = {0: history[-1][edge.keep]} if edge.last else history[-1]
    return history


def _decide(edge: _Edge, kept: int, front: _Front) -> Iterator[tuple[int, _Front]]:
    """All continuations of ``front`` by a decision on ``edge``, with how many edges of the node are then kept."""
    edges_left = edge.target - edge.source - 1
    places = np.arange(len(front.costs))
    before = np.full_like(places, kept)
    if kept + edges_left >= edge.keep:
        yield kept, _Front(front.costs, front.scores, np.full_like(places, -1), before, places)
    if kept < edge.keep <= kept + 1 + edges_left:
        for column, cost, score in zip(edge.columns, edge.costs, edge.scores, strict=True):
            chosen = np.full_like(places, column)
            yield kept + 1, _Front(front.costs + cost, front.scores + score, chosen, before, places)


def _keep_unbeaten(ways: Sequence[_Front]) -> _Front:
    merged = _Front(*(np.concatenate(parts) for parts in zip(*ways, strict=True)))
    order = np.lexsort((-merged.scores, merged.costs))
    scores = merged.scores[order]
    best_of_cheaper = np.append(-np.inf, np.maximum.accumulate(scores)[:-1])
    return _Front(*(part[order[scores > best_of_cheaper]] for part in merged))


def _best_columns(edges: Sequence[_Edge], history: Sequence[Fronts], limit: float) -> list[int]:
    """For every edge the column of alpha that the best decisions within the limit choose, or -1."""
    kept = edges[-1].keep
    place = int(np.flatnonzero(history[-1][kept].costs <= limit)[-1])  # the dearest has the largest score
    columns = []
    for position in reversed(range(len(edges))):
        front = history[position][kept]
        columns.append(int(front.columns[place]))
        kept, place = int(front.kept_before[place]), int(front.places_before[place])
        if position and edges[position - 1].last:
            kept = edges[position - 1].keep
    return columns[::-1]


def _genotype(space: Space, edges: Sequence[_Edge], columns: Sequence[int]) -> Genotype:
    """The genes of a node in order of decreasing score, as :func:`fastnas.mechanisms.derivation.derive` has them."""
    nodes: dict[tuple[str, int], list[tuple[float, Gene]]] = {}
    for edge, column in zip(edges, columns, strict=True):
        genes = nodes.setdefault((edge.cell_type, edge.target), [])
        if column >= 0:
            score = float(edge.scores[edge.columns == column][0])
            genes.append((score, Gene(space.primitives[column], edge.source)))
    by_score = {node: sorted(genes, key=lambda scored: -scored[0]) for node, genes in nodes.items()}
    ordered = by_score if space.kept_edges is not None else nodes
    targets = range(space.num_inputs, space.num_inputs + space.num_nodes)
    cells = (
        CellGenotype(tuple(tuple(gene for _, gene in ordered[cell_type, target]) for target in targets), space.concat)
        for cell_type in space.cell_types
    )
    return Genotype(space.name, *cells)
