"""A space of one's own, from a Python file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from fastnas.errors import describe, invalid, require_type
from fastnas.seeds import torch_seed
from fastnas.spaces.cell_space import CellSpace
from fastnas.spaces.registry import SPACES, space_by_name
from fastnas.spaces.space import Space
from fastnas.supernet.candidates import build_candidate
from fastnas.supernet.operations import call
from fastnas.user_code import load_user_object, names_code, run_user_code

_CHANNELS, _SIDE = 8, 8  # of the trial of every primitive: even, so that a factorised reduction fits


def as_space(space: object, where: str = "space") -> Space:
    """Return a space, from the space itself, a function that returns one, or a name.

    Args:
        space: A :class:`Space`; or what :func:`load_space` takes; or a function without arguments.
        where: The beginning of errors.

    Raises:
        ValueError: If it is none of these, or an operation of one's own does not suit a search, see :func:`try_space`.
    """
    if isinstance(space, str):
        return load_space(space)
    if callable(space) and not isinstance(space, type):
        space = run_user_code(space, "space()", None, where)
    found = require_type(where, "space", space, Space, "The order of arguments is space, method, data.")
    if isinstance(found, CellSpace) and isinstance(found.operations, Mapping):  # one's own
        try_space(found)
    return found


def load_space(name: str) -> Space:
    """Return a registered space, or one of your own code: ``FILE.py:NAME`` or ``module:name``.

    Your code is executed. ``NAME`` is a :class:`Space` with operations, or a function without arguments that
    returns one. Every primitive is built and tried once, so that a mistake shows now.

    Args:
        name: ``darts``, or ``my_space.py:my_space``.
    """
    if name in SPACES or not names_code(name):
        return space_by_name(name)
    place, _, attribute = name.rpartition(":")
    found = load_user_object(name, "space")
    space = run_user_code(found, f"{attribute}()", Path(place), "space") if callable(found) else found
    if not isinstance(space, Space):
        rule = f"{attribute} in {place} must be a Space, as Space, or a function that returns one"
        raise invalid("space", rule, describe(space))
    known = SPACES.get(space.name)
    if known is not None and known != space:
        raise invalid("space", f"{attribute} in {place} must have a name of its own", f"{space.name!r}", "Rename it.")
    try_space(space)
    return space


def try_space(space: Space) -> None:
    """Build every primitive of ``space`` and run it once.

    Raises:
        ValueError: If one cannot be built, changes the shape, keeps a state while searching, or is no pure function.
    """
    space.require_network()
    strides = (1, 2) if "reduction" in space.cell_types else (1,)
    for primitive in space.primitives:
        for stride in strides:
            for searching in (True, False):
                with torch_seed(0):
                    _try(space, primitive, stride, searching)


def _try(space: Space, primitive: str, stride: int, searching: bool) -> None:
    where = f"space {space.name!r}: primitive {primitive!r}"
    at = f"({_CHANNELS}, {stride}, {searching})"

    def build() -> nn.Module:
        return build_candidate(space, primitive, _CHANNELS, stride, searching)

    module = run_user_code(build, f"{primitive}{at}", None, where)
    if not isinstance(module, nn.Module):
        raise invalid(where, f"its operation must return a module at {at}", type(module).__name__)
    if searching:
        buffers = [name for name, _ in module.named_buffers()]
        if buffers:
            remedy = "Use fastnas.supernet.batch_norm(channels, searching), which keeps no statistics while searching."
            raise invalid(where, "it must keep no buffers while searching", ", ".join(buffers), remedy)
    x = torch.randn(2, _CHANNELS, *[_SIDE] * space.dimensions)
    y = run_user_code(lambda: call(module, x, 0), f"{primitive}{at} at an image", None, where)
    expected = [2, _CHANNELS, *[_SIDE // stride] * space.dimensions]
    got = list(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
    if got != expected:
        raise invalid(where, f"at stride {stride} its output must have shape {expected}", got)
    if searching:
        same = torch.equal(y, call(module, x, 0))
        if not same:
            remedy = "A search evaluates a loss more than once. Randomness must come from a seed."
            raise invalid(where, "it must be a function of its input alone", "two outputs for one input", remedy)
