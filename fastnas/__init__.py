"""fastnas: the DARTS family of differentiable architecture search in one fast, exact engine.

Everything here is imported when it is first used, so ``import fastnas`` takes no time. Methods, spaces, mechanisms,
costs, data sets and bilevel problems have namespaces of their own: ``fastnas.methods.pc_darts()``,
``fastnas.spaces.DARTS``.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastnas import bilevel as bilevel
    from fastnas import costs as costs
    from fastnas import data as data
    from fastnas import mechanisms as mechanisms
    from fastnas import methods as methods
    from fastnas import spaces as spaces
    from fastnas import tasks as tasks
    from fastnas.acceleration.accelerate import accelerate as accelerate
    from fastnas.acceleration.accelerate import restore as restore
    from fastnas.acceleration.mixed_op import MixedOp as MixedOp
    from fastnas.acceleration.profile import profile as profile
    from fastnas.checks.check import check as check
    from fastnas.engine.loop import SearchResult as SearchResult
    from fastnas.engine.loop import search as search
    from fastnas.memory.planner import Plan as Plan
    from fastnas.memory.planner import plan as plan
    from fastnas.methods.method import Method as Method
    from fastnas.networks.create import create_model as create_model
    from fastnas.networks.model import load as load
    from fastnas.spaces.genotype import Genotype as Genotype
    from fastnas.training.config import RetrainConfig as RetrainConfig
    from fastnas.training.config import SearchConfig as SearchConfig
    from fastnas.training.result import RetrainResult as RetrainResult
    from fastnas.training.retrain import retrain as retrain

__version__ = "0.1.0"

_NAMESPACES = ("bilevel", "costs", "data", "mechanisms", "methods", "spaces", "tasks")
_HOMES = {
    "Genotype": "spaces.genotype",
    "Method": "methods.method",
    "MixedOp": "acceleration.mixed_op",
    "Plan": "memory.planner",
    "RetrainConfig": "training.config",
    "RetrainResult": "training.result",
    "SearchConfig": "training.config",
    "SearchResult": "engine.loop",
    "accelerate": "acceleration.accelerate",
    "check": "checks.check",
    "create_model": "networks.create",
    "load": "networks.model",
    "plan": "memory.planner",
    "profile": "acceleration.profile",
    "restore": "acceleration.accelerate",
    "retrain": "training.retrain",
    "search": "engine.loop",
}
"""Where each name is defined; the imports above say the same to type checkers."""

__all__ = [
    "Genotype",
    "Method",
    "MixedOp",
    "Plan",
    "RetrainConfig",
    "RetrainResult",
    "SearchConfig",
    "SearchResult",
    "__version__",
    "accelerate",
    "bilevel",
    "check",
    "costs",
    "create_model",
    "data",
    "load",
    "mechanisms",
    "methods",
    "plan",
    "profile",
    "restore",
    "retrain",
    "search",
    "spaces",
    "tasks",
]


def __getattr__(name: str) -> Any:
    if name in _NAMESPACES:
        return import_module(f"fastnas.{name}")
    if name not in _HOMES:
        from difflib import get_close_matches  # noqa: PLC0415  (only in an error)

        close = get_close_matches(name, __all__, n=1, cutoff=0.5)
        places = "Methods stand in fastnas.methods, spaces in fastnas.spaces."
        hint = f"Did you mean fastnas.{close[0]}?" if close else places
        raise AttributeError(f"module 'fastnas' has no attribute {name!r}. {hint}")
    value = getattr(import_module(f"fastnas.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "IPython" in sys.modules:
    from fastnas.notebook import register

    register()
