"""What changed over the epochs, as figures."""

import math
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastnas.run_files import HALVING, SEARCHED
from fastnas.spaces.genotype import CellGenotype
from fastnas.spaces.graph_space import GraphSpace
from fastnas.spaces.space import Edge, Space
from fastnas.tasks import SCORES, Score, read_score

# Okabe and Ito's colours; the pattern of the line tells the primitives apart where colour does not
COLOURS = ("#8A8F94", "#D55E00", "#E69F00", "#009E73", "#0072B2", "#56B4E9", "#CC79A7", "#000000")
PATTERNS = ("-", "-", "--", "-", "-", "--", "-", "--")
RANDOM = "#A4A9AE"
TINT = "#EEF4FA"  # behind what the genotype keeps
WIDTH = 8.4  # inches; in a page 806 pixels, so that 9 points are 12 pixels

Records = Sequence[Mapping[str, Any]]


@singledispatch
def draw_mix(space: Space, records: Records, cell_type: str, kept: Mapping[int, str] | None = None) -> Figure:
    """The coefficients of every edge over the epochs: a panel an edge, a line a candidate.

    Args:
        space: Gives the edges and the names.
        records: Lines of ``metrics.jsonl`` of a search.
        cell_type: Which cell.
        kept: The rows that the genotype keeps and their primitives, see :func:`find_kept_rows`: tinted, with a bold
            line.
    """
    kept = kept or {}
    columns = 4 if len(space.edges) > 6 else 3
    rows = -(-len(space.edges) // columns)
    figure = Figure(figsize=(WIDTH, 1.45 * rows + 0.8), layout="constrained")
    axes: list[Axes] = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for row, axis in zip(range(len(space.edges)), axes, strict=False):
        for k, primitive in enumerate(space.primitives):
            has = primitive in space.candidates(cell_type, row)  # a gap, not a line at zero, and the legend whole
            values = [record["mix"][cell_type][row][k] if has else math.nan for record in records]
            axis.plot(
                _epochs(records),
                values,
                _point_or(PATTERNS[k % 8], records),
                color=COLOURS[k % 8],
                linewidth=2.6 if kept.get(row) == primitive else 1.3,
                label=primitive,
            )
        axis.set_title(space.edge_title(row), fontsize=9, fontweight="bold" if row in kept else "normal")
        if row in kept:
            axis.set_facecolor(TINT)
        _calm(axis)
    for column, axis in enumerate(axes[-columns:]):  # the lowest panel of every column bears the epochs
        if (rows - 1) * columns + column >= len(space.edges):
            axis.axis("off")
            axes[(rows - 2) * columns + column].tick_params(labelbottom=True)
    _keep_noise_small(axes[0])
    _legend(figure, axes[:1], columns=4 if len(space.primitives) > 6 else 6)
    return figure


@draw_mix.register
def _(space: GraphSpace, records: Records, cell_type: str, kept: Mapping[int, str] | None = None) -> Figure:
    """The scales of the connections of a full graph over the epochs: a panel a level, a line a connection.

    It has too many edges for a panel each.
    """
    nodes = [node for kind in space.dag.blocks for node in space.dag.nodes_of(kind)]
    rows_of: dict[str, list[int]] = {}
    for target, node in zip(space.targets, nodes, strict=True):
        into = "into the outputs" if node.operation == "output" else f"into level {node.level}"
        rows_of.setdefault(into, []).extend(space.rows(target))
    panels = {title: rows for title, rows in rows_of.items() if rows}
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, len(panels), sharey=True, squeeze=False).flat)
    column = space.primitives.index("connect")
    for (title, rows), axis in zip(panels.items(), axes, strict=True):
        for row in rows:
            values = [record["mix"]["normal"][row][column] for record in records]
            axis.plot(_epochs(records), values, _point_or("-", records), color=COLOURS[4], linewidth=0.7, alpha=0.5)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("epoch", fontsize=9)
        _calm(axis)
    _from_zero(axes[0])
    return figure


