"""Code of users, named as ``FILE.py:NAME`` or ``module:name``; what goes wrong in it is said in one line."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

from fastnas.errors import invalid


def names_code(name: str) -> bool:
    """Whether ``name`` stands for code to run, and not for something that is registered."""
    return ":" in name


def load_user_object(name: str, what: str) -> Any:
    """Import the object that ``name`` stands for. The file or the module is executed.

    Args:
        name: ``FILE.py:NAME`` or ``module:name``; the working directory is searched for modules.
        what: What it is to be, for errors: ``method`` or ``space``.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise invalid(what, "code must be named as FILE.py:NAME or module:name", repr(name))
    is_file = place.endswith(".py") or "/" in place
    module = _execute_file(Path(place).expanduser(), what) if is_file else _import_module(place, what)
    found = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise invalid(what, f"{place} must define {attribute}", "nothing of that name")
        found = getattr(found, part)
    return found


def run_user_code(run: Callable[[], Any], what: str, file: Path | None, where: str) -> Any:
    """Return the result of ``run``; what goes wrong becomes one line that says where."""
    try:
        return run()
    except (Exception, SystemExit) as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if file is not None and Path(frame.filename) == file.resolve()
        ]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        at = f" in line {line}" if line else ""
        got = f"{type(error).__name__}{at}: {' '.join(str(error).split()).rstrip('.')}"
        raise invalid(where, f"{what} must run", got) from error


def _execute_file(file: Path, what: str) -> Any:
    if file.suffix != ".py" or not file.is_file():
        raise invalid(what, "FILE.py:NAME must name a Python file", str(file))
    path = file.resolve()
    spec = importlib.util.spec_from_file_location(f"fastnas_user_{crc32(str(path).encode()):08x}_{file.stem}", path)
    if spec is None or spec.loader is None:
        raise invalid(what, "FILE.py:NAME must name a Python file", str(file))
    loader, module = spec.loader, importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # the file may import what lies beside it
    sys.modules[spec.name] = module  # dataclasses and pickling look a class's module up there
    run_user_code(lambda: loader.exec_module(module), str(file), file, what)
    return module


def _import_module(name: str, what: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # a console script does not look there
    return run_user_code(lambda: importlib.import_module(name), name, None, what)
