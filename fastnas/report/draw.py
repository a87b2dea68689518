"""Cells as pictures, laid out like a staircase.

Every state has a column. The edges into a node have rows of their own, below those of the node before it; an edge
leaves the line that hangs from its source, runs level and ends at its node. So no two labels and no two edges can
collide, however many leave one state.
"""

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from fastnas.report.text import state_name
from fastnas.space.cell_space import CellSpace, space_named
from fastnas.space.genotype import CellGenotype, Genotype
from fastnas.train.files import write_atomically
from fastnas_kernels.check import require

# Okabe and Ito's colours, which people with any colour vision tell apart
COLOURS = {"convolution": "#0072B2", "pooling": "#C04A00", "skip": "#00795A", "none": "#8A8A8A"}
INK, LINE = "#222222", "#9AA0A6"
COLUMN, ROW = 1.5, 0.4  # inches
HALF_BOX = 0.2  # half the width of a state's box, in columns


def kind_of(primitive: str) -> str:
    """The family of a primitive: convolution, pooling, skip or none."""
    if "pool" in primitive:
        return "pooling"
    return "convolution" if "conv" in primitive else "skip" if primitive == "skip_connect" else "none"


def cell_figure(cell: CellGenotype, space: CellSpace, title: str) -> Figure:
    """Draw one cell.

    Args:
        cell: The kept edges.
        space: Its graph.
        title: Written above.
    """
    return _figure({title: cell}, space)


def save_drawing(genotype: Genotype, path: Path) -> None:
    """Write the cells of ``genotype``, one below the other, to a .png or .svg file.

    Raises:
        ValueError: For any other suffix.
    """
    require(path.suffix in (".png", ".svg"), "drawing", "file must end in .png or .svg", repr(str(path)))
    cells = {f"{cell_type} cell": cell for cell_type, cell in genotype.cells.items()}
    figure = _figure(cells, space_named(genotype.space))
    write_atomically(path, lambda file: figure.savefig(file, format=path.suffix[1:], dpi=150))


def svg(figure: Figure) -> str:
    """A figure as an SVG element to put into a page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    drawing = text.getvalue()
    return drawing[drawing.index("<svg") :]


def _figure(cells: Mapping[str, CellGenotype], space: CellSpace) -> Figure:
    rows = [_num_rows(cell) + 1.6 for cell in cells.values()]
    columns = space.num_inputs + space.num_nodes + 1
    figure = Figure(figsize=(COLUMN * columns, ROW * sum(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, height_ratios=rows, squeeze=False)[:, 0]
    for axis, (title, cell) in zip(axes, cells.items(), strict=True):
        _draw_cell(axis, cell, space, title)
    return figure


def _num_rows(cell: CellGenotype) -> int:
    return 1 + sum(len(genes) for genes in cell.nodes) + len(cell.concat)


def _draw_cell(axis: Axes, cell: CellGenotype, space: CellSpace, title: str) -> None:
    blocks = [[(gene.source, gene.primitive) for gene in sorted(genes, key=lambda g: g.source)] for genes in cell.nodes]
    blocks.append([(state, "") for state in cell.concat])  # the edges into the output
    names = [state_name(space, state) for state in range(space.num_inputs + space.num_nodes)] + ["c_{k}"]
    names = [f"${name}$" if "_" in name else name for name in names]
    lowest: dict[int, int] = {}
    row = 1  # the inputs stand in row 0 alone, so that no edge runs behind one of them
    for state in range(space.num_inputs):
        _draw_box(axis, state, 0, 0, names[state])
    for position, block in enumerate(blocks):
        target = space.num_inputs + position
        for offset, (source, primitive) in enumerate(block):
            _draw_edge(axis, source, target, row + offset, primitive)
            lowest[source] = row + offset
        _draw_box(axis, target, row, row + len(block) - 1, names[target])
        row += len(block)
    tops = dict.fromkeys(range(space.num_inputs), 0) | _bottoms(space, blocks)
    for state, bottom in lowest.items():
        if bottom > tops[state]:
            axis.plot([state, state], [tops[state], bottom], color=LINE, linewidth=1.2, zorder=1)
    axis.set_xlim(-0.45, len(names) - 0.55)
    axis.set_ylim(row - 0.4, -0.75)
    axis.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axis.axis("off")


def _bottoms(space: CellSpace, blocks: list[list[tuple[int, str]]]) -> dict[int, int]:
    """The last row of every node's own block: where the line that hangs from it begins."""
    bottoms, row = {}, 1
    for position, block in enumerate(blocks):
        row += len(block)
        bottoms[space.num_inputs + position] = row - 1
    return bottoms


def _draw_edge(axis: Axes, source: int, target: int, row: int, primitive: str) -> None:
    colour = COLOURS[kind_of(primitive)] if primitive else LINE
    start, end = (source, row), (target - HALF_BOX - 0.02, row)
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", xy=end, xytext=start, arrowprops=arrow, zorder=2)
    axis.plot(*start, marker="o", markersize=4, color=colour, zorder=3)
    if primitive:
        axis.text(target - 0.5, row - 0.08, primitive, ha="center", va="bottom", fontsize=8, color=colour, zorder=5)


def _draw_box(axis: Axes, column: int, first: int, last: int, name: str) -> None:
    box = FancyBboxPatch(
        (column - HALF_BOX + 0.05, first - 0.28),
        2 * HALF_BOX - 0.1,
        last - first + 0.56,
        boxstyle="round,pad=0.05,rounding_size=0.08",
        facecolor="#EEF1F4",
        edgecolor=INK,
        linewidth=1,
        zorder=4,
    )
    axis.add_patch(box)
    axis.text(column, (first + last) / 2, name, ha="center", va="center", fontsize=10, color=INK, zorder=5)
