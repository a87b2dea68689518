"""What the tests of kernels share."""

from dataclasses import replace

import pytest
import torch
import triton
from triton.runtime.interpreter import interpreter_builder

from fastnas_kernels.audit.interpreter import exact_bfloat16


@pytest.fixture(scope="session", autouse=True)
def _interpreter():
    """Without a GPU, kernels run in Triton's interpreter, whose own bfloat16 is wrong.

    It computes for each sum and product of integers whether it overflows, which takes a third of its time, and says so
    only if ``debug`` is on, which it never is.
    """
    if not triton.knobs.runtime.interpret:
        yield
        return
    options = interpreter_builder.options
    assert not options.debug
    interpreter_builder.options = replace(options, sanitize_overflow=False)
    with exact_bfloat16():
        yield
    interpreter_builder.options = options


@pytest.fixture(params=["reference", "triton"])
def backend(request, monkeypatch):
    """Every test that asks for it runs on the eager definition and on the kernels."""
    monkeypatch.setenv("FASTNAS_BACKEND", request.param)
    return request.param


@pytest.fixture
def poison(monkeypatch):
    """What a launch is given to write into holds NaN (or -1), so that whatever it leaves out is seen."""
    for name in ("empty", "empty_strided"):
        allocate = getattr(torch, name)

        def poisoned(*shape, allocate=allocate, **options):
            memory = allocate(*shape, **options)
            return memory.fill_(float("nan") if memory.is_floating_point() else -1)

        monkeypatch.setattr(torch, name, poisoned)
