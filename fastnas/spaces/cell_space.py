"""Cell spaces: the primitives and the graph that a search chooses from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

from fastnas.spaces.dag import PAPER_BLOCKS, STAGES, FullDag
from fastnas.spaces.edge_lists import S1_EDGES, S1_PRIMITIVES
from fastnas.spaces.genotype import CellGenotype, Genotype
from fastnas_kernels.check import require


class Edge(NamedTuple):
    """A link of the cell's graph, from one state to a later one."""

    source: int
    target: int


@dataclass(frozen=True, kw_only=True)
class CellSpace:
    """A directed acyclic graph with one primitive to choose on every edge.

    It is that of a cell, whose nodes read all states before them, or a whole network: one chain of blocks, whose nodes
    read the one state before them, or blocks that are full graphs.

    Alpha is a rectangle, ``[E, K]`` for every cell type, also where edges have lists of their own: then
    :meth:`alive` says which of its entries stand for a candidate. The others are never built, mixed or derived.

    Args:
        name: What genotypes of this space call it.
        primitives: Candidates; their order is the order of alpha's columns and breaks ties.
        num_inputs: States that enter a cell.
        num_nodes: States that a cell computes; each reads all earlier states, or the last one in a chain.
        cell_types: Searched cells, each with its own alpha.
        kept_edges: Edges that derivation keeps at every node, or ``None`` for all of them. Where edges are
            dropped, ``none`` is never kept. A genotype may also say of every edge what it carries, ``none`` included.
        concat: States whose channels form the output of the cell.
        edge_primitives: The candidates of each edge where they differ, for every cell type a tuple with an entry an
            edge; ``None`` where every edge has all primitives.
        operations: How each primitive is built, ``(channels, stride, searching) -> module``, in a space of your
            own; ``None`` for the spaces whose primitives the library builds. Equality does not look at it.
        stages: The blocks in each stage of a chain, whose first block changes channels or resolution; ``None`` for
            cells. A chain has one input, and a block for every node.
        dag: The graph where its nodes are operations and its primitives say whether there is a connection; ``None`` for
            cells and chains.
    """

    name: str
    primitives: tuple[str, ...]
    num_inputs: int
    num_nodes: int
    cell_types: tuple[str, ...]
    kept_edges: int | None
    concat: tuple[int, ...]
    edge_primitives: tuple[tuple[tuple[str, ...], ...], ...] | None = None
    operations: Mapping[str, Callable[[int, int, bool], Any]] | None = field(default=None, compare=False, repr=False)
    stages: tuple[int, ...] | None = None
    dag: FullDag | None = None

    def __post_init__(self) -> None:
        where, states = f"space {self.name!r}", self.num_inputs + self.num_nodes
        require(self.num_inputs >= 1, where, "num_inputs must be positive", self.num_inputs)
        require(self.num_nodes >= 1, where, "num_nodes must be positive", self.num_nodes)
        named = len(self.primitives) > 0 and len(set(self.primitives)) == len(self.primitives)
        require(named, where, "primitives must be names, each once", self.primitives)
        known = self.cell_types in (("normal",), ("normal", "reduction"))
        require(known, where, "cell_types must be ('normal',) or ('normal', 'reduction')", self.cell_types)
        inside = len(self.concat) > 0 and all(self.num_inputs <= state < states for state in self.concat)
        require(inside, where, f"concat must name nodes, in [{self.num_inputs}, {states})", self.concat)
        fits = self.kept_edges is None or 1 <= self.kept_edges <= self.num_inputs
        rule = f"kept_edges must be None or in [1, {self.num_inputs}], the edges of the first node"
        require(fits, where, rule, self.kept_edges)
        if self.stages is not None:
            self._check_chain(where)
        if self.edge_primitives is not None:
            shape = [len(cell) for cell in self.edge_primitives]
            expected = [len(self.edges)] * len(self.cell_types)
            require(shape == expected, where, f"edge_primitives must have lengths {expected}", shape)
            for names in (names for cell in self.edge_primitives for names in cell):
                unknown = [name for name in names if name not in self.primitives]
                require(not unknown, where, "edge_primitives must be among the primitives", unknown)
        for cell_type in self.cell_types:
            for row, edge in enumerate(self.edges):
                rule = f"the {cell_type} edge {edge.source}->{edge.target} must have a primitive that can be derived"
                require(len(self.derivable_on(cell_type, row)) > 0, where, rule, self.candidates(cell_type, row))

    def _check_chain(self, where: str) -> None:
        assert self.stages is not None
        filled = len(self.stages) > 0 and min(self.stages) >= 1
        require(filled, where, "stages must be numbers of blocks, each at least 1", self.stages)
        shape = (self.num_inputs, self.num_nodes, self.cell_types, self.kept_edges, self.concat)
        blocks = sum(self.stages)
        rule = f"a chain of {blocks} blocks must have num_inputs, num_nodes, cell_types, kept_edges and concat of"
        expected = (1, blocks, ("normal",), None, (blocks,))
        require(shape == expected, where, f"{rule} {expected}", shape)
        remedy = "The operations of your own keep their channels, and those of a chain do not."
        require(self.operations is None, where, "a chain must not have operations of its own", "some", remedy)

    @property
    def targets(self) -> range:
        """The states that are nodes."""
        return range(self.num_inputs, self.num_inputs + self.num_nodes)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, node by node and by source within a node: the order of alpha's rows."""
        return tuple(Edge(source, target) for target in self.targets for source in self.sources(target))

    def sources(self, target: int) -> range:
        """The states that the node ``target`` reads before any edge is dropped."""
        if self.dag is not None:
            return self.dag.sources[target - self.num_inputs]
        return range(0 if self.stages is None else target - 1, target)

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

    def check(self, genotype: Genotype) -> None:
        """Raise ``ValueError`` naming the first thing in ``genotype`` that this space does not allow."""
        where = f"genotype of the space {self.name!r}"
        require(genotype.space == self.name, where, f"space must be {self.name!r}", repr(genotype.space))
        require(
            set(genotype.cells) == set(self.cell_types),
            where,
            f"cells must be {', '.join(self.cell_types)}",
            ", ".join(genotype.cells),
        )
        for cell_type, cell in genotype.cells.items():
            self._check_cell(where, cell_type, cell)

    def _check_cell(self, where: str, cell_type: str, cell: CellGenotype) -> None:
        require(
            len(cell.nodes) == self.num_nodes, where, f"{cell_type} must have {self.num_nodes} nodes", len(cell.nodes)
        )
        require(cell.concat == self.concat, where, f"{cell_type} must concatenate {self.concat}", cell.concat)
        total = sum(map(len, cell.nodes))
        choose = self.candidates if total == len(self.edges) else self.derivable_on
        for position, (genes, expected) in enumerate(zip(cell.nodes, self.edges_named(total), strict=True)):
            target = self.num_inputs + position
            node = f"{cell_type} node {target}"
            readable = self.sources(target)
            require(len(genes) == expected, where, f"{node} must have {expected} edges", len(genes))
            for primitive, source in genes:
                require(
                    source in readable,
                    where,
                    f"{node} must read an earlier state, in [{readable.start}, {target})",
                    source,
                    "An edge from the node itself or a later one would make a cycle." if source >= target else "",
                )
                allowed = choose(cell_type, self.row(Edge(source, target)))
                of_edge = "" if self.rectangular else f" on its edge from {source}"
                rule = f"{node} must use one of the primitives {', '.join(allowed)}{of_edge}"
                require(primitive in allowed, where, rule, repr(primitive))
            sources = [gene.source for gene in genes]
            require(len(set(sources)) == len(sources), where, f"{node} must read each state once", sources)


