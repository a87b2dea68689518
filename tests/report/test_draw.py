import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from fastnas.mechanisms.derivation import every_edge
from fastnas.report.draw import draw_cell, save_drawing, svg
from fastnas.spaces.cell_space import DARTS, NASBENCH201
from fastnas.spaces.formats import read_genotype
from fastnas.spaces.known import KNOWN
from fastnas.spaces.sampling import random_genotype

MIXES = np.random.default_rng(0).random((2, 14, 8))
GENOTYPES = {
    **{name: (read_genotype(name), DARTS) for name in KNOWN if not name.startswith("PROXYLESS")},
    "every edge": (every_edge(DARTS, dict(zip(DARTS.cell_types, MIXES, strict=True))), DARTS),
    **{f"random {seed}": (random_genotype(NASBENCH201, seed), NASBENCH201) for seed in range(2)},
}


@pytest.mark.parametrize(("genotype", "space"), GENOTYPES.values(), ids=GENOTYPES)
def test_every_edge_is_labelled_and_no_label_meets_another_or_a_box(genotype, space):
    for cell in genotype.cells.values():
        figure = draw_cell(cell, space, "cell")
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        (axis,) = figure.axes
        texts = [text for text in axis.texts if text.get_text()]
        labels = [text.get_text() for text in texts]
        assert sorted(label for label in labels if label in space.primitives) == sorted(
            gene.primitive for node in cell.nodes for gene in node
        )
        names = [text.get_window_extent(renderer) for text in texts if text.get_text() in space.primitives]
        boxes = [patch.get_window_extent(renderer) for patch in axis.patches]
        assert len(boxes) == space.num_inputs + space.num_nodes + 1
        assert not [pair for pair in itertools.combinations(names, 2) if pair[0].overlaps(pair[1])]
        assert not [(a, b) for a in names for b in boxes if a.overlaps(b)]


def test_a_drawing_goes_to_png_or_svg_and_nowhere_else(tmp_path):
    genotype, _ = GENOTYPES["PDARTS"]
    save_drawing(genotype, tmp_path / "cell.png")
    save_drawing(genotype, tmp_path / "cell.svg")
    assert (tmp_path / "cell.png").read_bytes()[:4] == b"\x89PNG"
    assert "reduction cell" in (tmp_path / "cell.svg").read_text()
    with pytest.raises(ValueError, match=r"drawing: file must end in \.png or \.svg, got .*cell\.gif"):
        save_drawing(genotype, tmp_path / "cell.gif")


def test_no_arrow_runs_through_a_label_or_behind_a_box_that_it_does_not_touch():
    genotype, space = GENOTYPES["PC_DARTS_cifar"]
    figure = draw_cell(genotype.normal, space, "cell")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (axis,) = figure.axes
    labels = [text.get_window_extent(renderer) for text in axis.texts if text.get_text() in space.primitives]
    patches = [text.arrow_patch for text in axis.texts if isinstance(text, Annotation)]
    arrows = [patch.get_window_extent(renderer) for patch in patches if patch]
    hanging = [line.get_window_extent(renderer) for line in axis.lines if np.size(line.get_xdata()) == 2]
    boxes = [patch.get_window_extent(renderer) for patch in axis.patches]
    assert len(arrows) == 8 + 4
    assert len(hanging) == 2 + 4
    assert not [(a, b) for a in labels for b in [*arrows, *hanging] if a.overlaps(b)]
    shrunk = [Bbox.from_extents(b.x0 + 3, b.y0 + 3, b.x1 - 3, b.y1 - 3) for b in boxes]
    assert not [(a, b) for a in arrows for b in shrunk if a.y0 < b.y1 and b.y0 < a.y1 and a.x0 < b.x0 and b.x1 < a.x1]


def test_a_title_is_text_whatever_it_holds():
    genotype, space = GENOTYPES["PDARTS"]
    drawing = svg(draw_cell(genotype.normal, space, r"<b>$\frac$"))
    assert r"&lt;b&gt;$\frac$" in drawing
