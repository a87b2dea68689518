"""Cell spaces: the primitives and the graph that a search chooses from."""

from dataclasses import dataclass
from typing import NamedTuple

from fastnas.space.genotype import CellGenotype, Genotype
from fastnas_kernels.check import require


class Edge(NamedTuple):
    """A link of the cell's graph, from one state to a later one."""

    source: int
    target: int


@dataclass(frozen=True, kw_only=True)
class CellSpace:
    """A complete directed acyclic graph with one primitive to choose on every edge.

    Args:
        name: What genotypes of this space call it.
        primitives: Candidates of every edge; their order is the order of alpha's columns and breaks ties.
        num_inputs: States that enter a cell.
        num_nodes: States that a cell computes; each reads all earlier states.
        cell_types: Searched cells, each with its own alpha.
        kept_edges: Edges that derivation keeps at every node, or ``None`` for all of them. Where edges are
            dropped, ``none`` is never kept.
        concat: States whose channels form the output of the cell.
    """

    name: str
    primitives: tuple[str, ...]
    num_inputs: int
    num_nodes: int
    cell_types: tuple[str, ...]
    kept_edges: int | None
    concat: tuple[int, ...]

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, node by node and by source within a node: the order of alpha's rows."""
        targets = range(self.num_inputs, self.num_inputs + self.num_nodes)
        return tuple(Edge(source, target) for target in targets for source in range(target))

    @property
    def derivable(self) -> tuple[str, ...]:
        """Primitives that a genotype of this space may hold."""
        return tuple(p for p in self.primitives if p != "none" or self.kept_edges is None)

    def rows(self, target: int) -> range:
        """Rows of alpha that belong to the edges into state ``target``."""
        first = sum(range(self.num_inputs, target))
        return range(first, first + target)

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
        for position, genes in enumerate(cell.nodes):
            target = self.num_inputs + position
            node = f"{cell_type} node {target}"
            expected = target if self.kept_edges is None else self.kept_edges
            require(len(genes) == expected, where, f"{node} must have {expected} edges", len(genes))
            for primitive, source in genes:
                require(
                    primitive in self.derivable,
                    where,
                    f"{node} must use one of the primitives {', '.join(self.derivable)}",
                    repr(primitive),
                )
                require(
                    0 <= source < target,
                    where,
                    f"{node} must read an earlier state, in [0, {target})",
                    source,
                    "An edge from the node itself or a later one would make a cycle." if source >= target else "",
                )
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

SPACES = {space.name: space for space in (DARTS, NASBENCH201)}


def space_named(name: str) -> CellSpace:
    """The space that genotypes and the command line call ``name``."""
    require(name in SPACES, "space", f"name must be one of {', '.join(SPACES)}", repr(name))
    return SPACES[name]
