"""Plain values that a forward reads: they may change during training, so they are compared again at every step."""

import copy
import enum
import inspect
import sys
import types
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from fastnas.acceleration.primitives import Unrecognised

OF_EVERY_MODULE = frozenset({*dir(nn.Module), *vars(nn.Module())}) - {"training"}
_READ_BY_ENGINE = frozenset(("momentum", "training", "num_batches_tracked", "running_mean", "running_var"))


@dataclass(frozen=True)
class Guard:
    """A plain value that a forward reads, and that must not have changed when the engine stands in for it.

    Args:
        owner: Name of the part that holds it, or of the Python module, if ``is_global``.
        path: Attributes that lead to it.
        value: As it was.
        is_global: Whether ``owner`` is a Python module.
    """

    owner: str
    path: tuple[str, ...]
    value: object = field(hash=False)
    is_global: bool = False

    def read(self, module: nn.Module) -> object:
        """The value now."""
        start: Any = sys.modules[self.owner] if self.is_global else module.get_submodule(self.owner)
        for name in self.path:
            start = getattr(start, name)
        return start

    def __str__(self) -> str:
        return ".".join([*([self.owner] if self.owner else []), *self.path])


class OtherThan(str):
    """Stands for every word but those that it was compared with; whoever asks it for anything else is refused."""

    words: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str) and not isinstance(other, OtherThan):
            self.words = (*self.words, str(other))
        return self is other

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __getattribute__(self, name: str) -> object:
        if name.startswith("__") or name in ("words", "matches"):
            return super().__getattribute__(name)
        raise Unrecognised(f"it asks the word that selects its mode for {name}")

    def __hash__(self) -> int:
        raise Unrecognised("it looks up the word that selects its mode")

    __len__ = __getitem__ = __iter__ = __contains__ = __lt__ = __gt__ = __le__ = __ge__ = __add__ = __hash__  # type: ignore[assignment]
    __mod__ = __mul__ = __rmul__ = __format__ = __str__ = __hash__  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "other than " + " and ".join(map(repr, dict.fromkeys(self.words)))

    def matches(self, word: object) -> bool:
        """Whether it stands for ``word``."""
        return type(word) is str and word not in self.words


def read_state(part: nn.Module) -> dict[str, object]:
    """All attributes of ``part``: plain ones by value, others by identity; buffers are compared elsewhere."""
    held = {name: value for name, value in vars(part).items() if name not in ("_buffers", "_parameters", "_modules")}
    state = {name: copy.deepcopy(value) if is_plain(value) else value for name, value in held.items()}
    for table in ("_parameters", "_buffers", "_modules"):
        state |= {f"{table}.{name}": value for name, value in vars(part)[table].items()}
    return state


def require_untouched(owner: str, before: dict[str, object], after: dict[str, object]) -> None:
    for name in {**before, **after}:
        if name not in after or name not in before or not is_same(before[name], after[name]):
            raise Unrecognised(f"its forward sets the attribute {name} of {owner}")


def is_plain(value: object) -> bool:
    """Whether ``value`` is data that can be compared: numbers, text, and tuples, lists and dictionaries of them."""
    if value is None or isinstance(
        value, (bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, slice, range)
    ):
        return True
    if isinstance(value, (tuple, list, set, frozenset)):
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(is_plain(k) and is_plain(v) for k, v in value.items())
    return False


def is_constant(value: object) -> bool:
    """Whether ``value`` is plain and cannot be changed in place."""
    try:
        hash(value)
    except TypeError:
        return False
    return is_plain(value)


def is_same(one: object, other: object) -> bool:
    return one is other or (is_plain(one) and is_plain(other) and type(one) is type(other) and bool(one == other))


def guard_reads(
    parts: dict[str, nn.Module], reads: set[tuple[str, str]], evaluated: Collection[str]
) -> tuple[list[Guard], list[str]]:
    guards, modes = [], []
    for owner, attribute in sorted(reads):
        part, label = parts[owner], f"{owner}.{attribute}" if owner else attribute
        from_torch = type(part).__module__.startswith("torch.")
        if attribute == "training":
            if not from_torch:
                modes.append(owner)
        elif attribute in part._parameters or attribute in part._buffers:
            if owner not in evaluated:
                raise Unrecognised(f"its forward reads {label}, a tensor that the engine does not know")
        elif attribute not in part._modules and not (from_torch and attribute in _READ_BY_ENGINE):
            value = inspect.getattr_static(part, attribute, None)
            if is_plain(value):
                guards.append(Guard(owner, (attribute,), copy.deepcopy(value)))
            elif not is_code(value):
                kind = type(value).__name__
                raise Unrecognised(f"its forward reads {label}, of type {kind}, which may change during training")
    return guards, modes


def is_code(value: object) -> bool:
    return isinstance(
        value,
        (types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType,
         types.GetSetDescriptorType, staticmethod, classmethod, property, types.MemberDescriptorType),
    )  # fmt: skip


hook_tables: Callable[[nn.Module], tuple[dict[int, Any], ...]] = attrgetter(
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
)
"""Where PyTorch keeps the hooks of a module; hundreds of them are asked at every step."""
