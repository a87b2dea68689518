"""Errors: one line that says what is wrong, by which rule, what was given, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fastnas_kernels.check import Unavailable, complaint, invalid

__all__ = ["Unavailable", "complaint", "invalid", "require_field_types", "require_type", "suggest"]

T = TypeVar("T")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean …?" with the nearest of the known names, or all of them if none is near."""
    known = list(known)
    close = get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]}?" if close else f"Known are {', '.join(known)}."


def require_type(where: str, name: str, value: object, kind: type[T], remedy: str = "") -> T:
    """Return ``value`` if it is a ``kind``."""
    if isinstance(value, kind):
        return value
    raise invalid(where, f"{name} must be {_article(kind.__name__)} {kind.__name__}", describe(value), remedy)


_NUMBERS: dict[Any, tuple[type, str]] = {int: (Integral, "a whole number"), float: (Real, "a number")}


def require_field_types(config: object) -> None:
    """Raise unless the fields of a dataclass hold what their annotations say, choices among them. By hand, since
    settings are made on machines without pydantic, too (profiling/gpu.py)."""
    for name, hint in _read_hints(type(config)).items():
        value = getattr(config, name)
        if not _fits(value, hint):
            where, got = type(config).__name__, repr(value) if isinstance(value, int | float) else describe(value)
            close = get_close_matches(str(value), map(str, get_args(hint)), n=1)
            raise invalid(where, f"{name} must be {_name(hint)}", got, f"Did you mean {close[0]}?" if close else "")


@cache
def _read_hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: object, hint: Any) -> bool:
    if hint is Any or hint is NoneType:
        return hint is Any or value is None
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:  # its choices have an error of their own
        kinds = {part for part in parts if part is not Ellipsis and get_origin(part) is not Literal}
        return isinstance(value, tuple | list) and all(any(_fits(x, kind) for kind in kinds) for x in value if kinds)
    if hint in _NUMBERS:
        return isinstance(value, _NUMBERS[hint][0]) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _name(hint: Any) -> str:
    parts = [part for part in get_args(hint) if part is not NoneType]
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_name, parts))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if get_origin(hint) is tuple:
        return f"a tuple of {_name(parts[0]).removeprefix('a ')}s"
    if hint in _NUMBERS:
        return _NUMBERS[hint][1]
    return {bool: "True or False", str: "a string"}.get(hint) or f"{_article(hint.__name__)} {hint.__name__}"


def describe(value: object) -> str:
    """Name a value of a wrong type briefly: its type, and what it is called."""
    name = getattr(value, "name", None) or getattr(value, "__name__", None)
    kind = type(value).__name__
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:57]}...")
    if isinstance(name, str):
        return f"the {kind} {name!r}"
    return "None" if value is None else f"{_article(kind)} {kind}"


def _article(word: str) -> str:
    return "an" if word[0] in "AEIOaeio" else "a"
