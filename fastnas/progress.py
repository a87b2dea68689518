"""How far a search or a training is: as words, and as a live table in a Jupyter notebook."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from fastnas.tasks import read_score

OnStep = Callable[[int, int], None]
OnEpoch = Callable[[Mapping[str, Any]], None]
SECONDS = 0.5  # between two updates of a notebook


def show_in_notebook(
    title: str, on_step: OnStep | None, on_epoch: OnEpoch | None, on_choice: OnStep | None = None
) -> tuple[OnStep | None, OnEpoch | None, OnStep | None]:
    """The callbacks as they are; in a Jupyter notebook, where none is given, those of a live table."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    given = on_step, on_epoch, on_choice
    if given != (None, None, None) or type(shell).__name__ != "ZMQInteractiveShell":
        return given
    table = _NotebookTable(title)
    return table.step, table.epoch, table.choice


class _NotebookTable:
    """A bar, and below it a line an epoch."""

    def __init__(self, title: str) -> None:
        from IPython.display import HTML, display  # noqa: PLC0415  # type: ignore[import-not-found]  (Jupyter has it)

        self.title, self.html = title, HTML
        self.rows: list[dict[str, str]] = []
        self.bar, self.updated = _Bar("steps"), 0.0
        self.handle: Any = display(HTML(self.text()), display_id=True)

    def step(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` steps are behind us."""
        self._show("steps", done, total)

    def choice(self, done: int, total: int) -> None:
        """The same of the parts of a choice by evaluation."""
        self._show("parts of the choice", done, total)

    def _show(self, unit: str, done: int, total: int) -> None:
        now = time.monotonic()
        if not self.bar.started or self.bar.unit != unit:
            self.bar, self.updated = _Bar(unit, done, done, total, now), 0.0
        self.bar.done, self.bar.total = done, total
        if now - self.updated >= SECONDS or done == total:
            self.updated = now
            self.handle.update(self.html(self.text()))

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Add the line of an epoch."""
        self.rows.append(format_epoch(record))
        self.handle.update(self.html(self.text()))

    def text(self) -> str:
        """What the notebook shows now."""
        bar = self.bar
        spent = time.monotonic() - bar.started
        left = format_time_left(spent, bar.first, bar.done, bar.total) if bar.started else ""
        shown = f'<progress value="{bar.done}" max="{bar.total}"></progress> {bar.done}/{bar.total} {bar.unit} {left}'
        lines = [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row.values())}</tr>" for row in self.rows]
        heading = "".join(f"<th>{escape(name)}</th>" for name in (self.rows[0] if self.rows else {}))
        return f"<p>{escape(self.title)} {shown}</p><table><tr>{heading}</tr>{''.join(lines)}</table>"


@dataclass
class _Bar:
    """How many of a ``total`` are done, how many were at first, and when that was."""

    unit: str
    first: int = 0
    done: int = 0
    total: int = 1
    started: float = 0.0


def format_epoch(record: Mapping[str, Any]) -> dict[str, str]:
    """The headings and the numbers of one record of ``metrics.jsonl``, of a search or of a training."""
    cells = {"epoch": f"{record['epoch'] + 1}/{record['epochs']}"}
    if "inner_loss" in record:
        cells["weight loss"] = f"{record['inner_loss']:.3f}"
        cells |= _score_cell(record, "inner", "")
        cells["alpha loss"] = f"{record['outer_loss']:.3f}"
        cells |= _score_cell(record, "outer", " ")
        entropies = " ".join(f"{value:.3f}" for value in record["entropy"].values())
        cells["entropy"] = entropies
        cells["alpha"] = "moves" if record["alpha_moves"] else "waits"
    else:
        tested = record["test_loss"] is not None
        cells["train loss"] = f"{record['train_loss']:.3f}"
        cells |= _score_cell(record, "train", "")
        cells["test loss"] = f"{record['test_loss']:.3f}" if tested else "–"
        cells |= _score_cell(record, "test", " ")
    return cells | {"s": f"{record['seconds']:.1f}"}


def _score_cell(record: Mapping[str, Any], part: str, space: str) -> dict[str, str]:
    """The score under its heading, of which a second one has a further space."""
    score, value = read_score(record, part)
    name = "acc" if score.label == "accuracy" else score.label
    heading = f"{name} {space}%" if score.is_share else f"{name}{space}"
    number = "–" if value is None else f"{100 * value:.1f}" if score.is_share else f"{value:.4g}"
    return {heading: number}


def format_time_left(seconds: float, first: int, done: int, total: int) -> str:
    """The time that the remaining steps need, or nothing before a step was timed.

    Args:
        seconds: Spent on the steps of this session.
        first: Steps that were behind us when it began: a resumed run starts in the middle.
        done: Steps that are behind us now.
        total: All steps.
    """
    if done <= first:
        return ""
    left = round(seconds / (done - first) * (total - done))
    hours, minutes = divmod(left // 60, 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{left % 60:02} left"
