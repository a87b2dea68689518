import pytest
import torch

from fastnas.supernet.layout import LargeStem, ResidualReduction, SmallStem, lay_out_darts


def test_reductions_stand_at_a_third_and_two_thirds_and_double_the_channels():
    places = lay_out_darts(8, 16, 48, 4, reduced_stem=False)
    assert [place.cell_type == "reduction" for place in places] == [i in (2, 5) for i in range(8)]
    assert [place.channels for place in places] == [16, 16, 32, 32, 32, 64, 64, 64]
    assert [place.inputs for place in places[:4]] == [(48, 48), (48, 64), (64, 64), (64, 128)]
    assert [place.after_reduction for place in places] == [i in (3, 6) for i in range(8)]


def test_the_first_cell_after_a_large_stem_halves_the_older_state():
    assert lay_out_darts(14, 48, 48, 4, reduced_stem=True)[0].after_reduction


@pytest.mark.parametrize(("cells", "reductions"), [(5, (1, 3)), (11, (3, 7)), (17, (5, 11))])
def test_the_stages_of_p_darts_reduce_where_their_paper_does(cells, reductions):
    places = lay_out_darts(cells, 16, 48, 4, reduced_stem=False)
    assert tuple(i for i, place in enumerate(places) if place.cell_type == "reduction") == reductions


@pytest.mark.parametrize("cells", range(3, 21))
def test_two_cells_reduce_whatever_the_depth(cells):
    assert [p.cell_type for p in lay_out_darts(cells, 4, 12, 4, reduced_stem=False)].count("reduction") == 2


def test_stems_bring_images_to_their_resolution():
    small = SmallStem(1, 12, searching=True)(torch.randn(2, 1, 9, 9))
    assert [tuple(state.shape) for state in small] == [(2, 12, 9, 9)] * 2
    large = LargeStem(3, 12, searching=True)(torch.randn(2, 3, 64, 64))
    assert [tuple(state.shape) for state in large] == [(2, 12, 16, 16), (2, 12, 8, 8)]


@pytest.mark.parametrize("size", [7, 8])
def test_a_residual_reduction_rounds_odd_maps_up(size):
    assert ResidualReduction(4, searching=True)(torch.randn(2, 4, size, size)).shape == (2, 8, 4, 4)


def test_layouts_without_meaning_are_refused():
    with pytest.raises(ValueError, match=r"layout: cells must be at least 3, got 2\. Two of them reduce"):
        lay_out_darts(2, 16, 48, 4, reduced_stem=False)
    with pytest.raises(ValueError, match="layout: channels must be positive, got 0"):
        lay_out_darts(8, 0, 48, 4, reduced_stem=False)
