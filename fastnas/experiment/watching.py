"""Who sees a search or a training while it runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypedDict

from fastnas.ranks import Ranks
from fastnas.training.events import EventWriter


class Display(Protocol):
    """What shows a search or a training while it runs."""

    def step(self, done: int, total: int) -> None: ...
    def compiled(self, done: int, total: int) -> None: ...
    def epoch(self, record: Mapping[str, Any]) -> None: ...


ShowProgress = Callable[[str], AbstractContextManager[Display]]
"""From a title to a display that is live inside a ``with`` block."""


class Watch(TypedDict, total=False):
    on_step: Callable[[int, int], None]
    on_epoch: Callable[[Mapping[str, Any]], None]
    on_compile: Callable[[int, int], None]


@contextmanager
def watched(what: str, title: str, folder: Path, show_progress: ShowProgress, ranks: Ranks) -> Iterator[Watch]:
    """What to call after steps and epochs, so that somebody sees them; the first of several processes is seen."""
    if not ranks.is_first:
        yield {}
        return
    with show_progress(title) as display, EventWriter(folder / "events") as events:

        def on_epoch(record: Mapping[str, Any]) -> None:
            display.epoch(record)
            events.write(what, record)

        watch: Watch = {"on_step": display.step, "on_epoch": on_epoch}
        yield watch | {"on_compile": display.compiled} if what == "search" else watch
