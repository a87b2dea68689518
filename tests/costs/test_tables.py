from dataclasses import replace

import pytest
import torch

from fastnas.costs.counts import activation_bytes, multiply_adds, num_parameters
from fastnas.costs.tables import (
    NetworkSize,
    activation_table,
    derived_cost,
    list_distinct_candidates,
    multiply_add_table,
    parameter_table,
    weighted_sum,
)
from fastnas.spaces.cell_space import DARTS, GDAS_FRC, NASBENCH201, S1, S4, SHARPERDARTS
from fastnas.spaces.chain_space import PROXYLESS, proxyless
from fastnas.spaces.formats import read_genotype
from fastnas.spaces.sampling import random_genotype

HEIGHT_AND_WIDTH = (24, 40)
SPACES = [DARTS, NASBENCH201, S1, S4, SHARPERDARTS, GDAS_FRC, proxyless(2)]


@pytest.mark.parametrize("space", [DARTS, NASBENCH201, proxyless(1)], ids=lambda space: space.name)
def test_height_and_width_count_apart(space, size_of):
    size = replace(size_of(space), resolution=HEIGHT_AND_WIDTH)
    turned, square = replace(size, resolution=HEIGHT_AND_WIDTH[::-1]), replace(size, resolution=HEIGHT_AND_WIDTH[0])
    genotype = random_genotype(space, 1)
    costs = [derived_cost(genotype, multiply_add_table(space, one)) for one in (size, turned, square)]
    assert costs[0] == costs[1] == multiply_adds(size.build(genotype, space), (size.image_channels, *HEIGHT_AND_WIDTH))
    assert costs[0] > 1.5 * costs[2]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_the_entries_of_a_genotype_add_up_to_the_cost_of_its_network(space, size_of):
    size = size_of(space)
    parameters, operations = parameter_table(space, size), multiply_add_table(space, size)
    activations = activation_table(space, size)
    for seed in range(1, 4):
        genotype = random_genotype(space, seed)
        network = size.build(genotype, space).train()
        assert derived_cost(genotype, parameters) == num_parameters(network)
        assert derived_cost(genotype, operations) == multiply_adds(network, size.image_shape)
        measured = activation_bytes(network, torch.randn(2, *size.image_shape))
        total = derived_cost(genotype, activations)
        pools = sum(
            "pool" in gene.primitive for cell in genotype.cells.values() for node in cell.nodes for gene in node
        )
        assert total >= measured
        assert total == measured or pools > 1  # two pools that read one state both count it


def test_the_published_parameter_counts_come_out_of_a_table():
    size = NetworkSize(channels=36, cells=20)
    assert derived_cost(read_genotype("DARTS_V2"), parameter_table(DARTS, size)) == 3_349_342
    large = NetworkSize(channels=48, cells=14, resolution=224, num_classes=1000, large=True)
    assert derived_cost(read_genotype("PC_DARTS_image"), parameter_table(DARTS, large)) == 5_342_464


def test_a_cell_type_is_the_sum_of_its_cells_and_impossible_entries_are_zero(size_of):
    table = parameter_table(S1, size_of(S1))
    assert [cell_type for cell_type, _ in table.cells] == ["normal", "reduction", "reduction", "normal"]
    for cell_type in S1.cell_types:
        total = sum(cost for of, cost in table.cells if of == cell_type)
        assert torch.equal(table.candidates[cell_type], total)
        alive = torch.tensor(S1.alive(cell_type))
        assert (table.candidates[cell_type][~alive] == 0).all()
    skip, separable = S1.primitives.index("skip_connect"), S1.primitives.index("sep_conv_3x3")
    assert table.candidates["normal"][3, skip] == 0
    # one normal cell of 4 channels and one of 16: two depthwise 3x3, two pointwise, two normalisations
    assert table.candidates["normal"][3, separable] == sum(2 * (9 * c + c * c + 2 * c) for c in (4, 16))


