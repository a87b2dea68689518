"""The methods by name: the library's own, and those that users register."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, TypeVar

from fastnas.errors import invalid
from fastnas.methods.method import Method

Recipe = TypeVar("Recipe", bound=Callable[..., Method])

_METHODS: dict[str, Callable[..., Method]] = {}
METHODS: Mapping[str, Callable[..., Method]] = MappingProxyType(_METHODS)
"""Every registered function by its name, in the order of registration."""


def register_method(recipe: Recipe) -> Recipe:
    """Register a function that returns a method under the function's name, as a decorator.

    Args:
        recipe: A function that can be called without arguments; its docstring is what ``fastnas methods`` prints.

    Raises:
        ValueError: If another function has that name already.

    Example:
        >>> from dataclasses import replace
        >>> import fastnas.methods as methods
        >>> @methods.register_method
        ... def slow_darts():
        ...     "DARTS whose alpha waits for half of the epochs."
        ...     return replace(methods.darts(), name="slow_darts", warmup_share=0.5)
        >>> methods.list_methods("slow*")
        ['slow_darts']
    """
    name = recipe.__name__
    known = _METHODS.get(name, recipe)
    if (known.__module__, known.__qualname__) != (recipe.__module__, recipe.__qualname__):
        raise invalid("register_method", f"{name} must be a new name", f"one of {known.__module__}", "Rename yours.")
    _METHODS[name] = recipe
    return recipe


def list_methods(pattern: str = "*") -> list[str]:
    """Names of the registered methods that match a shell pattern, in the order of registration.

    Args:
        pattern: With ``*``, ``?`` and ``[...]`` as in a shell.

    Example:
        >>> import fastnas.methods
        >>> fastnas.methods.list_methods("pc_*")
        ['pc_darts', 'pc_darts_imagenet']
    """
    return [name for name in _METHODS if fnmatchcase(name, pattern)]


def method_by_name(name: str, **options: Any) -> Method:
    """Make the method that is registered under ``name``.

    Args:
        name: One of :func:`list_methods`; hyphens, blanks and capitals do not matter.
        options: Arguments of its function, ``k=2`` for ``pc_darts``.

    Raises:
        ValueError: If there is no such method; the message names the nearest one.

    Example:
        >>> import fastnas.methods
        >>> fastnas.methods.method_by_name("PC-DARTS", k=2).name
        'pc_darts'
    """
    plain = name.lower().replace("-", "_").replace(" ", "_")
    if plain in _METHODS:
        return _METHODS[plain](**options)
    close = get_close_matches(plain, _METHODS, n=1)
    remedy = f"Did you mean {close[0]}?" if close else f"Known are {', '.join(_METHODS)}."
    raise invalid("method", "name must be a registered method", repr(name), remedy)


def summarize(recipe: Callable[..., Method]) -> str:
    """What a method does: its docstring up to the source."""
    return " ".join((recipe.__doc__ or "").replace("``", "").split()).split(" (")[0]
