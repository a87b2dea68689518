from fastnas.space.cell_space import DARTS, NASBENCH201


def test_darts_has_fourteen_edges_in_node_major_order():
    assert len(DARTS.edges) == 14
    assert DARTS.edges[:5] == ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert [DARTS.edges[row] for row in DARTS.rows(4)] == [(source, 4) for source in range(4)]


def test_nasbench201_has_six_edges_in_the_published_order():
    assert NASBENCH201.edges == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert len(NASBENCH201.primitives) ** len(NASBENCH201.edges) == 15_625


def test_none_can_be_derived_only_where_every_edge_is_kept():
    assert "none" not in DARTS.derivable
    assert "none" in NASBENCH201.derivable
