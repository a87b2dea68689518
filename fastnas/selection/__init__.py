"""Which architecture a search returns: the argmax of its coefficients, or one that was evaluated."""

from fastnas.selection.averaging import derive_from_average
from fastnas.selection.config import LadderConfig
from fastnas.selection.ladder import Rung, Selection, climb, load_selection, save_selection, select, summary

__all__ = [
    "LadderConfig",
    "Rung",
    "Selection",
    "climb",
    "derive_from_average",
    "load_selection",
    "save_selection",
    "select",
    "summary",
]
