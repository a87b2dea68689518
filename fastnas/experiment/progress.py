"""What a search or a training shows while it runs."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypedDict

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.segment import Segment

from fastnas.progress import format_epoch, format_time_left
from fastnas.ranks import Ranks
from fastnas.spaces.formats import parse_genotype
from fastnas.spaces.space import Space
from fastnas.training.events import EventWriter

LEAST_WIDTH = {"epoch": 7, "s": 6}  # columns of the numbers that grow longer than their heading


class SafeConsole(Console):
    """A console on which foreign text, as names of files, is only shown: brackets are no markup, and control characters
    and what no encoding knows are escaped."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """See :meth:`rich.console.Console.render`."""
        for segment in super().render(renderable, options):
            is_safe = segment.control or segment.text.replace("\n", "").isprintable()
            yield segment if is_safe else Segment(_escape(segment.text), segment.style)


def _escape(text: str) -> str:
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def plain_console() -> Console:
    """A console for one of several processes: lines alone, since two bars would fight over the last line."""
    return SafeConsole(force_terminal=False)


class Display:
    """Shows a run: in a terminal a bar below the lines of the epochs, elsewhere one plain line an epoch.

    Use it in a ``with`` block.

    Args:
        title: What is running.
        console: Where to show it; by default the standard output.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or SafeConsole()
        self.is_live = self.console.is_terminal and not self.console.is_dumb_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[unit]}"),
        )
        self.progress = Progress(
            *columns, TextColumn("{task.fields[left]}"), console=self.console, disable=not self.is_live, transient=True
        )
        self.task: TaskID | None = None
        self.compiling: TaskID | None = None
        self.choosing: TaskID | None = None
        self.first, self.started = 0, 0.0
        self.has_heading = False

    def step(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` steps are behind us."""
        now = time.monotonic()
        if self.task is None:
            # The step that reports first was not timed; those after it are, and they alone tell the time left
            self.first, self.started = done, now
            self.task = self.progress.add_task("running", total=total, completed=done, left="", unit="steps")
        left = format_time_left(now - self.started, self.first, done, total)
        self.progress.update(self.task, completed=done, total=total, left=left)

    def compiled(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` kernels are compiled; where there is no bar, say so once."""
        if self.compiling is None:
            self.compiling = self.progress.add_task("compiling kernels", total=total, left="", unit="kernels")
            if not self.is_live:
                self._print(f"{self.title}  compiling {total} kernels")
        self.progress.update(self.compiling, completed=done, visible=done < total)

    def chosen(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` parts of a choice by evaluation are behind us; without a bar, in lines."""
        if self.choosing is None:
            self.choosing = self.progress.add_task("choosing by evaluation", total=total, left="", unit="parts")
        self.progress.update(self.choosing, completed=done)
        if not self.is_live:
            self._print(f"{self.title}  choosing by evaluation, {done} of {total} done")

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Print the line of an epoch."""
        cells = format_epoch(record)
        if not self.is_live:
            self._print(
                "  ".join([self.title, *(f"{name.replace('  ', ' ')} {value}" for name, value in cells.items())])
            )
            return
        widths = {name: max(len(name), len(value), LEAST_WIDTH.get(name, 0)) for name, value in cells.items()}
        if not self.has_heading:
            self._print("  ".join(name.replace("  ", " ").rjust(widths[name]) for name in cells), style="dim")
            self.has_heading = True
        self._print("  ".join(value.rjust(widths[name]) for name, value in cells.items()))
        if self.task is not None:
            description = f"epoch {min(record['epoch'] + 2, record['epochs'])}/{record['epochs']}"
            self.progress.update(self.task, description=description)

    def _print(self, line: str, style: str | None = None) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True, style=style)

    def __enter__(self) -> "Display":
        if self.is_live:
            self._print(self.title, style="bold")
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()


ShowProgress = Callable[[str], AbstractContextManager[Display]]
"""From a title to a display that is live inside a ``with`` block."""


class Callbacks(TypedDict, total=False):
    on_step: Callable[[int, int], None]
    on_epoch: Callable[[Mapping[str, Any]], None]
    on_compile: Callable[[int, int], None]
    on_choice: Callable[[int, int], None]


@contextmanager
def watch(
    what: Literal["search", "retrain"],
    title: str,
    folder: Path,
    show_progress: ShowProgress,
    ranks: Ranks,
    settings: Mapping[str, Any],
    space: Space,
) -> Generator[Callbacks, None, None]:
    """What to call after steps and epochs, so that somebody sees them; the first of several processes is seen.

    Args:
        what: The part of a run.
        title: Of the display.
        folder: Of the part; its ``events/`` are for TensorBoard.
        show_progress: Makes the display.
        ranks: The processes that run it together.
        settings: Of the run.
        space: That of the genotypes, whose last one is drawn.
    """
    if not ranks.is_first:
        yield {}
        return
    last: Mapping[str, Any] = {}
    with show_progress(title) as display, EventWriter(folder / "events", settings) as events:

        def on_epoch(record: Mapping[str, Any]) -> None:
            nonlocal last
            display.epoch(record)
            events.write(what, record)
            last = record

        callbacks: Callbacks = {"on_step": display.step, "on_epoch": on_epoch}
        of_search: Callbacks = {"on_compile": display.compiled, "on_choice": display.chosen}
        yield callbacks | of_search if what == "search" else callbacks
        if "genotype" in last:
            from fastnas.report.draw import draw_genotype  # noqa: PLC0415  (matplotlib takes half a second)

            figure = draw_genotype(parse_genotype(last["genotype"], space), space)
            events.draw(f"{what}/cells", figure, last["epoch"])
