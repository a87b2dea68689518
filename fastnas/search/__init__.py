"""The search: one state, one step and one loop for every method."""

from fastnas.search.coefficients import relax
from fastnas.search.loop import SearchResult, search
from fastnas.search.run import weight_learning_rate

__all__ = ["SearchResult", "relax", "search", "weight_learning_rate"]
