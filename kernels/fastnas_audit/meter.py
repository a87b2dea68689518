"""Watches every access to memory of kernels that run in Triton's interpreter.

Checks are exact, not sampled: an access outside of the arguments raises, and accesses whose result depends on the order
of programs are counted. The amounts of memory moved follow a simple model of a GPU with perfect caches: what a launch
touches comes once from device memory, what a program touches once from the second cache, all that lanes request from
the first.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from torch import Tensor
from triton.runtime.errors import InterpreterError
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle

from fastnas_audit.interpreter import replaced, require_interpreter, root_of
from fastnas_audit.shadow import SECTOR_BYTES, Kind, Shadow, distinct, place_of, shadows_of, tensors_in
from fastnas_kernels.check import complaint


class OutOfBounds(IndexError):
    """A kernel touched memory that none of its arguments holds."""


@dataclass(frozen=True)
class Traffic:
    """What one or several launches of a kernel did to memory; sums over launches with ``+``.

    Attributes:
        kernel: Name of the kernel; of several different ones ``"*"``.
        launches: Number of launches.
        programs: Number of programs in them.
        read_bytes: Different bytes read in a launch: what comes from device memory (DRAM) if the caches are perfect.
        written_bytes: Different bytes written in a launch. Atomics read and write.
        read_sectors: Different 32-byte sectors read in a launch, storages taken to begin at a sector.
        written_sectors: Different 32-byte sectors written in a launch.
        program_bytes: Different bytes read, written and updated in a program: what passes the second cache (L2).
        program_sectors: The sectors of these.
        requested_bytes: Bytes of every access of every lane that is not masked: what passes the first cache (L1).
        dot_flops: Floating point operations in ``tl.dot``, two for a multiplication and addition.
        write_races: Elements that two lanes of one store, or a store and an earlier program, both write.
        order_dependences: Elements that a program reads and another one writes or updates, in either order: the result
            depends on the order in which programs happen to run.
        own_rereads: Elements that a program reads after it wrote them: right only behind a barrier, which the
            interpreter does not need and a GPU does.
        conflict: Words for the first race or order dependence, empty if there is none.
    """

    kernel: str
    launches: int = 1
    programs: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    read_sectors: int = 0
    written_sectors: int = 0
    program_bytes: int = 0
    program_sectors: int = 0
    requested_bytes: int = 0
    dot_flops: int = 0
    write_races: int = 0
    order_dependences: int = 0
    own_rereads: int = 0
    conflict: str = ""

    def __add__(self, other: "Traffic") -> "Traffic":
        counts = [entry.name for entry in fields(self) if entry.name not in ("kernel", "conflict")]
        return Traffic(
            kernel=self.kernel if self.kernel == other.kernel else "*",
            conflict=self.conflict or other.conflict,
            **{name: getattr(self, name) + getattr(other, name) for name in counts},
        )

    @property
    def dram_bytes(self) -> int:
        """Bytes read plus bytes written."""
        return self.read_bytes + self.written_bytes

    @property
    def sector_bytes(self) -> int:
        """Bytes of all sectors read and written: more than ``dram_bytes`` where parts of them stay unused."""
        return SECTOR_BYTES * (self.read_sectors + self.written_sectors)

    def over_floor(self, floor_bytes: int) -> float:
        """``sector_bytes`` over the bytes that any implementation must move, ``floor_bytes``: one is ideal."""
        return self.sector_bytes / floor_bytes


class _Launch:
    """One launch that is under way."""

    def __init__(self, kernel: str, tensors: Sequence[tuple[str, Tensor]]) -> None:
        self.kernel = kernel
        self.tensors = tensors
        self.shadows = shadows_of([tensor for _, tensor in tensors])
        self.bases = np.array([shadow.base for shadow in self.shadows], dtype=np.uint64)
        self.program = -1
        self.index = (0, 0, 0)
        self.counts: Counter[str] = Counter()
        self.conflict = ""

    def begin_program(self, index: tuple[int, int, int]) -> None:
        self.program += 1
        self.index = index

    def access(self, kind: Kind, pointers: TensorHandle, mask: np.ndarray) -> None:
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        addresses, on = np.broadcast_arrays(pointers.data, mask)
        addresses = addresses[on.astype(bool)]  # masks may come as integers
        self.counts["requested_bytes"] += addresses.size * size
        found = np.searchsorted(self.bases, addresses, side="right") - 1
        if (found < 0).any():
            raise self._out_of_bounds(kind, addresses[found < 0], size, addresses.size)
        for i in np.unique(found):
            self._access_in(self.shadows[i], kind, addresses[found == i], size)

    def _access_in(self, shadow: Shadow, kind: Kind, addresses: np.ndarray, size: int) -> None:
        beyond = addresses - np.uint64(shadow.base) + np.uint64(size) > np.uint64(shadow.num_bytes)
        if beyond.any():
            raise self._out_of_bounds(kind, addresses[beyond], size, addresses.size)
        offsets = (addresses - np.uint64(shadow.base)).astype(np.int64)
        granules = shadow.granules_of(offsets, size)
        foreign = ~shadow.allowed[granules].all(axis=1)
        if foreign.any():
            raise self._out_of_bounds(kind, addresses[foreign], size, addresses.size)
        unique = distinct(granules)
        per_element = size // shadow.granule
        repeated = addresses.size - unique.size // per_element
        self._check_order(shadow, kind, unique, repeated, per_element)
        num_bytes, sectors = shadow.touch(kind, unique, self.program)
        self.counts["program_bytes"] += num_bytes
        self.counts["program_sectors"] += sectors

    def _check_order(self, shadow: Shadow, kind: Kind, granules: np.ndarray, repeated: int, per_element: int) -> None:
        def others(*kinds: Kind) -> int:
            return sum(-(-shadow.others(other, granules, self.program) // per_element) for other in kinds)

        if kind == "read":
            self._count("order_dependences", others("write", "atomic"), "read what another program wrote")
            self.counts["own_rereads"] += -(-shadow.own("write", granules, self.program) // per_element)
            return
        if kind == "write":
            self._count("write_races", repeated, "written by several lanes of one store")
        rivals: tuple[Kind, ...] = ("write", "atomic") if kind == "write" else ("write",)
        self._count("write_races", others(*rivals), "written although another program writes them, too")
        self._count("order_dependences", others("read"), "written after another program read them")

    def _count(self, what: str, elements: int, happened: str) -> None:
        self.counts[what] += elements
        if elements and not self.conflict:
            self.conflict = f"{self.kernel}, program {self.index}: {elements} elements {happened}"

    def _out_of_bounds(self, kind: Kind, outside: np.ndarray, size: int, lanes: int) -> OutOfBounds:
        place = place_of(int(outside[0]), size, self.tensors)
        got = f"{outside.size} of {lanes} lanes outside in program {self.index}, the first {place}"
        rule = f"every {kind} must stay inside the arguments"
        return OutOfBounds(complaint(self.kernel, rule, got, "Check its mask and its strides."))

    def traffic(self) -> Traffic:
        read = np.array([shadow.touched("read", "atomic") for shadow in self.shadows]).reshape(-1, 2).sum(axis=0)
        written = np.array([shadow.touched("write", "atomic") for shadow in self.shadows]).reshape(-1, 2).sum(axis=0)
        return Traffic(
            kernel=self.kernel,
            programs=self.program + 1,
            read_bytes=int(read[0]),
            written_bytes=int(written[0]),
            read_sectors=int(read[1]),
            written_sectors=int(written[1]),
            conflict=self.conflict,
            **self.counts,
        )


class Meter:
    """Watches the memory of every kernel launched while it is open, under ``TRITON_INTERPRET=1``.

    ``with Meter() as meter: kernel[grid](...)`` raises :class:`OutOfBounds` as soon as a lane leaves the arguments of
    its launch, where a view counts as the elements that it shows and not as the storage around them. All else is told
    by ``meter.launches``, ``meter.of("kernel")`` and ``meter.total``.

    Args:
        reachable: Tensors that kernels reach not as arguments but through addresses stored in memory.

    Raises:
        RuntimeError: on entry, if Triton does not interpret.
    """

    def __init__(self, reachable: Sequence[Tensor] = ()) -> None:
        self.launches: list[Traffic] = []
        self._reachable = [(f"reachable[{i}]", tensor) for i, tensor in enumerate(reachable)]
        self._launch: _Launch | None = None
        self._patches = ExitStack()

    def of(self, kernel: str) -> Traffic:
        """The sum over all launches of ``kernel``; its ``launches`` is zero if there was none."""
        mine = [launch for launch in self.launches if launch.kernel == kernel]
        return sum(mine, start=Traffic(kernel, launches=0))

    @property
    def total(self) -> Traffic:
        """The sum over all launches of all kernels."""
        return sum(self.launches[1:], start=self.launches[0]) if self.launches else Traffic("*", launches=0)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of the kernels launched, in the order of their first launch."""
        return tuple(dict.fromkeys(launch.kernel for launch in self.launches))

    def __enter__(self) -> Self:
        require_interpreter("Meter")
        builder = InterpreterBuilder
        self._patches.enter_context(
            replaced(
                GridExecutor,
                __call__=self._watched_call(GridExecutor.__call__),
                _init_args_hst=self._watched_arguments(GridExecutor._init_args_hst),
            )
        )
        self._patches.enter_context(
            replaced(
                builder,
                set_grid_idx=self._watched_program(builder.set_grid_idx),
                create_masked_load=self._watched_load(builder.create_masked_load),
                create_masked_store=self._watched_store(builder.create_masked_store),
                create_atomic_rmw=self._watched_update(builder.create_atomic_rmw),
                create_atomic_cas=self._watched_exchange(builder.create_atomic_cas),
                create_dot=self._watched_dot(builder.create_dot),
            )
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._patches.close()

    @property
    def _current(self) -> _Launch:
        assert self._launch is not None, "the interpreter works outside of a launch"
        return self._launch

    def _watched_call(self, original: Callable[..., Any]) -> Callable[..., None]:
        def call(executor: GridExecutor, *arguments: Any, **named: Any) -> None:
            try:
                original(executor, *arguments, **named)
            except InterpreterError as error:
                cause = root_of(error)
                if not isinstance(cause, OutOfBounds):
                    raise
                raise cause from None
            self.launches.append(self._current.traffic())

        return call

    def _watched_arguments(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def init_arguments(executor: GridExecutor, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
            hosts, named_hosts = original(executor, arguments, named)
            by_name = {**dict(zip(executor.arg_names, hosts, strict=False)), **named_hosts}
            tensors = [entry for name, host in by_name.items() for entry in tensors_in(name, host)]
            self._launch = _Launch(executor.fn.__name__, [*tensors, *self._reachable])
            return hosts, named_hosts

        return init_arguments

    def _watched_program(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def set_grid_idx(builder: InterpreterBuilder, x: int, y: int, z: int) -> None:
            self._current.begin_program((x, y, z))
            original(builder, x, y, z)

        return set_grid_idx

    def _watched_load(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load(builder: InterpreterBuilder, pointers: TensorHandle, mask: Any, *others: Any, **named: Any) -> Any:
            self._current.access("read", pointers, np.asarray(mask.data))
            return original(builder, pointers, mask, *others, **named)

        return load

    def _watched_store(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def store(builder: InterpreterBuilder, pointers: TensorHandle, value: Any, mask: Any, *others: Any) -> Any:
            self._current.access("write", pointers, np.asarray(mask.data))
            return original(builder, pointers, value, mask, *others)

        return store

    def _watched_update(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def update(builder: Any, op: Any, pointers: TensorHandle, value: Any, mask: Any, *others: Any) -> Any:
            self._current.access("atomic", pointers, mask.data)
            return original(builder, op, pointers, value, mask, *others)

        return update

    def _watched_exchange(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def exchange(builder: InterpreterBuilder, pointers: TensorHandle, *others: Any) -> Any:
            self._current.access("atomic", pointers, np.ones((), dtype=bool))
            return original(builder, pointers, *others)

        return exchange

    def _watched_dot(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def dot(builder: InterpreterBuilder, a: TensorHandle, b: TensorHandle, *others: Any) -> Any:
            self._current.counts["dot_flops"] += 2 * a.data.size * b.data.shape[-1]
            return original(builder, a, b, *others)

        return dot
