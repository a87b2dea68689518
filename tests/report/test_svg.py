import re
from xml.etree import ElementTree

import matplotlib
import pytest

from fastnas.report.curves import count_warm_up, draw_mix
from fastnas.report.draw import draw_cell, svg
from fastnas.spaces.cell_space import DARTS
from fastnas.spaces.formats import read_genotype


@pytest.fixture
def drawing():
    return svg(draw_cell(read_genotype("PDARTS").normal, DARTS, "normal"))


def test_a_figure_is_one_well_formed_element_whose_text_is_text(drawing):
    root = ElementTree.fromstring(drawing)
    texts = ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("sep_conv_3x3") == 4
    assert texts.count("skip_connect") == 2


def test_every_reference_has_its_target_and_every_target_a_reference(drawing):
    targets = re.findall(r' id="([^"]+)"', drawing)
    assert set(targets) == set(re.findall(r"#([a-z]\w{10,})", drawing))
    assert len(set(targets)) == len(targets)


def test_coordinates_have_two_decimals_and_the_settings_of_matplotlib_stay(drawing):
    before = dict(matplotlib.rcParams)
    assert not re.search(r' (?:d|x|y|transform)="[^"]*\.\d{3}', drawing)
    assert svg(draw_cell(read_genotype("PDARTS").normal, DARTS, "normal")) == drawing
    assert dict(matplotlib.rcParams) == before


def test_mixes_have_a_panel_an_edge_and_one_legend_of_all_candidates(records):
    drawing = svg(draw_mix(DARTS, [records.search_record(epoch) for epoch in range(3)], "normal"))
    for primitive in DARTS.primitives:
        assert drawing.count(f">{primitive}</text>") == 1
    figure = draw_mix(DARTS, [records.search_record(0)], "reduction")
    panels = [axis for axis in figure.axes if axis.lines]
    assert len(panels) == 14
    assert [axis.get_title() for axis in panels[:5]] == [
        "$c_{k-2}$ → 0",
        "$c_{k-1}$ → 0",
        "$c_{k-2}$ → 1",
        "$c_{k-1}$ → 1",
        "0 → 1",
    ]
    assert {len(axis.lines) for axis in panels} == {8}


def test_the_warm_up_lasts_until_alpha_moves(records):
    assert count_warm_up([records.search_record(0)]) == 1
    assert count_warm_up([records.search_record(0), records.search_record(1)]) == 1
    assert count_warm_up([records.search_record(1)]) == 0
