"""The search: one state, one step and one loop for every method."""

from fastnas.search.coefficients import relax
from fastnas.search.loop import SearchResult, search
from fastnas.search.run import require_stages, stage_supernet, weight_learning_rate

__all__ = ["SearchResult", "relax", "require_stages", "search", "stage_supernet", "weight_learning_rate"]
