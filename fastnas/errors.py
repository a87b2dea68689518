"""Errors: one line that says what is wrong, by which rule, what was given, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypeVar

from fastnas_kernels.check import Unavailable, complaint, invalid

__all__ = ["Unavailable", "complaint", "invalid", "require_type", "suggest"]

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
