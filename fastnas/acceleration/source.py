"""What the code of a foreign forward reads outside of its module, found in its bytecode: all branches are there."""

import copy
import dis
import inspect
import sys
import types
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastnas.acceleration.guards import OF_EVERY_MODULE, Guard, is_code, is_constant, is_plain
from fastnas.acceleration.primitives import Unrecognised


def read_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OF_TORCH = read_words("""
    is_grad_enabled is_inference_mode_enabled is_autocast_enabled is_autocast_cpu_enabled get_default_dtype initial_seed
    get_rng_state set_rng_state manual_seed seed get_num_threads set_grad_enabled
""")
_STANDARD = read_words("math operator itertools functools collections typing types enum numbers abc")
_REFUSED_BUILTINS = read_words("""
    globals locals vars eval exec open input id hash __import__ setattr delattr getattr hasattr print type
""")
_REFUSED_ATTRIBUTES = frozenset(("__class__", "__dict__", "__globals__", "__code__", "__self__", "__func__"))
_TORCH = str(Path(torch.__file__).parent)
_LIBRARY = str(Path(inspect.__file__).parent)
_OURS = str(Path(__file__).parent)


def is_foreign(code: types.CodeType) -> bool:
    return not code.co_filename.startswith((_TORCH, _OURS)) and not (
        code.co_filename.startswith((_LIBRARY, "<frozen")) and "site-packages" not in code.co_filename
    )


def guard_code(parts: dict[str, nn.Module], reads: set[tuple[str, str]], drops: bool = False) -> list[Guard]:
    """What the code of all parts reads outside of them, in the branches that did not run as well.

    If it ``drops``, functions of plain numbers are refused: what they make of a probability cannot be watched.
    """
    kinds = {type(part) for part in parts.values()}
    todo: list[object] = [kind.forward for kind in kinds]
    todo += [inspect.getattr_static(parts[owner], attribute, None) for owner, attribute in reads]
    seen: set[int] = set()
    guards = {}
    while todo:
        function = todo.pop()
        if drops and isinstance(function, types.BuiltinFunctionType) and function.__module__ == "math":
            raise Unrecognised(f"its forward calls math.{function.__name__}")
        if isinstance(function, (staticmethod, classmethod, types.MethodType)):
            function = function.__func__
        if isinstance(function, property):
            function = function.fget
        if not isinstance(function, types.FunctionType) or id(function) in seen:
            continue
        seen.add(id(function))
        todo += _around(function)
        if is_foreign(function.__code__):
            for found in _scan(function, kinds):
                if isinstance(found, Guard):
                    guards[str(found)] = found
                else:
                    todo.append(found)
    return list(guards.values())


def _around(function: types.FunctionType) -> Iterator[object]:
    """The functions in the scope around ``function``; anything else in it may change."""
    foreign = is_foreign(function.__code__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        value = cell.cell_contents
        if isinstance(value, types.FunctionType):
            yield value
        elif foreign and name != "__class__" and not isinstance(value, (type, types.ModuleType)):
            raise Unrecognised(f"its forward reads {name} of the scope around it, which may change")
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    if foreign and not all(map(is_constant, defaults)):
        raise Unrecognised(f"its forward calls {function.__name__}, whose defaults may change")


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _codes(inner)


def _scan(function: types.FunctionType, kinds: Collection[type]) -> Iterator[object]:
    """Guards on what ``function`` reads outside of itself, and the functions that it may call."""
    for code in _codes(function.__code__):
        for before, step in pairwise(dis.get_instructions(code)):
            if step.opname == "IS_OP" and not _loads_singleton(before):
                where = code.co_name
                raise Unrecognised(f"its forward compares identities ({where}): let it compare with == instead of is")
            if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and step.argval not in OF_EVERY_MODULE:
                yield from (value for kind in kinds if (value := inspect.getattr_static(kind, step.argval, None)))
        yield from _find_globals(code, function.__globals__)


def _find_globals(code: types.CodeType, scope: dict[str, Any]) -> Iterator[object]:
    steps = list(dis.get_instructions(code))
    for number, step in enumerate(steps):
        if step.opname in ("STORE_ATTR", "DELETE_ATTR"):
            raise Unrecognised(f"its forward sets the attribute {step.argval} ({code.co_name})")
        if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL", "IMPORT_NAME"):
            raise Unrecognised(f"its forward sets or imports {step.argval} ({code.co_name})")
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and step.argval in _REFUSED_ATTRIBUTES:
            raise Unrecognised(f"its forward reads {step.argval} ({code.co_name})")
        if step.opname not in ("LOAD_GLOBAL", "LOAD_NAME"):
            continue
        name = step.argval
        if name not in scope:
            if name in _REFUSED_BUILTINS:
                raise Unrecognised(f"its forward calls {name}()")
            continue
        path, value = [name], scope[name]
        for later in steps[number + 1 :]:
            if later.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                break
            if isinstance(value, types.FunctionType):
                raise Unrecognised(f"its forward reads {'.'.join(path)}.{later.argval}, an attribute of a function")
            if not isinstance(value, (types.ModuleType, type)) or not hasattr(value, later.argval):
                break
            _require_known(value, later.argval)
            value = getattr(value, later.argval)
            path.append(later.argval)
        if isinstance(value, type) and not issubclass(value, nn.Module) and _home(value) not in ("torch", "builtins"):
            yield from vars(value).values()
        yield value
        where = scope.get("__name__", "")
        yield from _guard_global(where, path, value, getattr(sys.modules.get(where), "__dict__", None) is scope)


def _loads_singleton(step: dis.Instruction) -> bool:
    return step.opname == "LOAD_CONST" and (step.argval is None or isinstance(step.argval, bool))


def _home(value: object) -> str:
    return (getattr(value, "__module__", None) or "").split(".")[0]


def _require_known(owner: object, name: str) -> None:
    if isinstance(owner, types.ModuleType):
        top = owner.__name__.split(".")[0]
        if top == "torch" and (name in _OF_TORCH or "random" in owner.__name__):
            raise Unrecognised(f"its forward calls torch.{name}")
        if (top in sys.stdlib_module_names and top not in _STANDARD) or top in ("numpy", "scipy"):
            raise Unrecognised(f"its forward calls {owner.__name__}.{name}")


def _guard_global(where: str, path: list[str], value: object, found: bool) -> Iterator[Guard]:
    label = ".".join(path)
    if isinstance(value, type) and issubclass(value, torch.autograd.Function):
        raise Unrecognised(f"its forward calls {label}, with a derivative of its own")
    if isinstance(value, (types.ModuleType, type)) or is_code(value):
        is_system = _home(value) in sys.stdlib_module_names - _STANDARD - {"builtins"} and not isinstance(value, type)
        if is_system or _home(value) == "numpy":
            raise Unrecognised(f"its forward calls {label}")
        return
    if not is_plain(value) or not found:
        kind = type(value).__name__
        raise Unrecognised(f"its forward reads the global {label}, of type {kind}, which may change during training")
    yield Guard(where, tuple(path), copy.deepcopy(value), is_global=True)
