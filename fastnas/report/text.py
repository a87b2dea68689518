"""Genotypes for the terminal."""

from fastnas.spaces.genotype import Genotype
from fastnas.spaces.registry import space_by_name
from fastnas.spaces.space import Space


def genotype_text(genotype: Genotype, own: Space | None = None) -> str:
    """The cells or blocks as aligned text, a line an edge, at most 80 columns wide.

    Args:
        genotype: Of any space.
        own: That space, if it is not registered.
    """
    return "\n".join(space_by_name(genotype.space, own).describe(genotype))
