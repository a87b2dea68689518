"""Which architecture a search returns: the argmax of its coefficients, or one that was evaluated."""

from fastnas.selection.config import LadderConfig
from fastnas.selection.ladder import Rung, Selection, climb, load_selection, save_selection, select, summary

__all__ = ["LadderConfig", "Rung", "Selection", "climb", "load_selection", "save_selection", "select", "summary"]