def draw_edge_mix(records: Records, space: Space, cell_type: str, kept: Mapping[int, str] | None = None) -> Figure:
    """The edges into each node over the epochs, a panel a node and a line an edge: above the coefficients of the edges,
    below their product with the largest coefficient of a candidate other than ``none``, which decides.

    Args:
        records: Lines of ``metrics.jsonl`` of a search that learns them.
        space: Gives the edges and the names.
        cell_type: Which cell.
        kept: The rows that the genotype keeps, drawn bold; see :func:`find_kept_rows`.
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots(2, space.num_nodes, sharex=True, sharey="row", squeeze=False)
    real = [k for k, primitive in enumerate(space.primitives) if primitive != "none"]
    for node, (above, below) in enumerate(axes.T):
        for source, row in enumerate(space.rows(space.num_inputs + node)):
            edge = [record["edge_mix"][cell_type][row] for record in records]
            best = [max(record["mix"][cell_type][row][k] for k in real) for record in records]
            for axis, values in ((above, edge), (below, [x * y for x, y in zip(edge, best, strict=True)])):
                axis.plot(
                    _epochs(records),
                    values,
                    _point_or(PATTERNS[1 + source], records),
                    color=COLOURS[1 + source],
                    linewidth=2.6 if row in (kept or {}) else 1.3,
                    label=f"from {_label(space, source)}",
                )
        above.set_title(f"node {node}", fontsize=9)
        _calm(above)
        _calm(below)
    for axis, name in zip(axes[:, 0], ("edge", "edge × candidate"), strict=True):
        axis.set_ylabel(name, fontsize=9)
        _from_zero(axis)
    _legend(figure, [axes[0, -1]])
    return figure


def find_kept_rows(space: Space, cell: CellGenotype) -> dict[int, str]:
    """The edges that a cell of a genotype keeps: from the row of each to its primitive."""
    genes = [(gene, target) for target, node in zip(space.targets, cell.nodes, strict=True) for gene in node]
    return {space.row(Edge(gene.source, target)): gene.primitive for gene, target in genes if gene.primitive != "none"}


def draw_search(records: Records) -> Figure:
    """Losses, scores and the entropy of the coefficients over the epochs of a search."""
    figure, score = Figure(figsize=(WIDTH, 2.7), layout="constrained"), SCORES["accuracy"]
    axes = loss, accuracy, entropy = figure.subplots(1, 3)
    epochs, line = _epochs(records), _point_or("-", records)
    for half, name, colour in (("inner", "weight half", COLOURS[4]), ("outer", "alpha half", COLOURS[1])):
        loss.plot(epochs, [record[f"{half}_loss"] for record in records], line, color=colour, label=name)
        score = read_score(records[0], half)[0]
        values = [score.factor * (read_score(record, half)[1] or 0.0) for record in records]
        accuracy.plot(epochs, values, line, color=colour)
    for i, cell_type in enumerate(records[0]["entropy"]):
        values = [record["entropy"][cell_type] for record in records]
        pattern = _point_or(("-", "--")[i % 2], records)
        label = f"{cell_type} cell" if len(records[0]["entropy"]) > 1 else "all edges"
        entropy.plot(epochs, values, pattern, color=COLOURS[(3, 6)[i % 2]], label=label)
    warm_up = count_warm_up(records)
    for axis, title in zip(axes, (_loss_title(score, "loss"), score.title, "entropy of the mix (nats)"), strict=True):
        if warm_up:
            axis.axvspan(0.5, warm_up + 0.5, color="#F0F1F3", linewidth=0, zorder=0)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("epoch", fontsize=9)
        if axis is not entropy:  # which would be a flat line below its largest value
            _from_zero(axis)
        _calm(axis)
    _legend(figure, [loss, entropy])
    return figure


def draw_eigenvalue(records: Records, returned: int | None = None) -> Figure | None:
    """The largest eigenvalue of the Hessian of the outer loss in alpha over the epochs, and where it ended the search.

    Args:
        records: Lines of ``metrics.jsonl``.
        returned: The epoch whose architecture was returned, if a control stopped the search.

    Returns:
        The figure, or ``None`` if no eigenvalue was measured.
    """
    measured = [record for record in records if record.get("eigenvalue") is not None]
    if not measured:
        return None
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(
        _epochs(measured), [record["eigenvalue"] for record in measured], ".-", color=COLOURS[4], label="eigenvalue"
    )
    if returned is not None:
        axis.axvline(len(records), color=COLOURS[1], linewidth=1.3, label=f"stopped after epoch {len(records)}")
        label = f"architecture of epoch {returned + 1}"
        axis.axvline(returned + 1, color=COLOURS[3], linewidth=1.3, linestyle="--", label=label)
    for number, back in enumerate(records[-1].get("roll_backs", [])):
        label = "went back to, with more weight decay" if number == 0 else None
        axis.axvline(back["to"] + 1, color=COLOURS[6], linewidth=1.3, linestyle=":", label=label)
    axis.set_title("largest eigenvalue of the outer loss in alpha (nats)", fontsize=9)
    axis.set_xlabel("epoch", fontsize=9)
    _calm(axis)
    _legend(figure, [axis], columns=4)
    return figure


def count_warm_up(records: Records) -> int:
    """How many epochs passed before alpha moved."""
    return next((i for i, record in enumerate(records) if record["alpha_moves"]), len(records))


def draw_retraining(trainings: Mapping[str, Records]) -> Figure:
    """Training loss and test score of the retrained networks, the searched one in front."""
    figure, score = Figure(figsize=(WIDTH, 2.9), layout="constrained"), SCORES["accuracy"]
    axes = loss, accuracy = figure.subplots(1, 2)
    random = [name for name in trainings if name.startswith("random")]
    labels = {
        SEARCHED: SEARCHED,
        HALVING: "random search with halving",
        **dict.fromkeys(random[:1], "random"),
    }
    for name, records in trainings.items():
        searched = name == SEARCHED
        style: dict[str, Any] = {
            "color": COLOURS[4] if searched else COLOURS[1] if name == HALVING else RANDOM,
            "linewidth": 2 if searched else 1,
            "zorder": 3 if searched else 2,
            "label": labels.get(name),
        }
        losses = [record["train_loss"] for record in records]
        loss.plot(_epochs(records), losses, _point_or("-", records), **style)
        score = read_score(records[0], "test")[0]
        tested = [record for record in records if read_score(record, "test")[1] is not None]
        values = [score.factor * (read_score(record, "test")[1] or 0.0) for record in tested]
        accuracy.plot(_epochs(tested), values, marker="o", markersize=3, **style)
    for axis, title in zip(axes, (_loss_title(score, "training loss"), f"test {score.title}"), strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("epoch", fontsize=9)
        _calm(axis)
    _legend(figure, [loss])
    return figure


def _loss_title(score: Score, name: str) -> str:
    return f"{name} (nats)" if score.is_share else name


def _epochs(records: Records) -> list[int]:
    return [record["epoch"] + 1 for record in records]


def _point_or(pattern: str, records: Records) -> str:
    """A line through one epoch would be invisible."""
    return "." if len(records) == 1 else pattern


def _label(space: Space, state: int) -> str:
    name = space.state_name(state)
    return f"${name}$" if "_" in name else name


def _legend(figure: Figure, axes: Sequence[Axes], columns: int = 8) -> None:
    """One legend below all panels, where it can hide no line."""
    handles, labels = zip(
        *((h, t) for axis in axes for h, t in zip(*axis.get_legend_handles_labels(), strict=True)), strict=True
    )
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    for line in legend.get_lines():
        line.set_linewidth(min(2.0, line.get_linewidth()))  # what is kept is bold in its panel alone


def _from_zero(axis: Axes) -> None:
    """Start at zero, with room above even if all values are equal."""
    axis.set_ylim(0, 1.05 * axis.get_ylim()[1])


def _keep_noise_small(axis: Axes) -> None:
    """Let differences below a hundredth, as alpha has them before it moves, look as small as they are."""
    low, high = axis.get_ylim()
    missing = max(0.0, 0.04 - (high - low)) / 2
    axis.set_ylim(low - missing, high + missing)


def _calm(axis: Axes) -> None:
    axis.tick_params(labelsize=8.5, length=2)
    axis.locator_params(axis="x", integer=True, nbins=4, min_n_ticks=1)
    axis.locator_params(axis="y", nbins=5)
    axis.grid(color="#E8EAED", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
