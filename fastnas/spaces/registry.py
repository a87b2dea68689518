"""The spaces by name: the library's own, and those that users register."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

from fastnas.errors import invalid, suggest
from fastnas.spaces.cell_space import (
    DARTS,
    GDAS_FRC,
    NASBENCH201,
    S1,
    S2,
    S3,
    S4,
    SHARPDARTS,
    SHARPERDARTS,
)
from fastnas.spaces.chain_space import PROXYLESS, proxyless
from fastnas.spaces.graph_space import DSO, DSO_FULL, dso
from fastnas.spaces.space import Space

_LIBRARY = (DARTS, NASBENCH201, S1, S2, S3, S4, SHARPDARTS, SHARPERDARTS, GDAS_FRC, PROXYLESS, DSO, DSO_FULL)
_SPACES: dict[str, Space] = {space.name: space for space in _LIBRARY}
SPACES: Mapping[str, Space] = MappingProxyType(_SPACES)
"""Every registered space by its name, in the order of registration."""
_BY_DEPTH = {"proxyless": proxyless, "dso_full": dso}  # <name>_<blocks in a stage>


def register_space(space: Space) -> Space:
    """Make ``space`` known by its name, for genotypes, the command line and :func:`space_by_name`.

    Args:
        space: A space of your own.

    Raises:
        ValueError: If another space has that name already.

    Example:
        >>> from dataclasses import replace
        >>> from fastnas.spaces import DARTS, list_spaces, register_space
        >>> primitives = ("skip_connect", "sep_conv_3x3", "max_pool_3x3")
        >>> space = register_space(replace(DARTS, name="three", primitives=primitives))
        >>> list_spaces("th*")
        ['three']
    """
    if SPACES.get(space.name, space) != space:
        raise invalid("register_space", "name must be a new one", repr(space.name), "Rename yours.")
    _SPACES[space.name] = space
    return space


def list_spaces(pattern: str = "*") -> list[str]:
    """Names of the registered spaces that match a shell pattern, in the order of registration.

    Args:
        pattern: With ``*``, ``?`` and ``[...]`` as in a shell.

    Example:
        >>> from fastnas.spaces import list_spaces
        >>> list_spaces("*darts")
        ['darts', 'sharpdarts', 'sharperdarts']
    """
    return [name for name in _SPACES if fnmatchcase(name, pattern)]


def space_by_name(name: str, own: Space | None = None) -> Space:
    """The space that is registered under ``name``.

    Args:
        name: One of :func:`list_spaces`, ``proxyless_<blocks in a stage>`` or ``dso_full_<blocks>``, or the name of
            ``own``; hyphens, blanks and capitals do not matter.
        own: A space that is not registered.

    Raises:
        ValueError: If there is no such space; the message names the nearest one.

    Example:
        >>> from fastnas.spaces import space_by_name
        >>> space_by_name("NASBench201").num_nodes
        3
    """
    if own is not None and own.name == name:
        return own
    plain = name if name in _SPACES else name.lower().replace("-", "_").replace(" ", "_")
    if plain in _SPACES:
        return _SPACES[plain]
    deep = re.fullmatch(rf"({'|'.join(_BY_DEPTH)})_([1-9]\d?)", plain)
    if deep is not None:
        return _BY_DEPTH[deep[1]](int(deep[2]))
    names = [*_SPACES] if own is None else [own.name, *_SPACES]
    rule = "name must be a registered space, FILE.py:NAME or module:name"
    raise invalid("space", rule, repr(name), suggest(plain, names))
