"""Genotypes for the terminal."""

from fastnas.space.cell_space import CellSpace, space_named
from fastnas.space.genotype import Genotype


def state_name(space: CellSpace, state: int) -> str:
    """What a drawing calls a state: the cells before it for inputs, a number for nodes."""
    if state < space.num_inputs:
        return "input" if space.num_inputs == 1 else f"c_{{k-{space.num_inputs - state}}}"
    return str(state - space.num_inputs)


def genotype_text(genotype: Genotype, own: CellSpace | None = None) -> str:
    """The cells as aligned text, a line an edge, at most 80 columns wide.

    Args:
        genotype: Of any space.
        own: That space, if the library does not know it.
    """
    space = space_named(genotype.space, own)
    lines = []
    for cell_type, cell in genotype.cells.items():
        lines += [f"{cell_type} cell", f"  {'node':<6}{'from':<10}primitive"]
        for position, genes in enumerate(cell.nodes):
            for i, (primitive, source) in enumerate(genes):
                name = state_name(space, source).replace("{", "").replace("}", "")
                lines.append(f"  {str(position) if i == 0 else '':<6}{name:<10}{primitive}")
        lines.append("")
    return "\n".join(lines)
