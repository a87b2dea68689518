import numpy as np
import pytest

from fastnas.mechanisms.derivation import SkipCap, derive, every_edge, nonzero
from fastnas.spaces.cell_space import DARTS, NASBENCH201, S4

FLAT = np.full((14, 8), 1 / 8)
NONE = DARTS.primitives.index("none")


def derived(mix, edge_mix=None):
    cells = {"normal": mix, "reduction": FLAT}
    return derive(DARTS, cells, None if edge_mix is None else {"normal": edge_mix, "reduction": np.ones(14)}).normal


def test_ties_go_to_the_lower_edge_and_the_lower_candidate():
    for node in derived(FLAT).nodes:
        assert node == (("max_pool_3x3", 0), ("max_pool_3x3", 1))


def test_an_edge_that_prefers_none_loses_to_an_undecided_one():
    mix = FLAT.copy()
    mix[2] = [0.9, 0.1, 0, 0, 0, 0, 0, 0]  # edge 0 -> 3: scores 0.1, less than the 0.125 of the others
    assert [source for _, source in derived(mix).nodes[1]] == [1, 2]


def test_none_is_never_derived_and_its_mass_is_not_shared_out():
    mix = FLAT.copy()
    mix[:, NONE] = 0.9
    mix[:, 1:] = 0.1 / 7
    assert all(primitive != "none" for node in derived(mix).nodes for primitive, _ in node)


def test_genes_stand_in_order_of_decreasing_score():
    mix = FLAT.copy()
    mix[1] = [0, 0, 0, 0, 1, 0, 0, 0]
    assert derived(mix).nodes[0] == (("sep_conv_3x3", 1), ("max_pool_3x3", 0))


def test_edge_coefficients_rank_edges_but_do_not_choose_candidates():
    mix = FLAT.copy()
    mix[4] = [0, 0, 0, 0, 0, 0.3, 0.7, 0]
    edge_mix = np.ones(14)
    edge_mix[4] = 0.01  # edge 2 -> 3
    assert ("dil_conv_3x3", 2) in derived(mix).nodes[1]
    assert [source for _, source in derived(mix, edge_mix).nodes[1]] == [0, 1]
    edge_mix[4] = 0.5
    assert ("dil_conv_3x3", 2) in derived(mix, edge_mix).nodes[1]


def test_nasbench201_keeps_every_edge_and_may_derive_none():
    mix = np.full((6, 5), 0.2)
    mix[3] = [0, 0, 0, 1, 0]
    cell = derive(NASBENCH201, {"normal": mix}).normal
    assert cell.nodes == (
        (("none", 0),),
        (("none", 0), ("none", 1)),
        (("nor_conv_3x3", 0), ("none", 1), ("none", 2)),
    )


def test_coefficients_that_are_no_numbers_or_of_another_space_are_refused():
    with pytest.raises(ValueError, match="mix must be finite"):
        derived(np.full((14, 8), np.nan))
    with pytest.raises(ValueError, match="mix must be finite"):
        derived(np.where(np.arange(8) == 3, np.inf, FLAT))
    with pytest.raises(ValueError, match="edge_mix must be finite"):
        derived(FLAT, np.where(np.arange(14) == 3, np.nan, 1.0))
    with pytest.raises(ValueError, match=r"edge_mix must have shape \[14\], got \[1\]"):
        derived(FLAT, np.ones(1))
    with pytest.raises(ValueError, match=r"mix must have shape \[14, 8\], got \[6, 5\]"):
        derived(np.zeros((6, 5)))


def test_the_skip_cap_leaves_the_strongest_skips_and_the_reduction_cell_alone():
    skip = DARTS.primitives.index("skip_connect")
    mix = FLAT.copy()
    strengths = [0.9, 0.8, 0.7, 0.6, 0.5]
    rows = [0, 1, 2, 5, 9]  # two edges of the first node, one of every other
    mix[rows, skip] = strengths
    cells = {"normal": mix, "reduction": mix}
    assert derive(DARTS, cells).normal.count("skip_connect") == 5
    for limit in (0, 2, 4):
        genotype = SkipCap(limit)(DARTS, cells)
        assert genotype.normal.count("skip_connect") == limit
        assert genotype.reduction == derive(DARTS, cells).reduction
        kept = mix.copy()
        kept[rows[limit:], skip] = 0
        assert genotype.normal == derive(DARTS, {"normal": kept, "reduction": mix}).normal
    assert SkipCap(5)(DARTS, cells) == derive(DARTS, cells)
    assert mix[0, skip] == 0.9  # what was handed in is left alone


def test_the_skip_cap_is_met_by_every_architecture_of_a_space_without_skips():
    mix = np.random.default_rng(0).random((14, 2))
    cells = {"normal": mix, "reduction": mix}
    assert SkipCap(0)(S4, cells) == derive(S4, cells)


def test_snas_keeps_every_edge_that_is_not_best_left_out():
    mix = FLAT.copy()
    mix[:, 4] = 0.2
    mix[[1, 3, 5, 6, 7]] = 0
    mix[[1, 3, 5, 6, 7], NONE] = 1
    genotype = every_edge(DARTS, {"normal": mix, "reduction": FLAT})
    DARTS.check(genotype)
    kept = [[source for primitive, source in genes if primitive != "none"] for genes in genotype.normal.nodes]
    assert kept == [[0], [0, 2], [3], [0, 1, 2, 3, 4]]
    assert {primitive for genes in genotype.normal.nodes for primitive, _ in genes} == {"none", "sep_conv_3x3"}
    assert all(gene.primitive == "none" for genes in genotype.reduction.nodes for gene in genes)  # ties: the first one


def test_every_edge_is_the_rule_of_spaces_that_keep_all_edges():
    mix = np.random.default_rng(0).random((6, 5))
    assert every_edge(NASBENCH201, {"normal": mix}) == derive(NASBENCH201, {"normal": mix})


def test_an_edge_of_dso_nas_is_left_out_where_all_of_its_scalings_are_zero():
    mix = np.zeros((6, 5))
    mix[:, 0] = 0.9  # the scaling of none, which scales nothing
    mix[1, 3] = mix[4, 1] = 1e-9
    genes = [gene for node in nonzero(NASBENCH201, {"normal": mix}).normal.nodes for gene in node]
    assert [gene.primitive for gene in genes] == [
        "none", "nor_conv_3x3", "none", "none", "skip_connect", "none",
    ]  # fmt: skip
    with_edges = {"normal": FLAT + mix.max(), "reduction": FLAT}
    assert nonzero(DARTS, with_edges) == derive(DARTS, with_edges)  # where edges are counted, none is never kept
