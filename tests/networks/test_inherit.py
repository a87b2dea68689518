"""Weights that a derived network takes over from a supernet."""

import pytest
import torch

from fastnas.networks.derived import derived_network
from fastnas.networks.inherit import inherit_weights
from fastnas.seeds import torch_seed
from fastnas.spaces import GDAS_FRC, NASBENCH201, S2, SHARPERDARTS, proxyless, random_genotype
from fastnas.spaces.space import Edge
from fastnas.supernet.mix import Mix
from fastnas.supernet.supernets import build_supernet


def select_path(space, genotype):
    """The mix in which the edges that were kept carry their primitive alone, and the others nothing."""
    mix = {}
    for cell_type, cell in genotype.cells.items():
        mix[cell_type] = torch.zeros(len(space.edges), len(space.primitives), dtype=torch.float64)
        for target, genes in zip(space.targets, cell.nodes, strict=True):
            for primitive, source in genes:
                mix[cell_type][space.row(Edge(source, target)), space.primitives.index(primitive)] = 1
    return Mix(mix, {})


def genotype_without_pools(space):
    return next(
        genotype
        for seed in range(10_000)
        if "pool" not in str(genotype := random_genotype(space, seed)) and "conv" in str(genotype)
    )  # a supernet normalises behind a pool, a derived network does not


@pytest.mark.parametrize("space", [S2, SHARPERDARTS, GDAS_FRC, NASBENCH201, proxyless(1)], ids=lambda s: s.name)
def test_the_network_is_the_supernet_with_one_path(space):
    genotype = genotype_without_pools(space)
    with torch_seed(0):
        supernet = build_supernet(space, 5, 4, space.min_cells, 1, 3, False).double()
        network = derived_network(space, genotype, 5, 4, space.min_cells, 3, 16, False, False).double()
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = supernet(images, select_path(space, genotype))
    assert not torch.allclose(network.train()(images), expected)
    copied = inherit_weights(network, supernet)
    assert copied > 0.9 * sum(p.numel() for p in network.parameters() if p.dim() > 1)
    torch.testing.assert_close(network(images), expected, rtol=1e-9, atol=1e-9)  # float64


def test_weights_of_another_size_are_refused():
    genotype = genotype_without_pools(S2)
    network = derived_network(S2, genotype, 5, 8, 3, 3, 16, False, False)
    with pytest.raises(ValueError, match=r"inherit_weights: the supernet must have stem.convolution.weight .*, got"):
        inherit_weights(network, build_supernet(S2, 5, 4, 3, 1, 3, False))