DARTS = CellSpace(
    name="darts",
    primitives=(
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    ),
    num_inputs=2,
    num_nodes=4,
    cell_types=("normal", "reduction"),
    kept_edges=2,
    concat=(2, 3, 4, 5),
)
"""Liu et al., 2019, arXiv:1806.09055: 14 edges, 8 primitives, two cells, two edges kept at a node."""

GDAS_FRC = replace(DARTS, name="gdas_frc", cell_types=("normal",))
"""Dong and Yang, 2019, arXiv:1910.04465: the normal cell of DARTS, beside a reduction cell that is fixed (FRC)."""

NASBENCH201 = CellSpace(
    name="nasbench201",
    primitives=("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"),
    num_inputs=1,
    num_nodes=3,
    cell_types=("normal",),
    kept_edges=None,
    concat=(3,),
)
"""Dong and Yang, 2020, arXiv:2001.00326: 6 edges, 5 primitives, every edge kept, 15,625 architectures."""


S1 = replace(
    DARTS,
    name="s1",
    primitives=S1_PRIMITIVES,
    edge_primitives=S1_EDGES,
)
"""Zela et al., 2020, arXiv:1909.09656: two primitives an edge, other ones from edge to edge (the lists: ``spaces.py``
of the authors' code)."""

S2 = replace(DARTS, name="s2", primitives=("skip_connect", "sep_conv_3x3"))
"""Zela et al., 2020, arXiv:1909.09656: a convolution or nothing done."""

S3 = replace(DARTS, name="s3", primitives=("none", "skip_connect", "sep_conv_3x3"))
"""Zela et al., 2020, arXiv:1909.09656: S2 and ``none``."""

S4 = replace(DARTS, name="s4", primitives=("noise", "sep_conv_3x3"))
"""Zela et al., 2020, arXiv:1909.09656: a convolution, or noise that has nothing to do with the image."""

SHARPDARTS = replace(DARTS, name="sharpdarts")
"""Hundt et al., 2019, arXiv:1903.09900: the names of DARTS, with SharpSepConv for the bodies of its convolutions."""

