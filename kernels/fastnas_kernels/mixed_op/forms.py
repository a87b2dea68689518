# pyright: reportArgumentType=false
# (Triton's annotations do not describe what a launch accepts)
"""The forms in which one cell at one size and dtype launches kernels, and what Triton made of each.

Triton reads each argument by name to find out which code serves it, which takes as long as five bare launches. Of one
cell at one size and dtype, only these decide: the form, which is the constants in which launches of a kernel differ;
which tensors are missing; and whether memory begins at multiples of 16 bytes.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from torch import Tensor
from triton.runtime.jit import JITFunction

from fastnas_kernels.compilation import is_compiling_ahead

Start = Callable[..., None]


class _Compiled(NamedTuple):
    """What Triton made of a kernel in a form, and how its arguments are put in their order."""

    code: Any
    pointers: tuple[str, ...]
    constants: dict[str, Any]
    """Those of the form, and ``None`` for what a launch leaves out."""
    arguments: Callable[[dict[str, Any]], tuple]

    @classmethod
    def of(cls, code: Any, names: Sequence[str], given: dict[str, Any], form: dict[str, Any]) -> "_Compiled":
        pointers = tuple(name for name, value in given.items() if isinstance(value, Tensor))
        absent = dict.fromkeys(name for name in names if name not in given)
        return cls(code, pointers, absent | form, itemgetter(*names))

    def is_aligned(self, given: dict[str, Any]) -> bool:
        """Whether all memory begins at multiples of 16 bytes, as the code takes for granted."""
        addresses = 0
        for name in self.pointers:
            addresses |= given[name].data_ptr()
        return addresses % 16 == 0


class Forms:
    """Launches kernels, of which Triton compiles each form once."""

    def __init__(self) -> None:
        self._compiled: dict[tuple, _Compiled] = {}

    def start(self, kernel: Any, grid: tuple[int, ...], form: dict[str, Any], **given: Any) -> None:
        """Launch ``kernel`` in a ``form`` with what else is ``given``."""
        if type(kernel) is not JITFunction or is_compiling_ahead():
            kernel[grid](**form, **given)
            return
        key = (id(kernel), given.get("out_ptr", 0) is None, *form.values())  # a kernel's own hash is one of its source
        found = self._compiled.get(key)
        if found is None or not found.is_aligned(given):
            found = _Compiled.of(kernel[grid](**form, **given), kernel.arg_names, given, form)
            if found.is_aligned(given):
                self._compiled[key] = found
            return
        given |= found.constants
        found.code[(*grid, 1, 1)[:3]](*found.arguments(given))
