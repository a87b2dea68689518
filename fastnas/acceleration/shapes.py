"""Which modules have the shape of a mixed operation or of a cell, and by which of their methods."""

import inspect
import math
from collections.abc import Mapping

from torch import nn
from torch.jit import ScriptModule

from fastnas.acceleration.guards import is_constant


def find_methods(module: nn.Module) -> list[str]:
    """Names of the methods that may evaluate ``module``: its forward, and others whose names begin so."""
    if isinstance(module, ScriptModule):
        return []
    return ["forward", *(name for name in dir(type(module)) if name.startswith("forward_"))]


def read_arguments(module: nn.Module, method: str) -> tuple[tuple[str, ...], tuple[tuple[str, object], ...]]:
    """Names of the arguments of ``method`` that must be given, and the others with their defaults.

    Both are empty if the defaults are no plain values, or arguments may be repeated.
    """
    function = inspect.getattr_static(type(module), method)
    if not inspect.isfunction(function):
        return (), ()
    parameters = list(inspect.signature(function).parameters.values())[1:]
    required = tuple(p.name for p in parameters if p.default is p.empty)
    defaults = tuple((p.name, p.default) for p in parameters if p.default is not p.empty)
    plain = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) and all(is_constant(v) for _, v in defaults)
    return (required, defaults) if plain else ((), ())


def find_candidate_list(module: nn.Module) -> tuple[str, dict[str, nn.Module]] | None:
    """The modules in the one list or dictionary of modules that ``module`` holds, by their keys, with its name;
    ``None`` if it holds none or several."""
    filled = [(name, items) for name, part in module.named_children() if (items := list_items(part))]
    return filled[0] if len(filled) == 1 else None


def list_items(part: nn.Module) -> dict[str, nn.Module]:
    """What is in a list or dictionary of modules, also what is in it twice."""
    held = part._modules if isinstance(part, (nn.ModuleList, nn.ModuleDict)) else {}
    return {key: item for key, item in held.items() if item is not None}


def find_candidates(module: nn.Module, path: str = "") -> dict[str, nn.Module]:
    """The candidates of a mixed operation at ``path``, by their paths; ``module`` holds a list of them, or is one."""
    prefix = f"{path}." if path else ""
    if items := list_items(module):
        return {f"{prefix}{key}": item for key, item in items.items()}
    found = find_candidate_list(module)
    return {} if found is None else {f"{prefix}{found[0]}.{key}": item for key, item in found[1].items()}


def find_mixing_methods(module: nn.Module) -> list[str]:
    """By which methods ``module`` has the shape of a mixed operation: listed candidates, ``forward(x, weights)``."""
    found = find_candidate_list(module)
    if found is None or any(map(list_items, found[1].values())):
        return []
    numbers = (2, 3) if find_words(module) else (2,)  # the third may be a word that selects a mode
    return [method for method in find_methods(module) if len(read_arguments(module, method)[0]) in numbers]


def find_words(module: nn.Module) -> list[str]:
    """Words in the code of ``module`` and its parts: one of its arguments may be compared with them."""
    kinds = {type(part) for part in module.modules() if not type(part).__module__.startswith("torch.")}
    codes = [function.__code__ for kind in kinds for function in vars(kind).values() if inspect.isfunction(function)]
    texts = {text for code in codes for text in code.co_consts[1:] if isinstance(text, str) and text.isidentifier()}
    return sorted(texts)[:MOST_WORDS]


MOST_WORDS = 8
"""Every word is tried, at the price of a proof."""


def find_edges(module: nn.Module) -> Mapping[str, nn.Module]:
    """The mixed operations of a cell by their paths, in order: those in the list, or list of lists, that ``module``
    holds, or else the lists of candidates in it."""
    found = find_candidate_list(module)
    if found is None:
        return {}
    name, items = found
    groups = {f"{name}.{key}": list_items(item) for key, item in items.items() if list_items(item)} or {name: items}
    flat = {f"{prefix}.{key}": item for prefix, group in groups.items() for key, item in group.items()}
    if all(find_mixing_methods(item) for item in flat.values()):
        return flat
    bare = all(list_items(item) and not any(map(list_items, list_items(item).values())) for item in items.values())
    return {f"{name}.{key}": item for key, item in items.items()} if bare else {}


def find_cell_methods(module: nn.Module) -> list[str]:
    """By which methods ``module`` has the shape of a cell: edges, ``forward`` of the states that enter and the
    coefficients; one state enters where edges are mere lists, two where they are mixed operations."""
    edges = find_edges(module)
    if not edges:
        return []
    numbers = (2, 3) if any(map(list_items, edges.values())) else (3, 4)  # the last may be one of several things
    return [method for method in find_methods(module) if len(read_arguments(module, method)[0]) in numbers]


def channels_after(prepare: nn.Module, default: int) -> int:
    """Channels that come out of the part that prepares an input."""
    norms = [part.num_features for part in prepare.modules() if isinstance(part, nn.BatchNorm2d)]
    return norms[-1] if norms else default


def channels_before(prepare: nn.Module, default: int) -> int:
    """Channels that the part which prepares an input reads."""
    return next((part.in_channels for part in prepare.modules() if isinstance(part, nn.Conv2d)), default)


def find_input_stride(prepare: nn.Module) -> int:
    """By how much the part that prepares an input shrinks it."""
    strides = [part.stride[0] for part in prepare.modules() if isinstance(part, nn.Conv2d)]
    return math.prod({stride for stride in strides if isinstance(stride, int)})
