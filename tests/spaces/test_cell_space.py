import dataclasses

import pytest

from fastnas.spaces.cell_space import DARTS, NASBENCH201, S1, S2, S3, S4
from fastnas.spaces.chain_space import ChainSpace
from fastnas.spaces.genotype import CellGenotype, Gene
from fastnas.spaces.graph_space import GraphSpace
from fastnas.spaces.registry import SPACES, space_by_name
from fastnas.spaces.sampling import random_genotype


def test_darts_has_fourteen_edges_in_node_major_order():
    assert len(DARTS.edges) == 14
    assert DARTS.edges[:5] == ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert [DARTS.edges[row] for row in DARTS.rows(4)] == [(source, 4) for source in range(4)]


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_the_rows_of_all_nodes_are_the_edges_in_their_order(space):
    assert [row for target in space.targets for row in space.rows(target)] == list(range(len(space.edges)))
    assert [space.row(edge) for edge in space.edges] == list(range(len(space.edges)))
    if isinstance(space, GraphSpace):
        return  # tests/spaces/test_graph_space.py says what its nodes read
    for target in space.targets:
        read = [target - 1] if isinstance(space, ChainSpace) else range(target)
        assert [space.edges[row] for row in space.rows(target)] == [(source, target) for source in read]


def test_candidates_stand_in_the_order_that_breaks_ties():
    assert DARTS.primitives[:4] == ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect")
    assert DARTS.primitives[4:] == ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
    assert NASBENCH201.primitives == ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def test_a_genotype_that_lacks_a_cell_is_refused():
    with pytest.raises(ValueError, match="cells must be normal, reduction, got normal"):
        DARTS.check(dataclasses.replace(random_genotype(DARTS, 0), reduction=None))
    with pytest.raises(
        ValueError, match=r"name must be a registered space, .* got 'nope'. Known are darts, nasbench201, "
    ):
        space_by_name("nope")


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


def test_s1_has_two_primitives_on_every_edge_as_published():
    short = {
        "s": "skip_connect",
        "m": "max_pool_3x3",
        "a": "avg_pool_3x3",
        "3": "sep_conv_3x3",
        "d": "dil_conv_3x3",
        "D": "dil_conv_5x5",
    }
    published = {  # spaces.py of the code of Zela et al., 2020
        "normal": "sd sD sD s3 sd ms s3 s3 sd s3 ms sd dD dD",
        "reduction": "ma md ma ma sD ma m3 sd sD ma ma sD sD sD",
    }
    for cell_type, edges in published.items():
        expected = [tuple(short[letter] for letter in edge) for edge in edges.split()]
        assert [S1.candidates(cell_type, row) for row in range(14)] == expected


def test_the_mask_of_alpha_agrees_with_the_lists_of_the_edges():
    assert S2.primitives == ("skip_connect", "sep_conv_3x3")
    assert S3.primitives == ("none", "skip_connect", "sep_conv_3x3")
    assert S4.primitives == ("noise", "sep_conv_3x3")
    assert DARTS.rectangular
    assert all(all(row) for row in DARTS.alive("normal"))
    for cell_type in S1.cell_types:
        mask = S1.alive(cell_type)
        assert [len(mask), *{len(row) for row in mask}] == [14, 6]
        listed = [tuple(p for p, alive in zip(S1.primitives, row, strict=True) if alive) for row in mask]
        assert listed == [S1.candidates(cell_type, row) for row in range(14)]
    assert S3.derivable_on("normal", 3) == ("skip_connect", "sep_conv_3x3")


def test_a_primitive_that_its_edge_does_not_have_is_refused():
    genotype = random_genotype(S1, 0)
    nodes = ((Gene("sep_conv_3x3", 0), Gene("skip_connect", 1)), *genotype.normal.nodes[1:])
    wrong = dataclasses.replace(genotype, normal=CellGenotype(nodes, S1.concat))
    message = "normal node 2 must use one of the primitives skip_connect, dil_conv_3x3 on its edge from 0, got 'sep_c"
    with pytest.raises(ValueError, match=message):
        S1.check(wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_inputs": 0}, "num_inputs must be positive, got 0"),
        ({"num_nodes": 0}, "num_nodes must be positive, got 0"),
        ({"primitives": ()}, r"primitives must be names, each once, got \(\)"),
        ({"primitives": ("skip_connect", "skip_connect")}, "primitives must be names, each once"),
        ({"cell_types": ("reduction",)}, "cell_types must be"),
        ({"concat": (1, 2)}, r"concat must name nodes, in \[2, 6\)"),
        ({"concat": ()}, "concat must name nodes"),
        ({"kept_edges": 3}, r"kept_edges must be None or in \[1, 2\], the edges of the first node, got 3"),
        ({"primitives": ("none",)}, "normal edge 0->2 must have a primitive that can be derived"),
        ({"edge_primitives": ((("none",),) * 14,)}, r"edge_primitives must have lengths \[14, 14\], got \[14\]"),
        (
            {"edge_primitives": ((("conv",),) * 14,) * 2},
            r"edge_primitives must be among the primitives, got \['conv'\]",
        ),
        ({"edge_primitives": ((("none",),) * 14,) * 2}, "must have a primitive that can be derived"),
    ],
)
def test_a_space_without_meaning_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"space 'darts': .*{message}"):
        dataclasses.replace(DARTS, **changes)
