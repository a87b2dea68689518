"""Which architecture a search returns: the argmax of its coefficients, or one that was evaluated."""

from fastnas.selection.ladder import (
    LadderConfig,
    Rung,
    Selection,
    climb,
    load_selection,
    save_selection,
    select,
    summarize_selection,
)
from fastnas.selection.proposals import derive_from_average

__all__ = [
    "LadderConfig",
    "Rung",
    "Selection",
    "climb",
    "derive_from_average",
    "load_selection",
    "save_selection",
    "select",
    "summarize_selection",
]
