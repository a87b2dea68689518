"""Compiles kernels side by side before they are needed; Triton alone compiles each where it is first launched."""

import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

CELLS = "fastnas_kernels.mixed_op"
_ahead: list[bool] = []
"""Not empty inside a block of :func:`compiling_ahead`."""


def is_compiling_ahead() -> bool:
    """Whether kernels of cells are compiled and not launched."""
    return bool(_ahead)


@contextmanager
def compiling_ahead(
    on_compiled: Callable[[int, int], None] | None = None, workers: int | None = None
) -> Generator[None, None, None]:
    """Inside the block, kernels of cells are not launched but handed to a pool of threads that compiles them.

    What they would have written keeps what its memory held, so nothing that was computed in the block may be used. At
    the end of the block every form is compiled, once, and lies in Triton's cache on the disk.

    Args:
        on_compiled: Called with the number of forms that are compiled and of all, in the end of the block.
        workers: Threads; as many as there are processors if not given.

    Raises:
        RuntimeError: If the block asks for it inside another.
    """
    from triton.runtime._async_compile import AsyncCompileMode, active_mode  # noqa: PLC0415  (exists on Linux only)
    from triton.runtime.jit import JITFunction  # noqa: PLC0415

    if active_mode.get() is not None:
        raise RuntimeError("compiling_ahead: kernels are being compiled ahead already")
    launch = JITFunction.run

    def run(kernel: Any, *given: Any, grid: Any, warmup: bool, **named: Any) -> object:
        if not kernel.fn.__module__.startswith(CELLS):
            return launch(kernel, *given, grid=grid, warmup=warmup, **named)
        token = active_mode.set(mode)  # for this thread: backward passes have one of their own
        try:
            return launch(kernel, *given, grid=grid, warmup=True, **named)
        finally:
            active_mode.reset(token)

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        mode = AsyncCompileMode(pool)
        JITFunction.run = run  # type: ignore[method-assign]
        _ahead.append(True)
        try:
            yield
        finally:
            _ahead.pop()
            JITFunction.run = launch  # type: ignore[method-assign]
        forms = list(mode.raw_futures)
        for done, _ in enumerate(as_completed(forms), start=1):
            if on_compiled is not None:
                on_compiled(done, len(forms))
        for kernel in mode.future_kernels.values():
            kernel.result()
