"""Full graphs as pictures: a column a level, a box an operation, a line a connection that is there.

Operations that nothing enters or that nothing reads are left out of the network, and pale here.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from fastnas.spaces.genotype import CellGenotype
from fastnas.spaces.graph_space import DagNode, GraphSpace, find_living_operations

# Okabe and Ito's colours, dark enough for small text
COLOURS = {"conv": "#0067A3", "pool": "#B84500"}
INK, PALE = "#222222", "#B5B9BE"
MARGIN, TITLE = 0.3, 0.45  # inches, as all lengths below
STEP, ROW = 1.75, 0.75
WIDTH, HEIGHT = 1.1, 0.34
BEND = 0.12  # of a line, so that one which passes a level does not run through its boxes' middles


def draw_dag(cell: CellGenotype, space: GraphSpace, title: str) -> Figure:
    """Draw the blocks of a full graph, one below the other."""
    dag = space.dag
    blocks = [(dag.nodes_of(kind), span) for kind, span in zip(dag.blocks, dag.spans, strict=True)]
    rows = [max(_row(nodes, state) for state in range(1, len(nodes))) + 1 for nodes, _ in blocks]
    heights = [TITLE + ROW * count for count in rows]
    levels = max(node.level for nodes, _ in blocks for node in nodes)
    width, height = 2 * MARGIN + STEP * levels + WIDTH, 0.6 + sum(heights)
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_xlim(0, width)
    axis.set_ylim(0, height)
    axis.axis("off")
    axis.text(MARGIN, height - 0.3, title, color=INK, fontsize=11, fontweight="bold", va="center", parse_math=False)
    top = height - 0.6
    for block, ((nodes, span), count) in enumerate(zip(blocks, rows, strict=True)):
        genes = cell.nodes[span.start : span.stop]
        kept = [[source - span.start for primitive, source in node if primitive != "none"] for node in genes]
        axis.text(MARGIN, top - 0.2, space.block_title(block), color=INK, fontsize=9, va="center")
        _draw_block(axis, nodes, kept, top - TITLE, count)
        top -= TITLE + ROW * count
    return figure


def _draw_block(axis: Axes, nodes: tuple[DagNode, ...], kept: list[list[int]], top: float, rows: int) -> None:
    living = find_living_operations(nodes, kept)
    there = living | {0, len(nodes)}

    def place(state: int) -> tuple[float, float]:
        level = 0 if state == 0 else nodes[state - 1].level
        alone = state in (0, len(nodes))
        row = (rows - 1) / 2 if alone else _row(nodes, state)
        return MARGIN + STEP * level + WIDTH / 2, top - ROW * (row + 0.5)

    _draw_box(axis, place(0), "input", INK)
    for state, node in enumerate(nodes, 1):
        sources = [0] if node.level == 1 else kept[state - 1]
        colour = COLOURS["pool" if "pool" in node.operation else "conv"]
        for source in sources:
            lives = source in there and state in there
            _draw_line(axis, place(source), place(state), colour if lives else PALE, lives)
        of_box = INK if node.operation == "output" else colour if state in there else PALE
        _draw_box(axis, place(state), node.operation, of_box)


def _row(nodes: tuple[DagNode, ...], state: int) -> int:
    """The place of an operation among those of its level."""
    return sum(node.level == nodes[state - 1].level for node in nodes[: state - 1])


def _draw_line(axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, lives: bool) -> None:
    begin, stop = (start[0] + WIDTH / 2, start[1]), (end[0] - WIDTH / 2, end[1])
    far = end[0] - start[0] > 1.5 * STEP
    line = FancyArrowPatch(
        begin,
        stop,
        arrowstyle="-|>",
        mutation_scale=7,
        connectionstyle=f"arc3,rad={BEND if far else 0}",
        color=colour,
        linewidth=0.9,
        alpha=0.75,
        linestyle="solid" if lives else "dashed",
        shrinkA=0,
        shrinkB=0,
        zorder=1,
    )
    axis.add_patch(line)


def _draw_box(axis: Axes, middle: tuple[float, float], label: str, colour: str) -> None:
    left, bottom = middle[0] - WIDTH / 2, middle[1] - HEIGHT / 2
    box = FancyBboxPatch(
        (left, bottom),
        WIDTH,
        HEIGHT,
        boxstyle="round,pad=0,rounding_size=0.06",
        facecolor="#EEF1F4" if colour != PALE else "#FFFFFF",
        edgecolor=colour,
        linewidth=1.2,
        linestyle="solid" if colour != PALE else "dashed",
        zorder=2,
    )
    axis.add_patch(box)
    axis.text(*middle, label, color=colour, fontsize=8.5, ha="center", va="center", zorder=3)
