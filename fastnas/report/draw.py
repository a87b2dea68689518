"""Cells as pictures, laid out like a staircase.

Every state has a column. The edges into a node have rows of their own, below those of the node before it; an edge
leaves the line that hangs from its source, runs level and ends at its node. So no two labels and no two edges can
collide, however many leave one state.
"""

import io
import re
from collections.abc import Mapping
from functools import singledispatch
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from fastnas.files import write_atomically
from fastnas.report.draw_chain import draw_chain
from fastnas.report.draw_dag import draw_dag
from fastnas.spaces.cell_space import CellSpace
from fastnas.spaces.chain_space import ChainSpace
from fastnas.spaces.genotype import CellGenotype, Genotype
from fastnas.spaces.graph_space import GraphSpace
from fastnas.spaces.registry import space_by_name
from fastnas.spaces.space import Space
from fastnas_kernels.check import invalid

NO_METADATA = {"Date": None, "Creator": None, "Type": None, "Format": None}
POSITIONS = re.compile(r' (?:d|x|y|points|transform|viewBox)="[^"]*"')
LONG_DECIMALS = re.compile(r"(\.\d\d)\d+")
UNUSED_ID = re.compile(r' id="[\w.]+_\d+"')  # what is referred to has a name without an underscore
LONE_FONT = re.compile(r"'DejaVu Sans'(?=[\";])")


def svg(figure: Figure) -> str:
    """A figure as one SVG element.

    Coordinates are cut to a hundredth of a point, and ids that nothing refers to are left out, so that several
    figures can stand in one page.
    """
    text = io.StringIO()
    # Text stays text: it can be read aloud, searched for and copied, and it takes a tenth of the bytes
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastnas"}):
        figure.savefig(text, format="svg", metadata=NO_METADATA)
    drawing = text.getvalue()
    drawing = POSITIONS.sub(lambda match: LONG_DECIMALS.sub(r"\1", match[0]), drawing[drawing.index("<svg") :])
    return LONE_FONT.sub("'DejaVu Sans', sans-serif", UNUSED_ID.sub("", drawing))


# Okabe and Ito's colours, dark enough for small text; people with any colour vision tell them apart
COLOURS = {"convolution": "#0067A3", "pooling": "#B84500", "skip": "#00715A", "none": "#6F7378"}
INK, LINE = "#222222", "#9AA0A6"
ROW = 0.33  # inches, as all lengths below
INPUT_GAP, NODE_GAP, OUTPUT_GAP = 0.8, 1.5, 0.8  # only the edges into nodes need room for a label
HALF_BOX = 0.24
MARGIN = 0.3


def classify(primitive: str) -> str:
    """The family of a primitive: convolution, pooling, skip or none."""
    if "pool" in primitive:
        return "pooling"
    return "convolution" if "conv" in primitive else "skip" if primitive == "skip_connect" else "none"


def draw_cell(cell: CellGenotype, space: Space, title: str) -> Figure:
    """Draw one cell, or the blocks of a chain or of a full graph."""
    return _figure(space, {title: cell})


def draw_genotype(genotype: Genotype, own: Space | None = None) -> Figure:
    """Draw the cells of ``genotype``, one below the other; ``own`` is its space, if the library does not know it."""
    space = space_by_name(genotype.space, own)
    return _figure(space, {space.title(cell_type): cell for cell_type, cell in genotype.cells.items()})


def save_drawing(genotype: Genotype, path: Path, own: Space | None = None) -> None:
    """Write the cells of ``genotype``, one below the other, to a .png or .svg file."""
    if path.suffix not in (".png", ".svg"):
        raise invalid("drawing", "file must end in .png or .svg", repr(str(path)), "Give it one of these endings.")
    figure = draw_genotype(genotype, own)
    if path.suffix == ".svg":
        text = f'<?xml version="1.0" encoding="utf-8"?>\n{svg(figure)}'
        write_atomically(path, lambda file: file.write(text.encode()))
    else:
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=160))


@singledispatch
def _figure(space: Space, cells: Mapping[str, CellGenotype]) -> Figure:
    """The graphs of a genotype by their titles, as one figure."""
    raise TypeError(f"no drawing of a {type(space).__name__}")


