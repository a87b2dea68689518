"""A command line from a dataclass by the standard library alone: a bare GPU machine has no tyro."""

import argparse
import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def parsed(kind: type[T], arguments: Sequence[str], about: str | None) -> T:
    """The fields of ``kind``, each by an option of its name; a tuple takes several words, a flag none."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        parser.add_argument(f"--{field.name}", default=field.default, **_form(hints[field.name]))
    values = vars(parser.parse_args(arguments))
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _form(hint: Any) -> dict[str, Any]:
    if hint is bool:
        return {"action": "store_true"}
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return {"nargs": "+", "type": parts[0]}
    if typing.get_origin(hint) is typing.Literal:
        return {"choices": parts}
    return {"type": Path if Path in (hint, *parts) else str if str in parts else hint}
