"""What a search or a training shows while it runs."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def epoch_line(record: Mapping[str, Any]) -> str:
    """One line for one record of ``metrics.jsonl``, of a search or of a training."""
    parts = [f"epoch {record['epoch'] + 1:>3}/{record['epochs']}"]
    if "inner_loss" in record:
        entropies = " ".join(f"{value:.3f}" for value in record["entropy"].values())
        parts += [
            f"weights: loss {record['inner_loss']:.3f} acc {100 * record['inner_accuracy']:5.1f} %",
            f"alpha half: loss {record['outer_loss']:.3f} acc {100 * record['outer_accuracy']:5.1f} %",
            f"entropy {entropies}" + ("" if record["alpha_moves"] else " (warm-up)"),
        ]
    else:
        parts.append(f"train: loss {record['train_loss']:.3f} acc {100 * record['train_accuracy']:5.1f} %")
        if record["test_accuracy"] is not None:
            parts.append(f"test: loss {record['test_loss']:.3f} acc {100 * record['test_accuracy']:5.1f} %")
    return "  ".join([*parts, f"{record['seconds']:.1f} s"])


class Display:
    """A bar with the time left in a terminal, and one line an epoch everywhere; use it in a ``with`` block.

    Args:
        title: What is running.
        console: Where to show it; by default the standard output.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or Console()
        # The remaining time is estimated from the steps of this session: a resumed run starts in the middle
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self.task = None

    def step(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` steps are behind us."""
        if self.task is None:
            self.task = self.progress.add_task(self.title, total=total, completed=done)
        self.progress.update(self.task, completed=done)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Print the line of an epoch."""
        self.console.print(epoch_line(record), highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> "Display":
        self.console.print(self.title, highlight=False, markup=False, soft_wrap=True, style="bold")
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
