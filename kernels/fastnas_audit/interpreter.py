"""Makes Triton's interpreter compute in bfloat16 as PyTorch does, and holds what else the audits need to patch it.

The interpreter keeps a bfloat16 as its sixteen bits in a ``uint16`` and hands these to NumPy, which adds, compares and
multiplies them as integers; its cast from float32 truncates. Here every operation on bfloat16 is done in float32 and
rounded once to nearest, ties to even: what PyTorch does, and a GPU for everything but reductions, where the hardware
may round after every step.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import triton.language as tl
from triton import knobs
from triton._C.libtriton import ir
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, ReduceOps, ScanOps, TensorHandle

from fastnas_kernels.check import complaint

QUIET_NAN = np.uint16(0x7FC0)


@contextmanager
def replaced(owner: type | ModuleType | InterpreterBuilder, **attributes: Any) -> Generator[None, None, None]:
    """Give ``owner`` the ``attributes``; at the end, its former ones return and those that it did not have go."""
    before = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in attributes.keys() - before.keys():
            delattr(owner, name)
        for name, value in before.items():
            setattr(owner, name, value)


def require_interpreter(where: str) -> None:
    """Raise ``RuntimeError`` unless Triton interprets kernels instead of compiling them."""
    if not knobs.runtime.interpret:
        rule = "Triton must interpret kernels"
        remedy = "Set TRITON_INTERPRET=1 before anything imports triton."
        raise RuntimeError(complaint(where, rule, "compiled ones", remedy))


def root_of(error: BaseException) -> BaseException:
    """The error that a kernel itself raised, inside of those that the interpreter puts around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def widened(bits: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16 ``bits`` (uint16, any shape); exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrowed(values: np.ndarray, toward_zero: bool = False) -> np.ndarray:
    """The bfloat16 bits (uint16) of float32 ``values``, rounded to nearest even, or truncated ``toward_zero``.

    Adding half of the last kept place, less one where that place is even, carries into it exactly when rounding up is
    due; subnormals and the step to infinity follow from the encoding, only NaN needs a case of its own.
    """
    bits = np.array(values, dtype=np.float32, copy=True, order="C").view(np.uint32)
    kept = bits >> np.uint32(16)
    if not toward_zero:
        kept = (bits.astype(np.uint64) + np.uint64(0x7FFF) + (kept & np.uint32(1))) >> np.uint64(16)
    return np.where(np.isnan(values), QUIET_NAN, kept.astype(np.uint16))


def _is_bfloat16(handle: TensorHandle) -> bool:
    # The result of a comparison is a boolean array under the type of its operands
    return handle.dtype.scalar == tl.bfloat16 and handle.data.dtype == np.uint16


def _wide(handle: TensorHandle) -> TensorHandle:
    return TensorHandle(widened(handle.data), tl.float32) if _is_bfloat16(handle) else handle


def _narrow(handle: TensorHandle) -> TensorHandle:
    if handle.data.dtype == np.bool_:
        return TensorHandle(handle.data, tl.int1)
    return TensorHandle(narrowed(handle.data), tl.bfloat16)


def _through_float32(original: Callable[..., TensorHandle], operands: int) -> Callable[..., TensorHandle]:
    """``original``, a method of the builder, with its first ``operands`` arguments in float32 where one is bfloat16."""

    def method(builder: InterpreterBuilder, *arguments: Any) -> TensorHandle:
        handles, others = arguments[:operands], arguments[operands:]
        if not any(_is_bfloat16(handle) for handle in handles):
            return original(builder, *arguments)
        return _narrow(original(builder, *map(_wide, handles), *others))

    return method


def _cast(original: Callable[..., TensorHandle]) -> Callable[..., TensorHandle]:
    def cast_impl(builder: InterpreterBuilder, source: TensorHandle, target: tl.dtype) -> TensorHandle:
        if target.scalar == tl.bfloat16 and not _is_bfloat16(source):
            return TensorHandle(narrowed(source.data.astype(np.float32)), tl.bfloat16)
        if target.scalar != tl.bfloat16 and _is_bfloat16(source):
            return original(builder, _wide(source), target)
        return original(builder, source, target)

    return cast_impl


def _rounding_cast(original: Callable[..., TensorHandle]) -> Callable[..., TensorHandle]:
    def create_fp_to_fp(builder: InterpreterBuilder, source: TensorHandle, target: tl.dtype, mode: Any) -> TensorHandle:
        if target.scalar == tl.bfloat16 and source.dtype.scalar == tl.float32:
            return TensorHandle(narrowed(source.data, toward_zero=mode == ir.ROUNDING_MODE.RTZ), tl.bfloat16)
        return original(builder, source, target, mode)

    return create_fp_to_fp


def _dot(original: Callable[..., TensorHandle]) -> Callable[..., TensorHandle]:
    def create_dot(builder: InterpreterBuilder, a: TensorHandle, b: TensorHandle, *others: Any) -> TensorHandle:
        return original(builder, _wide(a), _wide(b), *others)  # the accumulator is float32 already

    return create_dot


def _along_axis(original: Callable[..., Any]) -> Callable[..., Any]:
    """``original``, a reduction or scan, in float32 for each input that is bfloat16."""

    def with_handle(tensor: tl.tensor, handle: TensorHandle) -> tl.tensor:
        kind = (
            tl.block_type(handle.dtype, list(handle.data.shape))
            if isinstance(tensor.type, tl.block_type)
            else handle.dtype
        )
        return tl.tensor(handle, kind)

    def apply_impl(operation: ReduceOps | ScanOps, tensors: tuple[tl.tensor, ...]) -> Any:
        narrow = [_is_bfloat16(tensor.handle) for tensor in tensors]
        if not any(narrow):
            return original(operation, tensors)
        results = original(operation, tuple(with_handle(tensor, _wide(tensor.handle)) for tensor in tensors))
        results = results if isinstance(results, (list, tuple)) else [results]
        return [
            with_handle(result, _narrow(result.handle)) if was_narrow else result
            for result, was_narrow in zip(results, narrow, strict=True)
        ]

    return apply_impl


def _constant(builder: InterpreterBuilder, value: float) -> TensorHandle:
    return TensorHandle(narrowed(np.array([value], dtype=np.float32)), tl.bfloat16)


@contextmanager
def exact_bfloat16() -> Generator[None, None, None]:
    """Let kernels that run under ``TRITON_INTERPRET=1`` compute in bfloat16 to the bit as PyTorch does.

    Covers casts (round to nearest even, NaN and subnormals included), arithmetic, comparisons, constants, reductions
    and scans, and ``tl.dot``. Does nothing to other types, and nothing at all to kernels that run on a GPU. May stay
    open for a whole test session; nests with :class:`fastnas_audit.meter.Meter`.
    """
    builder = InterpreterBuilder
    with (
        replaced(
            builder,
            cast_impl=_cast(builder.cast_impl),
            create_fp_to_fp=_rounding_cast(builder.create_fp_to_fp),
            binary_op=_through_float32(builder.binary_op, operands=2),
            unary_op=_through_float32(builder.unary_op, operands=1),
            create_fma=_through_float32(builder.create_fma, operands=3),
            create_dot=_dot(builder.create_dot),
            get_bf16=_constant,
        ),
        replaced(ReduceOps, apply_impl=_along_axis(ReduceOps.apply_impl)),
        replaced(ScanOps, apply_impl=_along_axis(ScanOps.apply_impl)),
    ):
        yield


def _in_tf32(original: Callable[..., TensorHandle]) -> Callable[..., TensorHandle]:
    def shortened(handle: TensorHandle) -> TensorHandle:
        bits = np.array(handle.data, dtype=np.float32, copy=True, order="C").view(np.uint32)
        return TensorHandle((bits & np.uint32(0xFFFFE000)).view(np.float32), handle.dtype)

    def create_dot(
        builder: InterpreterBuilder, a: TensorHandle, b: TensorHandle, sum_: TensorHandle, precision: Any, *others: Any
    ) -> TensorHandle:
        if precision == ir.INPUT_PRECISION.TF32 and a.data.dtype == np.float32:
            a, b = shortened(a), shortened(b)
        return original(builder, a, b, sum_, precision, *others)

    return create_dot


@contextmanager
def tf32_products() -> Generator[None, None, None]:
    """Let ``tl.dot`` of float32 with ``input_precision="tf32"`` drop the last 13 bits of its factors, as matrix units
    do that take float32's bits for tf32's; the interpreter itself multiplies in float32."""
    with replaced(InterpreterBuilder, create_dot=_in_tf32(InterpreterBuilder.create_dot)):
        yield


def _patched_once(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @cache
    def languages(kernel: Any) -> list[ModuleType]:
        return [value for value in kernel.__globals__.values() if value is tl or value is tl.core]

    def patch_lang(kernel: Any) -> Any:
        if any(tl.core.is_builtin(language.load) for language in languages(kernel)):
            return original(kernel)
        return interpreter._LangPatchScope()  # with nothing to undo

    return patch_lang


def _remembered(original: Callable[[tl.dtype], np.dtype]) -> Callable[[tl.dtype], np.dtype]:
    of_scalar = cache(original)

    def get_np_dtype(kind: tl.dtype) -> np.dtype:  # neither blocks nor pointers can be looked up
        return original(kind) if isinstance(kind.scalar, tl.pointer_type) else of_scalar(kind.scalar)

    return get_np_dtype


@contextmanager
def without_idle_work() -> Generator[None, None, None]:
    """Let Triton's interpreter leave out half of its work, which changes nothing.

    It finds out for each sum and product of integers whether it overflows, and says so only if ``debug`` is on, as in
    :func:`fastnas_audit.offsets.last_programs`, which asks for it again; it replaces all functions of the
    language anew for every function that a kernel calls; and it makes a table of all types to look one up. May stay
    open for a whole test session.
    """
    builder = interpreter.interpreter_builder
    assert not builder.options.debug
    with (
        replaced(builder, options=replace(builder.options, sanitize_overflow=False)),
        replaced(
            interpreter,
            _patch_lang=_patched_once(interpreter._patch_lang),
            _get_np_dtype=_remembered(interpreter._get_np_dtype),
        ),
    ):
        yield
