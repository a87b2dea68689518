"""Random architectures: the baseline that every search has to beat."""

import numpy as np

from fastnas.seeds import stream
from fastnas.spaces.cell_space import CellSpace, Edge
from fastnas.spaces.genotype import CellGenotype, Gene, Genotype


def random_genotype(space: CellSpace, seed: int) -> Genotype:
    """Draw an architecture uniformly: distinct sources at every node, any primitive that its edge may derive.

    Args:
        space: The space to draw from.
        seed: Decides the draw.
    """
    rng = np.random.default_rng(stream(seed, "random genotype"))

    def gene(cell_type: str, source: int, target: int) -> Gene:
        allowed = space.derivable_on(cell_type, space.row(Edge(source, target)))
        return Gene(allowed[rng.integers(len(allowed))], source)

    # nothing leads around a block that halves the resolution, so that its output reads something in every draw
    spans = () if space.dag is None else zip(space.dag.blocks, space.dag.spans, strict=True)
    bridges = {space.num_inputs + span[-1] for kind, span in spans if kind == "reduction"}

    def cell(cell_type: str) -> CellGenotype:
        nodes = []
        for target in space.targets:
            readable = space.sources(target)
            kept = len(readable) if space.kept_edges is None else space.kept_edges
            sources = sorted(readable[i] for i in rng.choice(len(readable), size=kept, replace=False))
            genes = tuple(gene(cell_type, source, target) for source in sources)
            while target in bridges and all(g.primitive == "none" for g in genes):
                genes = tuple(gene(cell_type, source, target) for source in sources)
            nodes.append(genes)
        return CellGenotype(tuple(nodes), space.concat)

    return Genotype(space.name, *(cell(cell_type) for cell_type in space.cell_types))
