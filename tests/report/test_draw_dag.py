import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fastnas.data import load_data
from fastnas.engine import search
from fastnas.methods.library import dso_nas
from fastnas.report.curves import draw_mix
from fastnas.report.draw import draw_cell, save_drawing
from fastnas.report.draw_dag import PALE
from fastnas.spaces.formats import describe_genotype
from fastnas.spaces.graph_space import DSO, dso, find_living_operations
from fastnas.spaces.sampling import random_genotype
from fastnas.training.config import SearchConfig


@pytest.mark.parametrize("space", [DSO, dso(1)], ids=lambda space: space.name)
def test_every_operation_has_a_box_and_those_that_are_left_out_are_pale(space):
    genotype = random_genotype(space, 1)
    figure = draw_cell(genotype.normal, space, "full graph")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (axis,) = figure.axes
    names = [text for text in axis.texts if "_" in text.get_text()]
    assert len(names) == sum(len(space.dag.nodes_of(kind)) - 1 for kind in space.dag.blocks)
    boxes = [text.get_window_extent(renderer) for text in axis.texts]
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    alive = 0
    for kind, span in zip(space.dag.blocks, space.dag.spans, strict=True):
        genes = genotype.normal.nodes[span.start : span.stop]
        kept = [[g.source - span.start for g in node if g.primitive == "connect"] for node in genes]
        alive += len(find_living_operations(space.dag.nodes_of(kind), kept))
    assert sum(text.get_color() != PALE for text in names) == alive
    connections = sum(gene.primitive == "connect" for node in genotype.normal.nodes for gene in node)
    free = sum(node.level == 1 for kind in space.dag.blocks for node in space.dag.nodes_of(kind))
    arrows = [patch for patch in axis.patches if hasattr(patch, "get_connectionstyle")]
    assert len(arrows) == connections + free


def test_a_graph_goes_to_png_or_svg(tmp_path):
    save_drawing(random_genotype(DSO, 0), tmp_path / "graph.svg")
    assert "sep_conv_5x5" in (tmp_path / "graph.svg").read_text()


def test_a_graph_as_text_names_what_every_operation_reads_in_lines_that_fit_a_terminal():
    genotype = random_genotype(DSO, 1)
    lines = describe_genotype(genotype).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "every block"
    assert lines[2].split() == ["1.1", "sep_conv_3x3", "in"]
    of_output = next(line for line in lines if line.strip().startswith("out")).split()[1:]
    kept = [gene.source for gene in genotype.normal.nodes[16] if gene.primitive == "connect"]
    assert of_output == [f"{(s - 1) // 4 + 1}.{(s - 1) % 4 + 1}" for s in kept]


def test_the_scales_of_connections_have_a_panel_a_level():
    config = SearchConfig(channels=4, cells=1, epochs=2, batch_size=16, train_fraction=0.05, device="cpu")
    records = search(DSO, dso_nas(), load_data("digits"), config).history
    figure = draw_mix(DSO, records, "normal")
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["into level 2", "into level 3", "into level 4", "into the outputs"]
    assert [len(axis.lines) for axis in figure.axes] == [20, 36, 52, 16 + 4]
