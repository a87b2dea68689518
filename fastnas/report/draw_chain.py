"""Chains of blocks as pictures: a row a stage, a box a block.

A box says kernel and expansion; its colour tells the kernels apart, its height the expansions.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from fastnas.spaces.chain_space import ChainSpace
from fastnas.spaces.genotype import CellGenotype

# Okabe and Ito's colours, dark enough for small text
COLOURS = {"3x3": "#0067A3", "5x5": "#B84500", "7x7": "#00715A"}
INK, QUIET, LINE = "#222222", "#6F7378", "#9AA0A6"
MARGIN, LABEL = 0.3, 0.85  # inches, as all lengths below
STEP, WIDTH, ROW = 0.92, 0.62, 0.72
TALL, LOW = 0.52, 0.36


def draw_chain(chain: CellGenotype, space: ChainSpace, title: str) -> Figure:
    """Draw the blocks of a chain."""
    stages = space.stages
    width = 2 * MARGIN + LABEL + STEP * (max(stages) - 1) + WIDTH
    height = 0.7 + ROW * len(stages)
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_xlim(0, width)
    axis.set_ylim(0, height)
    axis.axis("off")
    axis.text(MARGIN, height - 0.3, title, color=INK, fontsize=11, fontweight="bold", va="center", parse_math=False)
    primitives = iter([gene.primitive for genes in chain.nodes for gene in genes])
    for stage, blocks in enumerate(stages):
        y = height - 0.7 - ROW * (stage + 0.5)
        axis.text(MARGIN, y, f"stage {stage + 1}", color=QUIET, fontsize=9, va="center")
        first = MARGIN + LABEL
        axis.plot([first - 0.2, first + STEP * (blocks - 1) + WIDTH + 0.2], [y, y], color=LINE, linewidth=1.2, zorder=1)
        for block in range(blocks):
            _draw_block(axis, first + STEP * block, y, next(primitives))
    return figure


def _draw_block(axis: Axes, left: float, middle: float, primitive: str) -> None:
    label = primitive.removeprefix("mbconv_").replace("_", "\n")
    left_out = primitive == "none"
    colour = QUIET if left_out else COLOURS.get(label.partition("\n")[0], INK)
    height = TALL if label.endswith("e6") else LOW
    box = FancyBboxPatch(
        (left, middle - height / 2),
        WIDTH,
        height,
        boxstyle="round,pad=0,rounding_size=0.06",
        facecolor="#FFFFFF" if left_out else "#EEF1F4",
        edgecolor=colour,
        linewidth=1.3,
        linestyle="dashed" if left_out else "solid",
        zorder=2,
    )
    axis.add_patch(box)
    axis.text(
        left + WIDTH / 2, middle, label, color=colour, fontsize=9, ha="center", va="center", linespacing=1.0, zorder=3
    )