def test_a_place_is_measured_at_its_own_channels_stride_and_side(size_of):
    candidates = list_distinct_candidates(DARTS, size_of(DARTS))
    assert len(candidates) == len(set(candidates))
    shapes = {candidate[1:4] for candidate in candidates}
    # normal at 9 pixels, two reductions (strided into 9 and 5, plain behind), normal at 3
    assert shapes == {
        (4, 1, (9, 9)),
        (8, 2, (9, 9)),
        (8, 1, (5, 5)),
        (16, 2, (5, 5)),
        (16, 1, (3, 3)),
    }
    assert not [candidate for candidate in candidates if candidate.primitive == "none"]


def test_activation_bytes_of_a_convolution_counted_by_hand(size_of):
    table = activation_table(NASBENCH201, size_of(NASBENCH201))
    _, first = table.cells[0]
    column = NASBENCH201.primitives.index("nor_conv_3x3")
    map_bytes = 2 * 4 * 9 * 9 * 4  # 2 images, 4 channels, 9x9 pixels, float32
    # the output of the ReLU, that of the convolution, mean and deviation of four channels
    assert first[0, column] == 2 * map_bytes + 2 * 4 * 4
    assert first[0, NASBENCH201.primitives.index("skip_connect")] == 0


def test_bytes_are_those_of_distinct_storages_without_parameters_and_buffers():
    module = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3))
    for device in ("cpu", "meta"):
        x = torch.zeros(2, 3, 4, 4, device=device)
        assert activation_bytes(module.to(device), x) == 2 * x.numel() * 4 + 2 * 3 * 4
        assert activation_bytes(module, x, without=[module[2]]) == x.numel() * 4


def test_a_weighted_sum_weighs_candidates_and_constant_alike(size_of):
    size, genotype = size_of(DARTS), random_genotype(DARTS, 5)
    tables = parameter_table(DARTS, size), multiply_add_table(DARTS, size)
    both = weighted_sum(tables, [2, 0.5], "price")
    expected = 2 * derived_cost(genotype, tables[0]) + derived_cost(genotype, tables[1]) / 2
    assert derived_cost(genotype, both) == expected
    with pytest.raises(ValueError, match="tables must be of one space and depth, got 2 different ones"):
        weighted_sum([tables[0], parameter_table(S4, size)], [1, 1], "price")
    with pytest.raises(ValueError, match="weights must be 2, one for each table, got 1"):
        weighted_sum(tables, [1], "price")


def test_sizes_and_genotypes_that_do_not_fit_are_refused(size_of):
    with pytest.raises(ValueError, match="NetworkSize: channels must be positive, got 0"):
        NetworkSize(channels=0)
    with pytest.raises(ValueError, match="space must be 'darts', got 'nasbench201'"):
        derived_cost(random_genotype(NASBENCH201, 0), parameter_table(DARTS, size_of(DARTS)))


def test_a_table_of_a_chain_counts_every_block_at_its_own_place():
    size = NetworkSize(channels=16, cells=4, resolution=224, num_classes=1000, large=True)
    parameters, operations = parameter_table(PROXYLESS, size), multiply_add_table(PROXYLESS, size)
    assert parameters.candidates["normal"].shape == (21, 7)
    assert (parameters.candidates["normal"][:, 6] == 0).all()  # a block that is left out
    # the head of stage 3: 40 channels, three times as many in the middle, 80 out, and a 3x3 kernel with stride 2
    middle = 3 * 40
    assert parameters.candidates["normal"][8, 0] == 40 * middle + 9 * middle + middle * 80 + 2 * (2 * middle + 80)
    expected = 28 * 28 * 40 * middle + 14 * 14 * (9 * middle + middle * 80)  # it reads 28x28 pixels
    assert operations.candidates["normal"][8, 0] == expected
    with pytest.raises(ValueError, match=r"space 'proxyless': cells must be 4, the blocks in a stage .*, got 8"):
        parameter_table(PROXYLESS, NetworkSize(cells=8))
