"""The search: one state, one step and one loop for every method."""

from fastnas.search.coefficients import relax
from fastnas.search.loop import SearchResult, search
from fastnas.search.run import Run, fresh_state, require_stages, stage_supernet, weight_learning_rate
from fastnas.search.step import alpha_gradients, alpha_problem, search_step

__all__ = [
    "Run",
    "SearchResult",
    "alpha_gradients",
    "alpha_problem",
    "fresh_state",
    "relax",
    "require_stages",
    "search",
    "search_step",
    "stage_supernet",
    "weight_learning_rate",
]
