"""What changed over the epochs, as figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastnas.report.text import state_name
from fastnas.space.cell_space import CellSpace

# Okabe and Ito's colours; the pattern of the line tells the primitives apart where colour does not
COLOURS = ("#999999", "#D55E00", "#E69F00", "#009E73", "#0072B2", "#56B4E9", "#CC79A7", "#000000")
PATTERNS = ("-", "-", "--", "-", "-", "--", "-", "--")
WIDTH = 10.5  # inches

Records = Sequence[Mapping[str, Any]]


def mix_figure(records: Records, space: CellSpace, cell_type: str) -> Figure:
    """The coefficients of every edge over the epochs: a panel an edge, a line a candidate.

    Args:
        records: Lines of ``metrics.jsonl`` of a search.
        space: Gives the edges and the names.
        cell_type: Which cell.
    """
    columns = 5 if len(space.edges) > 6 else 3
    rows = -(-len(space.edges) // columns)
    figure = Figure(figsize=(WIDTH, 1.5 * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    epochs = [record["epoch"] + 1 for record in records]
    for row, (edge, axis) in enumerate(zip(space.edges, axes, strict=False)):
        for k, primitive in enumerate(space.primitives):
            values = [record["mix"][cell_type][row][k] for record in records]
            axis.plot(epochs, values, PATTERNS[k % 8], color=COLOURS[k % 8], linewidth=1.2, label=primitive)
        source, target = (f"${n}$" if "_" in n else n for n in (state_name(space, state) for state in edge))
        axis.set_title(f"{source} → {target}", fontsize=8)
        _calm(axis)
    for axis in axes[len(space.edges) :]:
        axis.axis("off")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 8), fontsize=8, frameon=False)
    return figure


def edge_mix_figure(records: Records, space: CellSpace, cell_type: str) -> Figure:
    """The coefficients of the edges into each node over the epochs: a panel a node, a line an edge."""
    figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
    epochs = [record["epoch"] + 1 for record in records]
    axes = figure.subplots(1, space.num_nodes, sharey=True, squeeze=False)[0]
    for node, axis in enumerate(axes):
        for source, row in enumerate(space.rows(space.num_inputs + node)):
            name = state_name(space, source)
            label = f"from ${name}$" if "_" in name else f"from {name}"
            values = [record["edge_mix"][cell_type][row] for record in records]
            axis.plot(epochs, values, color=COLOURS[1 + source], linewidth=1.2, label=label)
        axis.set_title(f"node {node}", fontsize=8)
        axis.legend(fontsize=7, frameon=False)
        _calm(axis)
    return figure


def search_figure(records: Records) -> Figure:
    """Losses, accuracies and the entropy of the coefficients over the epochs of a search."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    loss, accuracy, entropy = figure.subplots(1, 3)
    epochs = [record["epoch"] + 1 for record in records]
    for half, name, colour in (("inner", "weight half", COLOURS[4]), ("outer", "alpha half", COLOURS[1])):
        loss.plot(epochs, [record[f"{half}_loss"] for record in records], color=colour, label=name)
        accuracy.plot(epochs, [100 * record[f"{half}_accuracy"] for record in records], color=colour, label=name)
    for i, cell_type in enumerate(records[0]["entropy"]):
        values = [record["entropy"][cell_type] for record in records]
        entropy.plot(epochs, values, color=COLOURS[(3, 6)[i % 2]], label=f"{cell_type} cell")
    moving = [record["epoch"] + 1 for record in records if record["alpha_moves"]]
    for axis, title in ((loss, "loss (nats)"), (accuracy, "accuracy (%)"), (entropy, "entropy of the mix (nats)")):
        if moving and moving[0] > 1:
            axis.axvspan(epochs[0], moving[0], color="#F0F1F3", zorder=0)
        axis.set_title(title, fontsize=9)
        axis.legend(fontsize=8, frameon=False)
        axis.set_xlabel("epoch", fontsize=8)
        _calm(axis)
    return figure


def retrain_figure(trainings: Mapping[str, Records]) -> Figure:
    """Training loss and test accuracy of the retrained networks, the searched one in front.

    Args:
        trainings: Lines of ``metrics.jsonl`` of every retrained network, by name.
    """
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for name, records in trainings.items():
        searched = name == "searched"
        style: dict[str, Any] = {
            "color": COLOURS[4] if searched else "#B0B5BA",
            "linewidth": 2 if searched else 1,
            "zorder": 3 if searched else 2,
            "label": "searched" if searched else "random" if name == "random_1" else None,
        }
        loss.plot([record["epoch"] + 1 for record in records], [record["train_loss"] for record in records], **style)
        tested = [record for record in records if record["test_accuracy"] is not None]
        epochs, values = [r["epoch"] + 1 for r in tested], [100 * r["test_accuracy"] for r in tested]
        accuracy.plot(epochs, values, marker="o", markersize=3, **style)
    for axis, title in ((loss, "training loss (nats)"), (accuracy, "test accuracy (%)")):
        axis.set_title(title, fontsize=9)
        axis.legend(fontsize=8, frameon=False)
        axis.set_xlabel("epoch", fontsize=8)
        _calm(axis)
    return figure


def _calm(axis: Axes) -> None:
    axis.tick_params(labelsize=7, length=2)
    axis.locator_params(axis="x", integer=True, nbins=5)
    axis.grid(color="#E8EAED", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
