import pytest
import torch
from torch import nn

from fastnas.costs.tables import NetworkSize, derived_cost, parameter_table
from fastnas.mechanisms.derivation import every_edge
from fastnas.networks.cells import DartsNetwork, DerivedCell
from fastnas.networks.derived import build_network
from fastnas.networks.training_pass import DropPath, TrainingPass
from fastnas.spaces.cell_space import DARTS
from fastnas.spaces.formats import read_genotype
from fastnas.spaces.genotype import CellGenotype, Gene
from fastnas.spaces.registry import SPACES
from fastnas.spaces.sampling import random_genotype
from fastnas.supernet.operations import DARTS_OPERATIONS


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
    assert any(isinstance(op, nn.MaxPool2d | nn.AvgPool2d) for cell in net.cells for node in cell.nodes for op in node)
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
    assert not torch.equal(TrainingPass(net)(images, 0.5, 1)[0], TrainingPass(net)(images, 0.5, 2)[0])
    net.eval()
    assert torch.equal(TrainingPass(net)(images, 0.5, 1)[0], TrainingPass(net)(images, 0.5, 2)[0])
    skips = "+".join("|" + "".join(f"skip_connect~{source}|" for source in range(node)) for node in (1, 2, 3))
    identities = build_network(read_genotype(skips), 10, 4, 1, 3, 32, False, False)
    assert torch.equal(TrainingPass(identities)(images, 0.9, 1)[0], TrainingPass(identities)(images, 0.9, 2)[0])


def test_drop_path_takes_the_strided_skips_of_a_reduction_but_no_identity():
    genes = tuple(tuple(Gene("skip_connect", source) for source in (0, node + 1)) for node in range(4))
    identities = [nn.Identity(), nn.Identity()]
    cell = DerivedCell(DARTS, CellGenotype(genes, DARTS.concat), DARTS_OPERATIONS, identities, 4, 2)
    # Node 2 reads the inputs 0 and 1, the others input 0 and the node before them
    assert [type(one).__name__ for one in cell.droppable()] == ["FactorizedReduce"] * 5
    cell = DerivedCell(DARTS, CellGenotype(genes, DARTS.concat), DARTS_OPERATIONS, identities, 4, 1)
    assert list(cell.droppable()) == []


def test_a_dropped_path_is_dropped_for_whole_single_images():
    x = torch.ones(64, 3, 4, 4)
    y = DropPath(0.5, 0, x.device)(x)
    values = y.flatten(1)
    assert torch.equal(values, values[:, :1].expand_as(values))
    assert set(values[:, 0].tolist()) == {0.0, 2.0}


def test_a_network_is_a_function_of_its_seed_alone():
    net = DartsNetwork(read_genotype("DARTS_V1"), 10, channels=4, cells=3).train()
    images = torch.randn(4, 3, 16, 16)
    torch.manual_seed(1)
    first = TrainingPass(net)(images, 0.5, 7)[0]
    torch.manual_seed(2)
    expected = torch.rand(2)
    torch.manual_seed(2)
    assert torch.equal(first, TrainingPass(net)(images, 0.5, 7)[0])
    assert torch.equal(torch.rand(2), expected)


def cells_of(space):
    return 3 if space.num_inputs == 2 else space.depth or 1


@pytest.mark.parametrize("size", [9, 11, 15])
def test_odd_images_go_through_all_networks(size):
    for space in SPACES.values():
        net = build_network(random_genotype(space, size), 10, 4, cells_of(space), 1, size, False, False)
        assert net(torch.randn(2, 1, size, size)).shape == (2, 10)


@pytest.mark.parametrize(("large", "resolution"), [(False, 32), (True, 224)])
def test_the_auxiliary_head_speaks_only_in_training(large, resolution):
    net = DartsNetwork(read_genotype("PDARTS"), 7, 4, 3, 3, large, True, resolution=resolution)
    images = torch.randn(2, 3, resolution, resolution)
    logits, auxiliary = TrainingPass(net)(images)
    assert logits.shape == auxiliary.shape == (2, 7)
    assert TrainingPass(net.eval())(images)[1] is None
    assert net(images).shape == (2, 7)


def test_images_too_small_for_the_auxiliary_head_are_refused():
    with pytest.raises(ValueError, match=r"auxiliary head: the state under it must measure at least 8 pixels, got 2"):
        DartsNetwork(read_genotype("PDARTS"), 10, 4, 3, auxiliary=True, resolution=8)
    with pytest.raises(ValueError, match="at least 7 pixels, got 5"):
        DartsNetwork(read_genotype("PDARTS"), 10, 4, 3, 3, True, True, resolution=160)


@pytest.mark.parametrize(("large", "smallest"), [(False, 29), (True, 193)])
def test_the_smallest_images_that_the_auxiliary_head_admits_go_through_it(large, smallest):
    net = DartsNetwork(read_genotype("DARTS_V1"), 3, 2, 3, 1, large, True, resolution=smallest)
    assert TrainingPass(net)(torch.randn(2, 1, smallest, smallest))[1].shape == (2, 3)
    with pytest.raises(ValueError, match=r"auxiliary head: .* Retrain without --retrain\.auxiliary") as caught:
        DartsNetwork(read_genotype("DARTS_V1"), 3, 2, 3, 1, large, True, resolution=smallest - 1)
    assert "\n" not in str(caught.value)


def test_a_nasbench201_network_has_no_auxiliary_head():
    with pytest.raises(ValueError, match="auxiliary must be off for nasbench201 genotypes, got True"):
        build_network(random_genotype(SPACES["nasbench201"], 0), 10, 4, 1, 3, 32, False, True)


def test_a_node_may_have_more_edges_than_two_or_none_at_all():
    mix = torch.rand(2, 14, 8, generator=torch.Generator().manual_seed(0))
    mix[:, 2:5, 0] = 2  # nothing enters the second node
    genotype = every_edge(SPACES["darts"], {"normal": mix[0].tolist(), "reduction": mix[1].tolist()})
    wide = max(sum(gene.primitive != "none" for gene in genes) for genes in genotype.normal.nodes)
    assert wide > 2
    net = build_network(genotype, 10, 4, 3, 1, 8, False, False)
    logits, _ = TrainingPass(net)(torch.randn(4, 1, 8, 8), 0.2, 0)
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None for p in net.parameters())
    table = parameter_table(SPACES["darts"], NetworkSize(channels=4, cells=3, resolution=8, image_channels=1))
    assert derived_cost(genotype, table) == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_every_random_genotype_can_be_built_and_trained(space):
    for seed in range(3):
        net = build_network(random_genotype(space, seed), 10, 4, cells_of(space), 1, 8, False, False)
        logits, _ = TrainingPass(net)(torch.randn(4, 1, 8, 8), 0.2, seed)
        logits.sum().backward()
        assert logits.isfinite().all()
