"""Spaces of cells: one graph, or a normal and a reduction one, repeated through the network."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fastnas.errors import invalid
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.space import Space

SHORT = {
    "max": "max_pool_3x3",
    "avg": "avg_pool_3x3",
    "skip": "skip_connect",
    "sep3": "sep_conv_3x3",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
}
S1_NORMAL = (
    "skip/dil3 skip/dil5 skip/dil5 skip/sep3 skip/dil3 max/skip skip/sep3 "
    "skip/sep3 skip/dil3 skip/sep3 max/skip skip/dil3 dil3/dil5 dil3/dil5"
)
S1_REDUCTION = (
    "max/avg max/dil3 max/avg max/avg skip/dil5 max/avg max/sep3 "
    "skip/dil3 skip/dil5 max/avg max/avg skip/dil5 skip/dil5 skip/dil5"
)

S1_PRIMITIVES = tuple(SHORT.values())
S1_EDGES = tuple(
    tuple(tuple(SHORT[word] for word in pair.split("/")) for pair in pairs.split())
    for pairs in (S1_NORMAL, S1_REDUCTION)
)
"""Zela et al., 2020, arXiv:1909.09656: of the normal and of the reduction cell, in the order of alpha's rows."""


Library = Literal["darts", "sharpdarts", "nasbench201"]
"""A set of operations of the library, see :mod:`fastnas.supernet.candidates`."""


@dataclass(frozen=True, kw_only=True)
class CellSpace(Space):
    """A cell, whose nodes read all states before them, or a normal and a reduction cell.

    With two inputs, cells go into the network of DARTS; with one, into that of NAS-Bench-201.

    Args:
        operations: How primitives are built, ``(channels, stride, searching) -> module``: operations of your own, the
            library's for all other names. A name stands for one of the library's sets. Equality does not look at it.

        dimensions: Of the maps: 2 for images, 1 for series, 3 for volumes. The library's primitives follow.

    See :class:`fastnas.spaces.space.Space` for the other arguments.

    Example:
        >>> from dataclasses import replace
        >>> from fastnas.spaces import DARTS
        >>> replace(DARTS, name="two", primitives=("skip_connect", "sep_conv_3x3")).derivable
        ('skip_connect', 'sep_conv_3x3')
    """

    operations: Mapping[str, Callable[[int, int, bool], Any]] | Library = field(
        default="darts", compare=False, repr=False
    )
    dimensions: int = 2  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dimensions not in (1, 2, 3):
            raise invalid(self._where, "dimensions must be 1, 2 or 3", self.dimensions)

    @property
    def no_edge_costs(self) -> str:  # type: ignore[override]
        return "" if self.dimensions == 2 else "Costs are those of operations on images."

    @property
    def no_large_images(self) -> str:
        return "" if self.num_inputs == 2 else "Its network has no reduction cells."

    def sources(self, target: int) -> range:
        return range(target)

    @property
    def has_auxiliary_head(self) -> bool:
        return self.num_inputs == 2 and self.dimensions == 2

    @property
    def min_cells(self) -> int:
        return 3 if self.num_inputs == 2 else 1  # two of them reduce

    def require_network(self) -> None:
        shape = (self.num_inputs, self.cell_types)
        if shape == (2, ("normal",)) and self.dimensions != 2:
            rule = "a space of one or three dimensions must search its reduction cell"
            raise invalid(self._where, rule, "a fixed one, which is made of filters for images")
        if shape == (2, ("normal",)) and len(self.concat) != FIXED_BRANCHES:
            cell = f"must concatenate {FIXED_BRANCHES} states, as the fixed one does"
            raise invalid(self._where, f"a space without a reduction cell of its own {cell}", self.concat)
        if shape[0] == 2 or (shape == (1, ("normal",)) and len(self.concat) == 1):
            return
        rule = "cells must have 2 inputs and a type normal, or 1 input, that type and 1 output state"
        got = f"{self.num_inputs} inputs, {' and '.join(self.cell_types)}, {len(self.concat)} output states"
        raise invalid(self._where, rule, got)

    def title(self, cell_type: str) -> str:
        return f"{cell_type} cell"

    def describe(self, genotype: Genotype) -> Iterator[str]:
        for cell_type, cell in genotype.cells.items():
            yield from (self.title(cell_type), f"  {'node':<6}{'from':<10}primitive")
            for position, genes in enumerate(cell.nodes):
                for i, (primitive, source) in enumerate(genes):
                    name = self.state_name(source).replace("{", "").replace("}", "")
                    yield f"  {str(position) if i == 0 else '':<6}{name:<10}{primitive}"
            yield ""


FIXED_BRANCHES = 4  # side by side in the reduction cell that GDAS does not search, each as wide as a state


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
    operations="nasbench201",
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

SHARPDARTS = replace(DARTS, name="sharpdarts", operations="sharpdarts")
"""Hundt et al., 2019, arXiv:1903.09900: the names of DARTS, with SharpSepConv for the bodies of its convolutions."""

SHARPERDARTS = replace(
    SHARPDARTS,
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
