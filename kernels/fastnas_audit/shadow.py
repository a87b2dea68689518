"""Remembers, for every element of a storage, which programs of a launch have read and written it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor

Kind = Literal["read", "write", "atomic"]
KINDS: tuple[Kind, ...] = ("read", "write", "atomic")
NOBODY = -1
SECTOR_BYTES = 32  # the least that a GPU moves between its memory and its caches


def tensors_in(name: str, argument: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in a kernel's ``argument``, be it a tensor, a descriptor of one, or a tuple of such; with names."""
    if isinstance(argument, Tensor):
        yield name, argument
    elif isinstance(argument, tuple):
        for i, item in enumerate(argument):
            yield from tensors_in(f"{name}[{i}]", item)
    elif hasattr(argument, "base"):  # a tensor descriptor, or a tensor seen as another type
        yield from tensors_in(name, argument.base)


def _elements_of(tensor: Tensor, num_bytes: int) -> np.ndarray:
    """Which of the elements that fit in the storage of ``num_bytes`` belong to this view of it (bool)."""
    mine = np.zeros(num_bytes // tensor.element_size(), dtype=bool)
    if tensor.numel():
        np.lib.stride_tricks.as_strided(mine[tensor.storage_offset() :], tuple(tensor.shape), tensor.stride())[...] = (
            True
        )
    return mine


@dataclass
class Shadow:
    """One storage and who touched it.

    Programs come one after the other and are numbered in that order. So two numbers an element and kind of access are
    enough: the first program tells the current one whether *another* was there before, the last one whether it was
    there *itself*. This keeps the check exact and its cost linear in the number of accesses.

    Attributes:
        base: Address of the first byte.
        num_bytes: Size of the storage.
        granule: Bytes that one entry of the arrays stands for: the largest size that divides every access so far.
        allowed: Whether an argument of the launch holds the granule.
        first: The first program that touched a granule, for each kind; ``NOBODY`` where none did.
        last: The last one.
        last_in_sector: The last program that touched a sector.
    """

    base: int
    num_bytes: int
    granule: int
    allowed: np.ndarray
    first: dict[Kind, np.ndarray] = field(init=False)
    last: dict[Kind, np.ndarray] = field(init=False)
    last_in_sector: dict[Kind, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        sectors = -(-self.num_bytes // SECTOR_BYTES)
        self.first = {kind: np.full(self.allowed.size, NOBODY, np.int32) for kind in KINDS}
        self.last = {kind: np.full(self.allowed.size, NOBODY, np.int32) for kind in KINDS}
        self.last_in_sector = {kind: np.full(sectors, NOBODY, np.int32) for kind in KINDS}

    def split(self, granule: int) -> None:
        """Let an entry stand for ``granule`` bytes, a divisor of what it stands for now."""
        times = self.granule // granule
        self.granule = granule
        self.allowed = np.repeat(self.allowed, times)
        self.first = {kind: np.repeat(entries, times) for kind, entries in self.first.items()}
        self.last = {kind: np.repeat(entries, times) for kind, entries in self.last.items()}

    def granules_of(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """The granules ``[lanes, size / granule]`` under accesses of ``size`` bytes at byte ``offsets [lanes]``."""
        if size % self.granule or (offsets % self.granule).any():
            self.split(math.gcd(self.granule, size, int(np.gcd.reduce(offsets))))
        return (offsets // self.granule)[:, None] + np.arange(size // self.granule)

    def others(self, kind: Kind, granules: np.ndarray, program: int) -> int:
        """How many of ``granules`` a program other than the current one has touched in the way ``kind``."""
        first = self.first[kind][granules]
        return int(np.count_nonzero((first != NOBODY) & (first != program)))

    def own(self, kind: Kind, granules: np.ndarray, program: int) -> int:
        """How many of ``granules`` the current program has touched in the way ``kind``."""
        return int(np.count_nonzero(self.last[kind][granules] == program))

    def touch(self, kind: Kind, granules: np.ndarray, program: int) -> tuple[int, int]:
        """Enter an access to ``granules``, ascending; return the bytes and sectors that are new to this program."""
        new = granules.size - self.own(kind, granules, program)
        first = self.first[kind]
        first[granules] = np.where(first[granules] == NOBODY, program, first[granules])
        self.last[kind][granules] = program
        sectors = granules * self.granule // SECTOR_BYTES
        sectors = sectors[np.diff(sectors, prepend=-1) > 0]
        last = self.last_in_sector[kind]
        new_sectors = int(np.count_nonzero(last[sectors] != program))
        last[sectors] = program
        return new * self.granule, new_sectors

    def touched(self, *kinds: Kind) -> tuple[int, int]:
        """The different bytes and sectors that the launch has touched in one of the ways ``kinds``."""
        granules = np.logical_or.reduce([self.first[kind] != NOBODY for kind in kinds])
        sectors = np.logical_or.reduce([self.last_in_sector[kind] != NOBODY for kind in kinds])
        return int(np.count_nonzero(granules)) * self.granule, int(np.count_nonzero(sectors))


def distinct(granules: np.ndarray) -> np.ndarray:
    """The different entries of ``granules`` of any shape, ascending; fast where they ascend already."""
    flat = granules.ravel()
    return flat if (np.diff(flat) > 0).all() else np.unique(flat)


def shadows_of(tensors: Sequence[Tensor]) -> list[Shadow]:
    """One shadow for each storage under ``tensors``, in the order of their addresses."""
    by_storage: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.untyped_storage().nbytes():
            by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append(tensor)
    shadows = []
    for base, views in sorted(by_storage.items()):
        num_bytes = views[0].untyped_storage().nbytes()
        granule = math.gcd(num_bytes, *(view.element_size() for view in views))
        allowed = np.zeros(num_bytes // granule, dtype=bool)
        for view in views:
            mine = np.repeat(_elements_of(view, num_bytes), view.element_size() // granule)
            allowed[: mine.size] |= mine
        shadows.append(Shadow(base, num_bytes, granule, allowed))
    return shadows


def span_of(tensor: Tensor) -> tuple[int, int]:
    """The addresses of the first byte of ``tensor`` and of the first one after its last element."""
    if not tensor.numel():
        return tensor.data_ptr(), tensor.data_ptr()
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()


def place_of(address: int, size: int, tensors: Sequence[tuple[str, Tensor]]) -> str:
    """Words for where ``address``, which no argument holds, lies relative to the nearest of the named ``tensors``."""

    def gap(span: tuple[int, int]) -> int:
        return max(span[0] - address, address + size - span[1], 0)

    named = [(name, span_of(tensor)) for name, tensor in tensors if tensor.numel()]
    if not named:
        return "and no argument has an element"
    name, (start, end) = min(named, key=lambda entry: gap(entry[1]))
    far = -(-gap((start, end)) // size)
    elements = f"{far} element{'s' * (far != 1)}"
    if address < start:
        return f"{elements} before the start of {name}"
    if address + size > end:
        return f"{elements} beyond the end of {name}"
    return f"between the elements of {name}, a view with gaps"
