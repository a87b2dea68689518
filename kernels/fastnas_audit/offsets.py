"""Finds indices that outgrow 32 bits, without the memory that it takes to see them fail.

A pointer takes a 32-bit offset at its word: a program whose index times its block exceeds 2³¹ − 1 reads and writes at a
wrapped, negative place. Tensors of that size do not fit in a test, but the arithmetic of the one program that would
work at their end does.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.errors import InterpreterError
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle, interpreter_builder

from fastnas_audit.interpreter import replaced, require_interpreter, root_of
from fastnas_kernels.check import complaint


@dataclass(frozen=True)
class Reach:
    """How far the last program of a launch reaches from its arguments.

    Attributes:
        kernel: Name of the kernel.
        program: Index of the program.
        largest_offset: The largest magnitude ever added to a pointer in one step, in elements; masked lanes included.
    """

    kernel: str
    program: tuple[int, int, int]
    largest_offset: int


@dataclass
class _Pretended:
    """The launch that is under way."""

    grid: tuple[int, ...] = (1, 1, 1)
    largest: int = 0


@contextmanager
def last_programs() -> Generator[list[Reach], None, None]:
    """Run only the last program of each launch, and let it touch no memory.

    Launches may thus be as large as they like: ``torch.empty`` of 2³¹ elements reserves memory that nothing ever
    touches, and its grid of a million programs takes a millisecond. Every addition, subtraction and multiplication of
    integers under 64 bits is checked. Loads give what ``other`` says or zero, atomics zero; stores do nothing: look
    at the reach of kernels here and nowhere at their results.

    Yields:
        A list that holds one :class:`Reach` for each launch so far.

    Raises:
        OverflowError: out of a launch that computes an index which its type cannot hold.
        RuntimeError: if Triton does not interpret.
    """
    require_interpreter("last_programs")
    reaches: list[Reach] = []
    now = _Pretended()
    run, add_pointer = GridExecutor.__call__, InterpreterBuilder.create_addptr

    def call(executor: GridExecutor, *arguments: Any, **named: Any) -> None:
        asked = executor.grid

        def only_one(meta: dict[str, Any]) -> tuple[int]:
            grid: Any = asked(meta) if callable(asked) else asked
            now.grid, now.largest = grid + (1,) * (3 - len(grid)), 0
            return (1,)

        executor.grid = only_one
        try:
            run(executor, *arguments, **named)
        except InterpreterError as error:
            cause = root_of(error)
            if not isinstance(cause, OverflowError):
                raise
            rule = "every index must fit in its type"
            got = f"{cause} in program {_last(now.grid)}"
            remedy = "Multiply after `.to(tl.int64)`."
            raise OverflowError(complaint(executor.fn.__name__, rule, got, remedy)) from None
        reaches.append(Reach(executor.fn.__name__, _last(now.grid), now.largest))

    def addptr(builder: InterpreterBuilder, pointer: TensorHandle, offset: TensorHandle) -> TensorHandle:
        now.largest = max(now.largest, abs(int(offset.data.max())), abs(int(offset.data.min())))
        return add_pointer(builder, pointer, offset)

    def program_id(builder: InterpreterBuilder, axis: int) -> TensorHandle:
        return TensorHandle(np.array([now.grid[axis] - 1], dtype=np.int32), tl.int32)

    def num_programs(builder: InterpreterBuilder, axis: int) -> TensorHandle:
        return TensorHandle(np.array([now.grid[axis]], dtype=np.int32), tl.int32)

    options = interpreter_builder.options
    # Turns on Triton's own checks of integer arithmetic
    interpreter_builder.options = replace(options, debug=True, sanitize_overflow=True)
    try:
        with (
            replaced(GridExecutor, __call__=call, _restore_args_dev=_nothing),
            replaced(
                InterpreterBuilder,
                create_addptr=addptr,
                create_get_program_id=program_id,
                create_get_num_programs=num_programs,
                create_masked_load=_load,
                create_masked_store=_nothing,
                create_atomic_rmw=_update,
                create_atomic_cas=_exchange,
                create_assert=_assert_no_overflow,
            ),
        ):
            yield reaches
    finally:
        interpreter_builder.options = options


def _last(grid: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = grid
    return x - 1, y - 1, z - 1


def _nothing(*arguments: Any, **named: Any) -> None:
    pass


def _load(builder: InterpreterBuilder, pointers: TensorHandle, mask: Any, other: Any, *more: Any, **named: Any) -> Any:
    kind = pointers.get_element_ty()
    value = builder.get_null_value(kind) if other is None else other
    return TensorHandle(np.broadcast_to(value.data, pointers.data.shape), kind)


def _update(builder: Any, operation: Any, pointers: TensorHandle, value: TensorHandle, *more: Any) -> TensorHandle:
    return TensorHandle(np.zeros_like(value.data), value.dtype.scalar)


def _exchange(builder: Any, pointers: TensorHandle, compared: TensorHandle, *more: Any) -> TensorHandle:
    return TensorHandle(np.zeros_like(compared.data), compared.dtype.scalar)


def _assert_no_overflow(builder: InterpreterBuilder, condition: TensorHandle, message: str) -> None:
    # The kernel's own assertions come by here as well; on data that were never loaded they mean nothing
    if "overflow detected" in message and not condition.data.all():
        raise OverflowError(f"an {message}")
