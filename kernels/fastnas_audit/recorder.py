"""Writes down what a library launches, so that the same can be compiled for GPUs that are not here.

A list of launches written by hand says what somebody believed; a recorded one says what the library does. Nothing is
executed: outputs keep whatever their memory held.
"""

import inspect
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import BaseBackend
from triton.runtime.interpreter import GridExecutor
from triton.runtime.jit import native_specialize_impl

from fastnas_audit.assembly import Type
from fastnas_audit.gate import Case
from fastnas_audit.interpreter import replaced, require_interpreter

CONSTANT = "constexpr"


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        kernel: What ``triton.jit`` returned.
        grid: The number of programs along each axis.
        arguments: Every argument by its name, constants and all.
        options: What a launch says beside them, such as ``num_warps``.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the kernel."""
        return self.kernel.__name__


@contextmanager
def recorded() -> Generator[list[Launch], None, None]:
    """Write launches down instead of running them.

    Yields:
        A list that holds one :class:`Launch` for each so far.

    Raises:
        RuntimeError: if Triton does not interpret.
    """
    require_interpreter("recorded")
    launches: list[Launch] = []

    def call(executor: GridExecutor, *given: Any, **named: Any) -> None:
        arguments = dict(zip(executor.arg_names, given, strict=False)) | named
        options = {name: arguments.pop(name) for name in arguments.keys() - set(executor.arg_names)}
        kernel = _kernel_of(executor.fn)
        for name, parameter in inspect.signature(kernel.fn).parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                arguments.setdefault(name, parameter.default)
        grid = executor.grid(arguments) if callable(executor.grid) else executor.grid
        launches.append(Launch(kernel, tuple(grid), arguments, options))  # type: ignore[arg-type]

    with replaced(GridExecutor, __call__=call):
        yield launches


def _kernel_of(function: Callable) -> Any:
    """What ``triton.jit`` returned for ``function``, which the interpreter hands on bare."""
    return getattr(sys.modules[function.__module__], function.__name__)


def case_of(launch: Launch, name: str) -> Case:
    """The case that Triton would compile for ``launch``, by the rules of Triton itself.

    A tensor becomes a pointer to its type, a number 1 a constant, and multiples of 16 are known as such, unless the
    kernel says ``do_not_specialize``.

    Args:
        launch: What was recorded.
        name: What to call the case in reports.
    """
    constants, signature, aligned = dict[str, Any](), dict[str, Type](), []
    for parameter in inspect.signature(launch.kernel.fn).parameters.values():
        value = launch.arguments[parameter.name]
        if parameter.annotation in (triton.language.constexpr, "tl.constexpr"):
            constants[parameter.name] = value
            continue
        special = parameter.name not in (launch.kernel.kwargs["do_not_specialize"] or ())
        kind, key = native_specialize_impl(BaseBackend, value, False, special, special)
        if kind == CONSTANT:
            constants[parameter.name] = value
        else:
            signature[parameter.name] = kind
            aligned += [parameter.name] * all(part == "D" for part in (key if isinstance(kind, tuple) else (key,)))
    return Case(name, launch.kernel, signature, constants, **launch.options, divisible_by_16=tuple(aligned))


def same_code(case: Case) -> tuple:
    """What decides over the code of ``case``: equal for two cases that compile to the same."""
    constants = sorted((name, str(value)) for name, value in case.constants.items())
    aligned = tuple(sorted(case.divisible_by_16 or ()))
    kernel = (case.kernel.fn.__module__, case.kernel.__name__)
    options = (case.num_warps, case.num_stages, case.maxnreg)
    return kernel, tuple(case.signature.items()), tuple(constants), options, aligned
