"""Genotypes for the terminal."""

from collections.abc import Sequence

from fastnas.spaces.cell_space import CellSpace
from fastnas.spaces.dag import DagNode, FullDag
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.registry import space_by_name


def state_name(space: CellSpace, state: int) -> str:
    """What a drawing calls a state: the cells before it for inputs, a number for nodes."""
    if state < space.num_inputs:
        return "input" if space.num_inputs == 1 else f"c_{{k-{space.num_inputs - state}}}"
    return str(state - space.num_inputs)


def cell_title(space: CellSpace, cell_type: str) -> str:
    """What a heading calls the graph of ``cell_type``."""
    if space.dag is not None:
        return "full graph"
    return f"{cell_type} cell" if space.stages is None else "chain of blocks"


def block_title(space: CellSpace, block: int) -> str:
    """What a heading calls a block of a full graph."""
    assert space.dag is not None
    kinds = space.dag.blocks
    number = kinds[: block + 1].count(kinds[block])
    if kinds[block] == "reduction":
        return f"reduction {number}"
    return f"block {number}" if kinds.count("normal") > 1 else "every block"


def block_places(space: CellSpace) -> list[tuple[int, int]]:
    """The stage of every block of a chain and its place in there, both from 1, in the order of alpha's rows."""
    return [(stage, block + 1) for stage, blocks in enumerate(space.stages or (), 1) for block in range(blocks)]


def genotype_text(genotype: Genotype, own: CellSpace | None = None) -> str:
    """The cells or blocks as aligned text, a line an edge, at most 80 columns wide.

    Args:
        genotype: Of any space.
        own: That space, if the library does not know it.
    """
    space = space_by_name(genotype.space, own)
    if space.stages is not None:
        return _chain_text(space, genotype)
    if space.dag is not None:
        return _dag_text(space, space.dag, genotype)
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


def dag_state_name(nodes: Sequence[DagNode], state: int) -> str:
    """What a text calls a state of a full graph's block: its level and its place in there."""
    if state == 0:
        return "in"
    level = nodes[state - 1].level
    return f"{level}.{sum(node.level == level for node in nodes[:state])}"


def _dag_text(space: CellSpace, dag: FullDag, genotype: Genotype) -> str:
    lines = []
    for block, (kind, span) in enumerate(zip(dag.blocks, dag.spans, strict=True)):
        nodes, found = dag.nodes_of(kind), genotype.normal.nodes[span.start : span.stop]
        lines += [block_title(space, block), f"  {'node':<5}{'operation':<14}reads"]
        for state, (node, genes) in enumerate(zip(nodes, found, strict=True), 1):
            kept = [0] if node.level == 1 else [g.source - span.start for g in genes if g.primitive != "none"]
            name = "out" if node.operation == "output" else dag_state_name(nodes, state)
            operation = "" if node.operation == "output" else node.operation
            reads = " ".join(dag_state_name(nodes, source) for source in kept)
            lines.append(f"  {name:<5}{operation:<14}{reads or '-'}")
        lines.append("")
    return "\n".join(lines)