SHARPERDARTS = replace(
    DARTS,
    name="sharperdarts",
    primitives=(
        "none",
        "max_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "dil_conv_3x3",
        "flood_conv_3x3",
        "dil_flood_conv_3x3",
        "choke_conv_3x3",
        "dil_choke_conv_3x3",
    ),
)
"""Hundt et al., 2019, arXiv:1903.09900: SharpSepConv of 3x3 pixels alone, with as many channels in its middle, four
times as many (flood), or 32 (choke); the list stands in ``genotypes.py`` of the authors' code."""

_MBCONVS = tuple(f"mbconv_{kernel}x{kernel}_e{expansion}" for kernel in (3, 5, 7) for expansion in (3, 6))


def proxyless(blocks: int = 4) -> CellSpace:
    """The chain of mobile inverted bottlenecks of ProxylessNAS (Cai et al., 2019, arXiv:1812.00332).

    Six stages, the last of one block. Every block chooses one of kernels of 3, 5 and 7 pixels and expansions of 3 and
    6; blocks that keep channels and resolution add their input to the output, and may choose ``none``: the block is
    then left out. Genotypes of the published depth belong to the space ``proxyless``, others to ``proxyless_<blocks>``.

    Args:
        blocks: In each of the first five stages (paper: 4, 21 blocks in all and 141 candidates).
    """
    require(blocks >= 1, "proxyless", "blocks must be at least 1 in a stage", blocks)
    stages = (blocks,) * 5 + (1,)
    first_and_others = [(_MBCONVS,) + ((*_MBCONVS, "none"),) * (stage - 1) for stage in stages]
    return CellSpace(
        name="proxyless" if blocks == 4 else f"proxyless_{blocks}",
        primitives=(*_MBCONVS, "none"),
        num_inputs=1,
        num_nodes=sum(stages),
        cell_types=("normal",),
        kept_edges=None,
        concat=(sum(stages),),
        edge_primitives=(sum(first_and_others, ()),),
        stages=stages,
    )


def dso(blocks: int | None = None) -> CellSpace:
    """The full graph of DSO-NAS (Zhang et al., 2018, arXiv:1811.01567): every connection is there or not.

    Four levels of four operations; each reads any of the block's input and of the operations of lower levels, and all
    may reach the block's output: 124 connections. Two blocks that halve the resolution choose between two convolutions.

    Args:
        blocks: In each of three stages, with connections of their own (paper: 8), ``dso_full`` or
            ``dso_full_<blocks>``; ``None`` for any number of blocks that share theirs, ``dso``.
    """
    require(blocks is None or blocks >= 1, "dso", "blocks must be at least 1 in a stage", blocks)
    full = (("reduction",) + ("normal",) * (blocks or 0)) * STAGES  # the first one is cut off
    dag = FullDag(("normal", "reduction", "reduction") if blocks is None else full[1:])
    number, depth = len(dag.sources), {None: "", PAPER_BLOCKS: "_full"}.get(blocks, f"_full_{blocks}")
    return CellSpace(
        name=f"dso{depth}",
        primitives=("none", "connect"),
        num_inputs=1,
        num_nodes=number,
        cell_types=("normal",),
        kept_edges=None,
        concat=(number,),
        dag=dag,
    )


DSO, DSO_FULL = dso(), dso(PAPER_BLOCKS)
"""Zhang et al., 2018, arXiv:1811.01567: the connections of all blocks shared, and those of every block its own."""

PROXYLESS = proxyless()
"""Cai et al., 2019, arXiv:1812.00332: 21 blocks, 6 or 7 primitives, 2e17 architectures."""

LIBRARY = (DARTS, NASBENCH201, S1, S2, S3, S4, SHARPDARTS, SHARPERDARTS, GDAS_FRC, PROXYLESS, DSO, DSO_FULL)


def with_depth(space: CellSpace, cells: int) -> CellSpace:
    """The space of a network with ``cells`` cells: a chain has a row of alpha for every block, so its space depends on
    that. ``proxyless`` stands for a chain of any depth, and becomes that of ``cells`` blocks in a stage, and so does
    ``dso_full``; all other spaces are returned as they are.

    Raises:
        ValueError: For a space that is named by its depth, if it has another one.
    """
    if space in (PROXYLESS, DSO_FULL):
        return proxyless(cells) if space == PROXYLESS else dso(cells)
    if depth_of(space) is not None:
        require_depth(space, cells)
    return space


def depth_of(space: CellSpace) -> int | None:
    """The blocks in a stage, where each has choices of its own; ``None`` where any number shares them."""
    if space.dag is not None:
        return None if space.name == DSO.name else space.dag.blocks.count("normal") // STAGES
    return None if space.stages is None else space.stages[0]


def require_depth(space: CellSpace, cells: int) -> None:
    """Raise unless ``cells`` is the number of blocks in a stage of ``space``, each of which has its own choices."""
    depth = depth_of(space)
    rule = f"cells must be {depth}, the blocks in a stage of {space.name} that have choices of their own"
    require(cells == depth, f"space {space.name!r}", rule, cells)
