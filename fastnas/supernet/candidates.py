"""Which bodies the primitives of a space have."""

from collections.abc import Mapping
from functools import singledispatch

from torch import nn

from fastnas.errors import invalid
from fastnas.spaces.cell_space import CellSpace
from fastnas.spaces.chain_space import ChainSpace
from fastnas.spaces.graph_space import GraphSpace
from fastnas.spaces.space import Space
from fastnas.supernet.chain import MBCONV_OPERATIONS
from fastnas.supernet.operations import (
    DARTS_OPERATIONS,
    NASBENCH201_OPERATIONS,
    SHARP_OPERATIONS,
    BuildOperation,
    Noise,
    Zero,
    in_dimensions,
)

_COMMON: Mapping[str, BuildOperation] = {
    "none": lambda channels, stride, searching: Zero(stride),
    "noise": lambda channels, stride, searching: Noise(stride),
}
LIBRARY: Mapping[str, Mapping[str, BuildOperation]] = {
    "darts": {**NASBENCH201_OPERATIONS, **DARTS_OPERATIONS, **_COMMON},
    "sharpdarts": {**SHARP_OPERATIONS, **_COMMON},
    "nasbench201": {**DARTS_OPERATIONS, **NASBENCH201_OPERATIONS, **_COMMON},
}
"""The sets of operations that a space may name. Where a set leaves out a name of another paper, it has that paper's."""


def find_operations(space: CellSpace) -> Mapping[str, BuildOperation]:
    """How the primitives of ``space`` are built: by its own operations, or else by the library's."""
    own = space.operations
    where = f"space {space.name!r}"
    if isinstance(own, str):
        if own not in LIBRARY:
            raise invalid(where, f"operations must be functions, or one of {', '.join(LIBRARY)}", repr(own))
        known = LIBRARY[own]
    else:
        known = {**LIBRARY["darts"], **own}
    if missing := [primitive for primitive in space.primitives if primitive not in known]:
        remedy = "Give it one: CellSpace(operations={primitive: function of (channels, stride, searching)})."
        raise invalid(where, "every primitive must have an operation", f"none for {', '.join(missing)}", remedy)
    return known


@singledispatch
def build_candidate(space: Space, primitive: str, channels: int, stride: int, searching: bool) -> nn.Module:
    """One candidate of ``space`` by itself, from ``[N, channels, H, W]`` to as many channels."""
    raise TypeError(f"no candidates for a {type(space).__name__}")


@build_candidate.register
def _(space: CellSpace, primitive: str, channels: int, stride: int, searching: bool) -> nn.Module:
    with in_dimensions(space.dimensions):
        return find_operations(space)[primitive](channels, stride, searching)


@build_candidate.register
def _(space: ChainSpace, primitive: str, channels: int, stride: int, searching: bool) -> nn.Module:
    if primitive == "none":
        return nn.Identity()  # the block is left out
    if primitive not in MBCONV_OPERATIONS:
        rule = f"primitives of a chain must be none or among {', '.join(MBCONV_OPERATIONS)}"
        raise invalid(f"space {space.name!r}", rule, primitive)
    return MBCONV_OPERATIONS[primitive](channels, channels, stride, searching)


@build_candidate.register
def _(space: GraphSpace, primitive: str, channels: int, stride: int, searching: bool) -> nn.Module:
    return nn.Identity()  # a connection
