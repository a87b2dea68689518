from collections import Counter

import numpy as np

from fastnas.spaces.cell_space import DARTS
from fastnas.spaces.registry import SPACES
from fastnas.spaces.sampling import random_genotype


def test_every_draw_is_valid_and_decided_by_its_seed():
    for space in SPACES.values():
        draws = range(50 if len(space.edges) < 1000 else 5)
        for seed in draws:
            genotype = random_genotype(space, seed)
            space.check(genotype)
            assert genotype == random_genotype(space, seed)
        assert len({random_genotype(space, seed) for seed in draws}) > 0.9 * len(draws)


def test_primitives_and_sources_are_drawn_evenly():
    genes = [g for seed in range(300) for node in random_genotype(DARTS, seed).normal.nodes for g in node]
    counts = Counter(gene.primitive for gene in genes)
    expected = len(genes) / len(DARTS.derivable)
    assert set(counts) == set(DARTS.derivable)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())
    sources = Counter(g.source for seed in range(300) for g in random_genotype(DARTS, seed).normal.nodes[3])
    assert set(sources) == set(range(5))
    # Each of five states is one of the two with probability 0.4; five standard deviations of the binomial
    assert all(abs(count - 120) < 5 * (300 * 0.4 * 0.6) ** 0.5 for count in sources.values())


def test_a_draw_leaves_the_global_generators_alone():
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    random_genotype(DARTS, 0)
    assert np.random.rand() == expected
