"""The search: one state, one step and one loop for every method."""

from fastnas.engine.coefficients import relax
from fastnas.engine.loop import SearchResult, search
from fastnas.engine.run import Run, build_stage, find_weight_rate, make_state, require_stages
from fastnas.engine.step import alpha_gradients, alpha_problem, search_step

__all__ = [
    "Run",
    "SearchResult",
    "alpha_gradients",
    "alpha_problem",
    "build_stage",
    "find_weight_rate",
    "make_state",
    "relax",
    "require_stages",
    "search",
    "search_step",
]
