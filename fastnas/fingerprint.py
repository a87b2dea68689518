"""Whether two configurations are the same: a digest of a nest of values and functions."""

import ast
import hashlib
import inspect
import io
import tokenize
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial, singledispatch
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor


def fingerprint(value: Any) -> str:
    """Sixteen hexadecimal digits that two values share if they say the same, in this process or in another one.

    Frozen dataclasses, named tuples, mappings and sequences count by their type and content, tensors by their bytes.
    A field of a dataclass whose metadata say ``fingerprint=False`` does not count.
    A function of a module counts by its name; a lambda, or a function made inside another one, by its source and by
    what it closes over, so that another Python agrees.
    """
    return hashlib.sha256(_text(value).encode()).hexdigest()[:16]


@singledispatch
def _text(value: Any) -> str:
    if is_dataclass(value):
        counted = [field.name for field in fields(value) if field.metadata.get("fingerprint", True)]
        return _named(value, {name: getattr(value, name) for name in counted})
    attributes = getattr(value, "__dict__", None)
    return repr(value) if attributes is None else _named(value, attributes)


@_text.register
def _(value: Tensor) -> str:
    content = value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{value.dtype}{list(value.shape)}{hashlib.sha256(content).hexdigest()}"


@_text.register
def _(value: partial) -> str:
    return f"partial({_text(value.func)}, {_text(value.args)}, {_text(value.keywords)})"


@_text.register
def _(value: type) -> str:
    return f"{value.__module__}.{value.__qualname__}"


@_text.register
def _(value: Mapping) -> str:
    return f"{{{', '.join(sorted(f'{_text(key)}: {_text(part)}' for key, part in value.items()))}}}"


@_text.register
def _(value: tuple | list) -> str:
    return f"{_text(type(value))}({', '.join(map(_text, value))})"


@_text.register
def _(value: Set) -> str:
    return f"{_text(type(value))}({', '.join(sorted(map(_text, value)))})"


def _named(value: object, attributes: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{name}={_text(part)}" for name, part in attributes.items())
    return f"{_text(type(value))}({parts})"


@_text.register
def _(function: FunctionType) -> str:
    name = f"{function.__module__}.{function.__qualname__}"
    if "<" not in function.__qualname__:  # <lambda>, or <locals>: another one may have that name
        return name
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return (
        f"{name}({_source(function)}, {_text(cells)}, {_text(function.__defaults__)}, {_text(function.__kwdefaults__)})"
    )


def _source(function: FunctionType) -> str:
    """The words of a function without comments and spaces: its code is another one under another Python, and joblib
    cannot hash it. Where there is no source, as in an interactive session, the code has to do."""
    code = function.__code__
    try:
        text = "".join(inspect.findsource(function)[0])
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Lambda | ast.FunctionDef)]
    except (OSError, TypeError, SyntaxError):
        return _code(code)
    # Of several on one line it is the innermost one around all instructions; those without a width stand for no text
    spans = [(line, column) for line, _, column, end in code.co_positions() if line and (end or 0) > (column or 0)]
    around = [node for node in nodes if spans and _start(node) <= min(spans) and max(spans) <= _end(node)]
    if not around:
        return _code(code)
    source = ast.get_source_segment(text, max(around, key=_start)) or ""
    left_out = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    words: list[str] = []
    with suppress(tokenize.TokenError, IndentationError):
        tokens = tokenize.generate_tokens(
            io.StringIO(f"({source})" if source.startswith("lambda") else source).readline
        )
        words.extend(token.string for token in tokens if token.type not in left_out)
    return "".join(words)


def _start(node: ast.expr | ast.stmt) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _end(node: ast.expr | ast.stmt) -> tuple[int, int]:
    return node.end_lineno or node.lineno, node.end_col_offset or 0


def _code(code: CodeType) -> str:
    constants = [_code(part) if isinstance(part, CodeType) else repr(part) for part in code.co_consts]
    return f"{code.co_code.hex()} {constants} {code.co_names}"
