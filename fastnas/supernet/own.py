"""A space of one's own, from a Python file."""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastnas.seeds import torch_seed
from fastnas.spaces.cell_space import CellSpace
from fastnas.spaces.registry import SPACES, space_by_name
from fastnas.supernet.candidates import operations_of
from fastnas.supernet.layout import has_reductions
from fastnas.supernet.noise_operation import call
from fastnas_kernels.check import complaint, require

_CHANNELS, _SIDE = 8, 8  # of the trial of every primitive: even, so that a factorised reduction fits
_FAULTS = (SyntaxError, ImportError, NameError, AttributeError, TypeError, ValueError, LookupError)
_MORE_FAULTS = (ArithmeticError, AssertionError, OSError, RuntimeError)


def load_space(name: str) -> CellSpace:
    """A space of the library, or one of a file of yours: ``FILE.py:NAME``.

    The file is executed. ``NAME`` is a :class:`CellSpace` with operations, or a function without arguments that
    returns one. Every primitive is built and tried once, so that a mistake shows now.

    Args:
        name: ``darts``, or ``my_space.py:my_space``.

    Raises:
        ValueError: In one line that says what is wrong with the file, and where.
    """
    if name in SPACES or ":" not in name:
        return space_by_name(name)
    file, _, attribute = name.rpartition(":")
    found = _value(Path(file), attribute)
    space = _guarded(found, f"{attribute}()", Path(file)) if callable(found) else found
    rule = f"{attribute} in {file} must be a CellSpace, or a function that returns one"
    require(isinstance(space, CellSpace), "space", rule, type(space).__name__)
    remedy = "Name the library's own: --space proxyless --cells N."
    of_cells = space.stages is None and space.dag is None
    require(of_cells, "space", f"{attribute} in {file} must be a space of cells", "a chain or a graph", remedy)
    taken = space.name not in SPACES
    require(taken, "space", f"{attribute} in {file} must not be called like a space of the library", repr(space.name))
    try_space(space)
    return space


def try_space(space: CellSpace) -> None:
    """Build every primitive of ``space`` and run it once.

    Raises:
        ValueError: If one cannot be built, changes the shape, keeps a state while searching, or is no pure function.
    """
    has_reductions(space)  # raises where its cells fit no network
    strides, operations = (1, 2) if "reduction" in space.cell_types else (1,), operations_of(space)
    for primitive in space.primitives:
        for stride in strides:
            for searching in (True, False):
                with torch_seed(0):
                    _try(space, primitive, operations[primitive], stride, searching)


def _try(space: CellSpace, primitive: str, build: Callable[..., Any], stride: int, searching: bool) -> None:
    where = f"space {space.name!r}: primitive {primitive!r}"
    at = f"({_CHANNELS}, {stride}, {searching})"
    module = _guarded(lambda: build(_CHANNELS, stride, searching), f"{primitive}{at}", None, where)
    require(isinstance(module, nn.Module), where, f"its operation must return a module at {at}", type(module).__name__)
    if searching:
        buffers = [name for name, _ in module.named_buffers()]
        remedy = "Use fastnas.supernet.batch_norm(channels, searching), which keeps no statistics while searching."
        require(not buffers, where, "it must keep no buffers while searching", ", ".join(buffers), remedy)
    x = torch.randn(2, _CHANNELS, _SIDE, _SIDE)
    y = _guarded(lambda: call(module, x, 0), f"{primitive}{at} at an image", None, where)
    expected = [2, _CHANNELS, _SIDE // stride, _SIDE // stride]
    got = list(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
    require(got == expected, where, f"at stride {stride} its output must have shape {expected}", got)
    if searching:
        same = torch.equal(y, call(module, x, 0))
        remedy = "A search evaluates a loss more than once. Randomness must come from a seed."
        require(same, where, "it must be a function of its input alone", "two outputs for one input", remedy)


def _value(file: Path, attribute: str) -> Any:
    require(file.suffix == ".py" and file.is_file(), "space", "FILE.py:NAME must name a Python file", str(file))
    spec = importlib.util.spec_from_file_location(f"fastnas_own_{file.stem}", file.resolve())
    assert spec is not None, "a .py file has a loader"
    loader = spec.loader
    assert loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look a class's module up there
    _guarded(lambda: loader.exec_module(module), str(file), file)
    require(hasattr(module, attribute), "space", f"{file} must define {attribute}", "nothing of that name")
    return getattr(module, attribute)


def _guarded(run: Callable[[], Any], what: str, file: Path | None, where: str = "space") -> Any:
    """The result of ``run``, a user's code; what goes wrong in it becomes one line that says where."""
    try:
        return run()
    except (*_FAULTS, *_MORE_FAULTS) as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if file is not None and Path(frame.filename) == file.resolve()
        ]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        at = f" in line {line}" if line else ""
        got = f"{type(error).__name__}{at}: {' '.join(str(error).split()).rstrip('.')}"
        raise ValueError(complaint(where, f"{what} must run", got)) from error
