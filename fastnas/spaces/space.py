"""What all spaces have in common: alpha's rectangle, and the graph that a genotype keeps edges of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import ClassVar, NamedTuple, Self

from fastnas.errors import invalid
from fastnas.spaces.genotype import CellGenotype, Genotype


class Edge(NamedTuple):
    """A link of a graph, from one state to a later one."""

    source: int
    target: int


@dataclass(frozen=True, kw_only=True)
class Space(ABC):
    """A directed acyclic graph with one primitive to choose on every edge.

    Alpha is a rectangle, ``[E, K]`` for every cell type, also where edges have lists of their own: then
    :meth:`alive` says which of its entries stand for a candidate. The others are never built, mixed or derived.

    Args:
        name: What genotypes of this space call it.
        primitives: Candidates; their order is the order of alpha's columns and breaks ties.
        num_inputs: States that enter the graph.
        num_nodes: States that the graph computes.
        cell_types: Searched graphs, each with its own alpha.
        kept_edges: Edges that derivation keeps at every node, or ``None`` for all of them. Where edges are
            dropped, ``none`` is never kept. A genotype may also say of every edge what it carries, ``none`` included.
        concat: States whose channels form the output.
        edge_primitives: The candidates of each edge where they differ, for every cell type a tuple with an entry an
            edge; ``None`` where every edge has all primitives.
    """

    name: str
    primitives: tuple[str, ...]
    num_inputs: int
    num_nodes: int
    cell_types: tuple[str, ...]
    kept_edges: int | None
    concat: tuple[int, ...]
    edge_primitives: tuple[tuple[tuple[str, ...], ...], ...] | None = None

    dimensions: ClassVar[int] = 2
    """Of the maps: 2 for images; a space of cells may have 1 or 3."""
    no_partial_channels: ClassVar[str] = ""
    """Why no channels can pass by the candidates, one sentence; empty where they can."""
    no_edge_weights: ClassVar[str] = ""
    """Why edges have no coefficients of their own; empty where they can have."""
    no_edge_costs: ClassVar[str] = ""
    """Why the cost of a network is no sum over its edges; empty where it is."""

    def __post_init__(self) -> None:
        states = self.num_inputs + self.num_nodes
        if self.num_inputs < 1:
            raise invalid(self._where, "num_inputs must be positive", self.num_inputs)
        if self.num_nodes < 1:
            raise invalid(self._where, "num_nodes must be positive", self.num_nodes)
        if not self.primitives or len(set(self.primitives)) < len(self.primitives):
            raise invalid(self._where, "primitives must be names, each once", self.primitives)
        if self.cell_types not in (("normal",), ("normal", "reduction")):
            rule = "cell_types must be ('normal',) or ('normal', 'reduction')"
            raise invalid(self._where, rule, self.cell_types)
        if not self.concat or not all(self.num_inputs <= state < states for state in self.concat):
            raise invalid(self._where, f"concat must name nodes, in [{self.num_inputs}, {states})", self.concat)
        if self.kept_edges is not None and not 1 <= self.kept_edges <= self.num_inputs:
            rule = f"kept_edges must be None or in [1, {self.num_inputs}], the edges of the first node"
            raise invalid(self._where, rule, self.kept_edges)
        self._check_edge_primitives()

    def _check_edge_primitives(self) -> None:
        if self.edge_primitives is not None:
            shape = [len(cell) for cell in self.edge_primitives]
            expected = [len(self.edges)] * len(self.cell_types)
            if shape != expected:
                raise invalid(self._where, f"edge_primitives must have lengths {expected}", shape)
            for names in (names for cell in self.edge_primitives for names in cell):
                if unknown := [name for name in names if name not in self.primitives]:
                    raise invalid(self._where, "edge_primitives must be among the primitives", unknown)
        for cell_type in self.cell_types:
            for row, edge in enumerate(self.edges):
                if not self.derivable_on(cell_type, row):
                    at = f"the {cell_type} edge {edge.source}->{edge.target}"
                    rule = f"{at} must have a primitive that can be derived"
                    raise invalid(self._where, rule, self.candidates(cell_type, row))

    @property
    def _where(self) -> str:
        return f"space {self.name!r}"

    @abstractmethod
    def sources(self, target: int) -> range:
        """The states that the node ``target`` reads before any edge is dropped."""

    @property
    def targets(self) -> range:
        """The states that are nodes."""
        return range(self.num_inputs, self.num_inputs + self.num_nodes)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, node by node and by source within a node: the order of alpha's rows."""
        return tuple(Edge(source, target) for target in self.targets for source in self.sources(target))

    @property
    def derivable(self) -> tuple[str, ...]:
        """Primitives that a genotype of this space may hold."""
        return tuple(p for p in self.primitives if p != "none" or self.kept_edges is None)

    def candidates(self, cell_type: str, row: int) -> tuple[str, ...]:
        """The primitives between which the edge of alpha's ``row`` chooses, in the order of alpha's columns."""
        if self.edge_primitives is None:
            return self.primitives
        allowed = self.edge_primitives[self.cell_types.index(cell_type)][row]
        return tuple(primitive for primitive in self.primitives if primitive in allowed)

    def derivable_on(self, cell_type: str, row: int) -> tuple[str, ...]:
        """Those of :meth:`candidates` that a genotype may hold."""
        return tuple(p for p in self.candidates(cell_type, row) if p in self.derivable)

    def alive(self, cell_type: str) -> tuple[tuple[bool, ...], ...]:
        """Which entries of alpha ``[E, K]`` stand for a candidate: a mask of the same shape."""
        edges = range(len(self.edges))
        return tuple(tuple(p in self.candidates(cell_type, row) for p in self.primitives) for row in edges)

    @property
    def rectangular(self) -> bool:
        """Whether every edge has all primitives, so that :meth:`alive` holds everywhere."""
        return self.edge_primitives is None

    def rows(self, target: int) -> range:
        """Rows of alpha that belong to the edges into state ``target``."""
        first = self._first_rows[target - self.num_inputs]
        return range(first, first + len(self.sources(target)))

    @cached_property
    def _first_rows(self) -> tuple[int, ...]:
        return tuple(accumulate((len(self.sources(target)) for target in self.targets), initial=0))

    def row(self, edge: Edge) -> int:
        """The row of alpha that belongs to ``edge``."""
        return self.rows(edge.target)[edge.source - self.sources(edge.target).start]

    def edges_named(self, total: int) -> list[int]:
        """How many edges each node of a cell with ``total`` genes names: all, or as many as derivation keeps."""
        every = [len(self.sources(target)) for target in self.targets]
        whole = self.kept_edges is None or total == sum(every)
        return every if whole else [self.kept_edges or 0] * self.num_nodes

    @property
    def no_large_images(self) -> str:
        """Why images of hundreds of pixels are refused; empty where they are not."""
        return ""

    def require_network(self) -> None:
        """Raise unless the library has a network for such a graph."""
        return

    @property
    def min_cells(self) -> int:
        """The least depth of a network, in the unit of ``--cells``."""
        return 1

    @property
    def has_auxiliary_head(self) -> bool:
        """Whether derived networks can be trained with a second classifier in their middle."""
        return False

    @property
    def depth(self) -> int | None:
        """The blocks in a stage, where each has choices of its own; ``None`` where any number of cells shares them."""
        return None

    @property
    def no_alignment(self) -> str:
        """Why no two cells have coefficients in common whose gradients could agree; empty where they have."""
        shared = self.depth is None
        return "" if shared else "Its blocks have coefficients of their own, so that no two cells share any."

    def with_depth(self, cells: int) -> Self:
        """The space of a network with ``cells`` cells: where every block has rows of alpha, it depends on that."""
        self.require_depth(cells)
        return self

    def require_depth(self, cells: int) -> None:
        """Raise unless networks of this space may have ``cells`` cells or blocks in a stage."""
        if self.depth is not None and cells != self.depth:
            rule = f"cells must be {self.depth}, the blocks in a stage of {self.name} that have choices of their own"
            raise invalid(self._where, rule, cells)

    @property
    def bridges(self) -> frozenset[int]:
        """Nodes around which nothing leads, so that a network needs one of their edges."""
        return frozenset()

    def check(self, genotype: Genotype) -> None:
        """Raise ``ValueError`` naming the first thing in ``genotype`` that this space does not allow."""
        where = f"genotype of the space {self.name!r}"
        if genotype.space != self.name:
            raise invalid(where, f"space must be {self.name!r}", repr(genotype.space))
        if set(genotype.cells) != set(self.cell_types):
            raise invalid(where, f"cells must be {', '.join(self.cell_types)}", ", ".join(genotype.cells))
        for cell_type, cell in genotype.cells.items():
            self._check_cell(where, cell_type, cell)

    def _check_cell(self, where: str, cell_type: str, cell: CellGenotype) -> None:
        if len(cell.nodes) != self.num_nodes:
            raise invalid(where, f"{cell_type} must have {self.num_nodes} nodes", len(cell.nodes))
        if cell.concat != self.concat:
            raise invalid(where, f"{cell_type} must concatenate {self.concat}", cell.concat)
        total = sum(map(len, cell.nodes))
        choose = self.candidates if total == len(self.edges) else self.derivable_on
        for position, (genes, expected) in enumerate(zip(cell.nodes, self.edges_named(total), strict=True)):
            target = self.num_inputs + position
            node = f"{cell_type} node {target}"
            readable = self.sources(target)
            if len(genes) != expected:
                raise invalid(where, f"{node} must have {expected} edges", len(genes))
            for primitive, source in genes:
                if source not in readable:
                    why = "An edge from the node itself or a later one would make a cycle." if source >= target else ""
                    rule = f"{node} must read an earlier state, in [{readable.start}, {target})"
                    raise invalid(where, rule, source, why)
                allowed = choose(cell_type, self.row(Edge(source, target)))
                if primitive not in allowed:
                    of_edge = "" if self.rectangular else f" on its edge from {source}"
                    rule = f"{node} must use one of the primitives {', '.join(allowed)}{of_edge}"
                    raise invalid(where, rule, repr(primitive))
            sources = [gene.source for gene in genes]
            if len(set(sources)) < len(sources):
                raise invalid(where, f"{node} must read each state once", sources)

    def state_name(self, state: int) -> str:
        """What a drawing calls a state: the cells before it for inputs, a number for nodes."""
        if state < self.num_inputs:
            return "input" if self.num_inputs == 1 else f"c_{{k-{self.num_inputs - state}}}"
        return str(state - self.num_inputs)

    def edge_title(self, row: int) -> str:
        """What a heading calls the edge of alpha's ``row``."""
        names = (self.state_name(state) for state in self.edges[row])
        return " → ".join(f"${name}$" if "_" in name else name for name in names)

    @abstractmethod
    def title(self, cell_type: str) -> str:
        """What a heading calls the graph of ``cell_type``."""

    @abstractmethod
    def describe(self, genotype: Genotype) -> Iterator[str]:
        """Lines of aligned text, one an edge or block, at most 80 columns wide."""
