"""The methods by name: the library's own, and those that users register."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, TypeVar

from fastnas.errors import invalid, require_type, suggest
from fastnas.methods.method import Method
from fastnas.user_code import load_user_object, names_code, run_user_code

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
    rule = "name must be a registered method, FILE.py:NAME or module:name"
    raise invalid("method", rule, repr(name), suggest(plain, _METHODS))


def as_method(method: object, where: str = "method") -> Method:
    """Return a method, from the method itself, a function that returns one, or a name.

    Args:
        method: A :class:`Method`; one of :func:`list_methods`; ``FILE.py:NAME`` or ``module:name`` of your own, which
            is executed; or a function without arguments, as ``fastnas.methods.darts``.
        where: The beginning of errors.

    Raises:
        ValueError: If it is none of these, or your code fails.

    Example:
        >>> import fastnas.methods
        >>> fastnas.methods.as_method("gdas") == fastnas.methods.as_method(fastnas.methods.gdas)
        True
    """
    what = "method"
    if isinstance(method, str):
        if not names_code(method):
            return method_by_name(method)
        what, method = method, load_user_object(method, "method")
    if callable(method) and not isinstance(method, type):
        recipe = method
        method = run_user_code(recipe, f"{what}()", None, where)
    return require_type(where, what, method, Method, "The order of arguments is space, method, data.")


def summarize(recipe: Callable[..., Method]) -> str:
    """What a method does: its docstring up to the source."""
    return " ".join((recipe.__doc__ or "").replace("``", "").split()).split(" (")[0]