@_figure.register
def _(space: ChainSpace, cells: Mapping[str, CellGenotype]) -> Figure:
    ((title, chain),) = cells.items()
    return draw_chain(chain, space, title)


@_figure.register
def _(space: GraphSpace, cells: Mapping[str, CellGenotype]) -> Figure:
    ((title, graph),) = cells.items()
    return draw_dag(graph, space, title)


@_figure.register
def _(space: CellSpace, cells: Mapping[str, CellGenotype]) -> Figure:
    heights = [2.8 + sum(map(len, cell.nodes)) + len(cell.concat) for cell in cells.values()]
    width = _columns(space)[-1] + HALF_BOX + MARGIN
    figure = Figure(figsize=(width, ROW * sum(heights)))
    top = 1.0
    for (title, cell), height in zip(cells.items(), heights, strict=True):
        share = height / sum(heights)
        top -= share
        axis = figure.add_axes((0, top, 1, share))
        axis.set_xlim(0, width)
        axis.set_ylim(height - 1.4, -1.4)
        axis.axis("off")
        _draw_cell(axis, cell, space, title)
    return figure


def _columns(space: Space) -> list[float]:
    """Where every state and the output stand."""
    gaps = [0.0] + [INPUT_GAP] * (space.num_inputs - 1) + [NODE_GAP] * space.num_nodes + [OUTPUT_GAP]
    return [MARGIN + HALF_BOX + sum(gaps[: i + 1]) for i in range(len(gaps))]


def _draw_cell(axis: Axes, cell: CellGenotype, space: Space, title: str) -> None:
    blocks = [[(gene.source, gene.primitive) for gene in sorted(genes, key=lambda g: g.source)] for genes in cell.nodes]
    blocks.append([(state, "") for state in cell.concat])  # the edges into the output
    columns = _columns(space)
    names = [space.state_name(state) for state in range(space.num_inputs + space.num_nodes)] + ["c_{k}"]
    names = [f"${name}$" if "_" in name else name for name in names]
    axis.text(MARGIN, -0.95, title, color=INK, fontsize=11, fontweight="bold", va="center", parse_math=False)
    bottoms = dict.fromkeys(range(space.num_inputs), 0)  # the last row of every state's own box
    lowest: dict[int, int] = {}  # the last row in which an edge leaves it
    row = 1  # the inputs stand in row 0 alone, so that no edge runs behind one of them
    for state in range(space.num_inputs):
        _draw_box(axis, columns[state], 0, 0, names[state])
    for target, block in enumerate(blocks, start=space.num_inputs):
        for offset, (source, primitive) in enumerate(block):
            _draw_edge(axis, columns[source], columns[target], row + offset, primitive)
            lowest[source] = row + offset
        _draw_box(axis, columns[target], row, row + len(block) - 1, names[target])
        row += len(block)
        bottoms[target] = row - 1
    for state, last in lowest.items():
        axis.plot([columns[state]] * 2, [bottoms[state], last], color=LINE, linewidth=1.2, zorder=1)


def _draw_edge(axis: Axes, source: float, target: float, row: int, primitive: str) -> None:
    colour = COLOURS[classify(primitive)] if primitive else LINE
    arrow = {
        "arrowstyle": "-|>",
        "color": colour,
        "linewidth": 1.5,
        "linestyle": "dashed" if primitive == "none" else "solid",
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axis.annotate("", xy=(target - HALF_BOX, row), xytext=(source, row), arrowprops=arrow, zorder=2)
    axis.plot(source, row, marker="o", markersize=4, color=colour, zorder=3)
    if primitive:
        middle = target - NODE_GAP / 2
        axis.text(middle, row - 0.11, primitive, ha="center", va="bottom", fontsize=9, color=colour, zorder=5)


def _draw_box(axis: Axes, column: float, first: int, last: int, name: str) -> None:
    box = FancyBboxPatch(
        (column - HALF_BOX, first - 0.34),
        2 * HALF_BOX,
        last - first + 0.68,
        boxstyle="round,pad=0,rounding_size=0.06",
        mutation_aspect=1 / ROW,  # corners as round in rows as they are in inches
        facecolor="#EEF1F4",
        edgecolor=INK,
        linewidth=1,
        zorder=4,
    )
    axis.add_patch(box)
    axis.text(column, (first + last) / 2, name, ha="center", va="center", fontsize=10, color=INK, zorder=5)
