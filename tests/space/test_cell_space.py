import dataclasses

import pytest

from fastnas.space.cell_space import DARTS, NASBENCH201, SPACES, space_named
from fastnas.space.genotype import CellGenotype, Gene
from fastnas.space.sampling import random_genotype


def test_darts_has_fourteen_edges_in_node_major_order():
    assert len(DARTS.edges) == 14
    assert DARTS.edges[:5] == ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert [DARTS.edges[row] for row in DARTS.rows(4)] == [(source, 4) for source in range(4)]


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_the_rows_of_all_nodes_are_the_edges_in_their_order(space):
    targets = range(space.num_inputs, space.num_inputs + space.num_nodes)
    assert [row for target in targets for row in space.rows(target)] == list(range(len(space.edges)))
    for target in targets:
        assert [space.edges[row] for row in space.rows(target)] == [(source, target) for source in range(target)]


def test_candidates_stand_in_the_order_that_breaks_ties():
    assert DARTS.primitives[:4] == ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect")
    assert DARTS.primitives[4:] == ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
    assert NASBENCH201.primitives == ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def test_a_genotype_that_lacks_a_cell_is_refused():
    with pytest.raises(ValueError, match="cells must be normal, reduction, got normal"):
        DARTS.check(dataclasses.replace(random_genotype(DARTS, 0), reduction=None))
    with pytest.raises(ValueError, match="name must be one of darts, nasbench201, .*, got 'nope'"):
        space_named("nope")


def test_genes_in_another_order_are_the_same_architecture():
    genotype = random_genotype(DARTS, 0)
    turned = CellGenotype(tuple(node[::-1] for node in genotype.normal.nodes), genotype.normal.concat)
    other = dataclasses.replace(genotype, normal=turned)
    assert other != genotype
    assert other.canonical() == genotype.canonical()
    moved = ((Gene("sep_conv_3x3", 0), Gene("dil_conv_5x5", 1)), *genotype.normal.nodes[1:])
    swapped = ((Gene("dil_conv_5x5", 0), Gene("sep_conv_3x3", 1)), *genotype.normal.nodes[1:])
    one, two = (
        dataclasses.replace(genotype, normal=CellGenotype(nodes, DARTS.concat)).canonical()
        for nodes in (moved, swapped)
    )
    assert one != two


def test_nasbench201_has_six_edges_in_the_published_order():
    assert NASBENCH201.edges == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert len(NASBENCH201.primitives) ** len(NASBENCH201.edges) == 15_625


def test_none_can_be_derived_only_where_every_edge_is_kept():
    assert "none" not in DARTS.derivable
    assert "none" in NASBENCH201.derivable
