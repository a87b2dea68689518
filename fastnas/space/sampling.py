"""Random architectures: the baseline that every search has to beat."""

import numpy as np

from fastnas.seeds import stream
from fastnas.space.cell_space import CellSpace
from fastnas.space.genotype import CellGenotype, Gene, Genotype


def random_genotype(space: CellSpace, seed: int) -> Genotype:
    """Draw an architecture uniformly: distinct sources at every node, any derivable primitive on each.

    Args:
        space: The space to draw from.
        seed: Decides the draw.
    """
    rng = np.random.default_rng(stream(seed, "random genotype"))

    def node(target: int) -> tuple[Gene, ...]:
        kept = target if space.kept_edges is None else space.kept_edges
        sources = sorted(rng.choice(target, size=kept, replace=False).tolist())
        return tuple(Gene(space.derivable[rng.integers(len(space.derivable))], source) for source in sources)

    def cell() -> CellGenotype:
        nodes = tuple(node(space.num_inputs + position) for position in range(space.num_nodes))
        return CellGenotype(nodes, space.concat)

    return Genotype(space.name, *(cell() for _ in space.cell_types))
