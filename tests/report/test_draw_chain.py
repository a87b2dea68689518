import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fastnas.report.curves import draw_mix
from fastnas.report.draw import save_drawing
from fastnas.report.draw_chain import draw_chain
from fastnas.spaces.chain_space import PROXYLESS, proxyless
from fastnas.spaces.formats import describe_genotype, read_genotype
from fastnas.spaces.sampling import random_genotype
from tests.helpers import uniform_mix


@pytest.mark.parametrize("blocks", [1, 4, 7])
def test_every_block_has_a_box_with_its_kernel_and_expansion_inside_and_none_meets_another(blocks):
    space = proxyless(blocks)
    genotype = random_genotype(space, 1)
    figure = draw_chain(genotype.normal, space, "chain of blocks")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (axis,) = figure.axes
    boxes = [patch.get_window_extent(renderer) for patch in axis.patches]
    assert len(boxes) == space.num_nodes
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    primitives = [gene.primitive for genes in genotype.normal.nodes for gene in genes]
    labels = {text.get_text(): text for text in axis.texts}
    expected = {primitive.removeprefix("mbconv_").replace("_", "\n") for primitive in primitives}
    stages = {f"stage {stage}" for stage in range(1, 7)}
    assert set(labels) == expected | stages | {"chain of blocks"}
    texts = [text for text in axis.texts if text.get_text() in expected]
    for box, text in zip(boxes, texts, strict=True):
        inside = text.get_window_extent(renderer)
        assert box.x0 < inside.x0 < inside.x1 < box.x1
        assert box.y0 < inside.y0 < inside.y1 < box.y1
    whole = figure.bbox
    assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 for box in boxes)


def test_a_chain_goes_to_png_or_svg(tmp_path):
    genotype = read_genotype("PROXYLESS_GPU")
    save_drawing(genotype, tmp_path / "chain.png")
    save_drawing(genotype, tmp_path / "chain.svg")
    assert (tmp_path / "chain.png").read_bytes()[:4] == b"\x89PNG"
    assert "stage 6" in (tmp_path / "chain.svg").read_text()


def test_a_chain_as_text_is_a_line_a_block():
    lines = describe_genotype(read_genotype("PROXYLESS_GPU")).splitlines()
    assert lines[0] == "chain of blocks"
    assert lines[2] == "  1      1      mbconv_5x5_e3"
    assert lines[3] == "         2      none"
    assert lines[-1] == "  6      1      mbconv_7x7_e6"
    assert len(lines) == 2 + 21


def test_blocks_are_numbered_within_their_stages():
    places = PROXYLESS.places
    assert places[:5] == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1)]
    assert places[-1] == (6, 1)


def test_a_block_has_no_curve_for_a_candidate_that_it_does_not_have_and_the_legend_names_all():
    space = proxyless(2)
    mix = uniform_mix(space).candidates["normal"].tolist()
    figure = draw_mix(space, [{"epoch": epoch, "mix": {"normal": mix}} for epoch in range(2)], "normal")
    for row, axis in enumerate(figure.axes[:11]):
        drawn = [line.get_label() for line in axis.lines if not np.isnan(line.get_ydata()).any()]
        assert drawn == list(space.candidates("normal", row))
        assert axis.get_title() == f"stage {row // 2 + 1}, block {row % 2 + 1}"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(space.primitives)
