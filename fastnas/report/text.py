"""Genotypes for the terminal."""

from fastnas.space.cell_space import CellSpace, space_named
from fastnas.space.genotype import Genotype


def state_name(space: CellSpace, state: int) -> str:
    """What a drawing calls a state: the cells before it for inputs, a number for nodes."""
    if state < space.num_inputs:
        return "input" if space.num_inputs == 1 else f"c_{{k-{space.num_inputs - state}}}"
    return str(state - space.num_inputs)


def cell_title(space: CellSpace, cell_type: str) -> str:
    """What a heading calls the graph of ``cell_type``."""
    return f"{cell_type} cell" if space.stages is None else "chain of blocks"


def block_places(space: CellSpace) -> list[tuple[int, int]]:
    """The stage of every block of a chain and its place in there, both from 1, in the order of alpha's rows."""
    return [(stage, block + 1) for stage, blocks in enumerate(space.stages or (), 1) for block in range(blocks)]


def genotype_text(genotype: Genotype, own: CellSpace | None = None) -> str:
    """The cells or blocks as aligned text, a line an edge, at most 80 columns wide.

    Args:
        genotype: Of any space.
        own: That space, if the library does not know it.
    """
    space = space_named(genotype.space, own)
    if space.stages is not None:
        return _chain_text(space, genotype)
    lines = []
    for cell_type, cell in genotype.cells.items():
        lines += [f"{cell_type} cell", f"  {'node':<6}{'from':<10}primitive"]
        for position, genes in enumerate(cell.nodes):
            for i, (primitive, source) in enumerate(genes):
                name = state_name(space, source).replace("{", "").replace("}", "")
                lines.append(f"  {str(position) if i == 0 else '':<6}{name:<10}{primitive}")
        lines.append("")
    return "\n".join(lines)


def _chain_text(space: CellSpace, genotype: Genotype) -> str:
    lines = [cell_title(space, "normal"), f"  {'stage':<7}{'block':<7}primitive"]
    for (stage, block), genes in zip(block_places(space), genotype.normal.nodes, strict=True):
        lines += [f"  {stage if block == 1 else '':<7}{block:<7}{gene.primitive}" for gene in genes]
    return "\n".join([*lines, ""])
