"""Stand-ins for packages that a bare GPU machine lacks and that no measurement calls.

The library names them while it is imported, for configurations, image files and the command line. A stand-in gives a
class for every name, which may be called, decorate and be derived from while a module is read, and means nothing.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

SPARED = ("pydantic", "tyro", "tyro.conf", "simplejpeg", "torchvision", "psutil", "pynvml")


class _Anything:
    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __init_subclass__(cls, **_: Any) -> None:
        pass

    def __call__(self, *given: Any, **_: Any) -> Any:
        return given[0] if len(given) == 1 and callable(given[0]) else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()

    def __class_getitem__(cls, _: Any) -> Any:
        return cls


class _Absent(ModuleType):
    __path__: tuple = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        kind = (ValueError,) if name.endswith("Error") else (_Anything,)
        found = type(name, kind, {})
        setattr(self, name, found)
        return found


def stand_in() -> list[str]:
    """Put a stand-in wherever one of :data:`SPARED` is not installed; returns the names of those packages."""
    missing = [name for name in SPARED if name.partition(".")[0] not in sys.modules and not _is_installed(name)]
    for name in missing:
        sys.modules[name] = _Absent(name)
    return missing


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
