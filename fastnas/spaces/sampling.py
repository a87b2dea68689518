"""Random architectures: the baseline that every search has to beat."""

import numpy as np

from fastnas.seeds import stream
from fastnas.spaces.genotype import CellGenotype, Gene, Genotype
from fastnas.spaces.space import Edge, Space


def random_genotype(space: Space, seed: int) -> Genotype:
    """Draw an architecture uniformly: distinct sources at every node, any primitive that its edge may derive.

    Args:
        space: The space to draw from.
        seed: Decides the draw.
    """
    rng = np.random.default_rng(stream(seed, "random genotype"))

    def gene(cell_type: str, source: int, target: int) -> Gene:
        allowed = space.derivable_on(cell_type, space.row(Edge(source, target)))
        return Gene(allowed[rng.integers(len(allowed))], source)

    def cell(cell_type: str) -> CellGenotype:
        nodes = []
        for target in space.targets:
            readable = space.sources(target)
            kept = len(readable) if space.kept_edges is None else space.kept_edges
            sources = sorted(readable[i] for i in rng.choice(len(readable), size=kept, replace=False))
            genes = tuple(gene(cell_type, source, target) for source in sources)
            while target in space.bridges and all(g.primitive == "none" for g in genes):
                genes = tuple(gene(cell_type, source, target) for source in sources)
            nodes.append(genes)
        return CellGenotype(tuple(nodes), space.concat)

    return Genotype(space.name, *(cell(cell_type) for cell_type in space.cell_types))
