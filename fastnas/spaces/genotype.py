"""Genotypes: what a search returns, as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

FIELD_NAMES = {"normal": "normal", "reduction": "reduce"}
"""What the text that the field exchanges calls the cell types."""


class Gene(NamedTuple):
    """One kept edge: a primitive and the state that it reads."""

    primitive: str
    source: int


@dataclass(frozen=True)
class CellGenotype:
    """The kept edges of one cell.

    States are numbered through: the cell's inputs first, then its nodes.

    Args:
        nodes: The genes of each node, in the order of the nodes.
        concat: States whose channels are concatenated into the cell's output.
    """

    nodes: tuple[tuple[Gene, ...], ...]
    concat: tuple[int, ...]

    def count(self, primitive: str) -> int:
        """How many kept edges carry ``primitive``."""
        return sum(gene.primitive == primitive for node in self.nodes for gene in node)


@dataclass(frozen=True)
class Genotype:
    """A discrete architecture: one cell, or a normal and a reduction cell.

    Args:
        space: Name of the space that it belongs to, as ``"darts"`` or ``"nasbench201"``.
        normal: The cell that keeps the resolution, or the whole network where the space is a chain of blocks.
        reduction: The cell that halves it, in spaces that search one.

    Example:
        >>> from fastnas.spaces import read_genotype
        >>> genotype = read_genotype("DARTS_V2")
        >>> genotype.space, genotype.normal.nodes[0][0]
        ('darts', Gene(primitive='sep_conv_3x3', source=0))
    """

    space: str
    normal: CellGenotype
    reduction: CellGenotype | None = None

    def __str__(self) -> str:
        """The form that the field exchanges; spaces other than DARTS and NAS-Bench-201 add ``space='...'`` to it."""
        if self.space == "nasbench201":
            ordered = self.canonical().normal.nodes
            return "+".join("|" + "".join(f"{primitive}~{source}|" for primitive, source in node) for node in ordered)
        parts = []
        for name, cell in self.cells.items():
            genes = [tuple(gene) for node in cell.nodes for gene in node]
            parts.append(f"{FIELD_NAMES[name]}={genes}, {FIELD_NAMES[name]}_concat={list(cell.concat)}")
        if self.space != "darts":
            parts.append(f"space={self.space!r}")
        return f"Genotype({', '.join(parts)})"

    @property
    def cells(self) -> Mapping[str, CellGenotype]:
        """The searched cells by type."""
        return {"normal": self.normal} | ({"reduction": self.reduction} if self.reduction else {})

    def canonical(self) -> Genotype:
        """The same architecture with the genes of each node sorted: equal networks compare equal."""

        def tidy(cell: CellGenotype) -> CellGenotype:
            nodes = tuple(tuple(sorted(node, key=lambda gene: (gene.source, gene.primitive))) for node in cell.nodes)
            return CellGenotype(nodes, cell.concat)

        return Genotype(self.space, tidy(self.normal), tidy(self.reduction) if self.reduction else None)
