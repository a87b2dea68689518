import pytest
import torch
from torch import nn

from fastnas.space.cell_space import DARTS, SPACES
from fastnas.space.formats import read_genotype
from fastnas.space.sampling import random_genotype
from fastnas.supernet.derived import DartsNetwork, DerivedCell, DropPath, build_network
from fastnas.supernet.operations import DARTS_OPERATIONS, Pool


def test_a_cell_adds_up_the_kept_edges_of_every_node():
    genotype = read_genotype("PC_DARTS_cifar")
    cell = (
        DerivedCell(DARTS, genotype.reduction, DARTS_OPERATIONS, [nn.Identity(), nn.Identity()], 4, 2).double().eval()
    )
    states = [torch.randn(2, 4, 8, 8, dtype=torch.float64) for _ in range(2)]
    y = cell(states)
    for genes, operations in zip(genotype.reduction.nodes, cell.nodes, strict=True):
        states.append(sum(op(states[gene.source]) for gene, op in zip(genes, operations, strict=True)))
    assert torch.equal(y, torch.cat(states[2:], 1))
    assert y.shape == (2, 16, 4, 4)


def test_pools_are_not_normalised_and_norms_are_affine_with_running_statistics():
    net = DartsNetwork(read_genotype("DARTS_V1"), 10, channels=4, cells=3)
    assert any(isinstance(op, Pool) for cell in net.cells for node in cell.nodes for op in node)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(norm.affine and norm.track_running_stats for norm in norms)


def test_drop_path_is_decided_by_its_seed_and_keeps_the_mean():
    x = torch.ones(20_000, 1, 1, 1)
    y = DropPath(0.3, 5, x.device)(x)
    assert torch.equal(y, DropPath(0.3, 5, x.device)(x))
    assert not torch.equal(y, DropPath(0.3, 6, x.device)(x))
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert abs(y.mean() - 1) < 5 * (0.3 / 0.7 / len(x)) ** 0.5


def test_drop_path_spares_identities_and_evaluation():
    net = DartsNetwork(read_genotype("DARTS_V2"), 10, channels=4, cells=3)
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(net(images, 0.5, 1)[0], net(images, 0.5, 2)[0])
    net.eval()
    assert torch.equal(net(images, 0.5, 1)[0], net(images, 0.5, 2)[0])
    skips = "+".join("|" + "".join(f"skip_connect~{source}|" for source in range(node)) for node in (1, 2, 3))
    identities = build_network(read_genotype(skips), 10, 4, 1, 3, 32, False, False)
    assert torch.equal(identities(images, 0.9, 1)[0], identities(images, 0.9, 2)[0])


@pytest.mark.parametrize(("large", "resolution"), [(False, 32), (True, 224)])
def test_the_auxiliary_head_speaks_only_in_training(large, resolution):
    net = DartsNetwork(read_genotype("PDARTS"), 7, 4, 3, 3, large, True, resolution=resolution)
    images = torch.randn(2, 3, resolution, resolution)
    logits, auxiliary = net(images)
    assert logits.shape == auxiliary.shape == (2, 7)
    assert net.eval()(images)[1] is None


def test_images_too_small_for_the_auxiliary_head_are_refused():
    with pytest.raises(ValueError, match=r"auxiliary head: the state under it must measure at least 8 pixels, got 2"):
        DartsNetwork(read_genotype("PDARTS"), 10, 4, 3, auxiliary=True, resolution=8)


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_every_random_genotype_can_be_built_and_trained(space):
    for seed in range(3):
        net = build_network(random_genotype(space, seed), 10, 4, 3 if space is DARTS else 1, 1, 8, False, False)
        logits, _ = net(torch.randn(4, 1, 8, 8), 0.2, seed)
        logits.sum().backward()
        assert logits.isfinite().all()
