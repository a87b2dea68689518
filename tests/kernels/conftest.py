"""What the tests of kernels share."""

import pytest
import torch
import triton

from fastnas_audit.interpreter import exact_bfloat16, without_idle_work
from tests.kernels.shapes import known_shapes


@pytest.fixture(scope="session", autouse=True)
def _interpreter():
    """Without a GPU, kernels run in Triton's interpreter, whose own bfloat16 is wrong."""
    if not triton.knobs.runtime.interpret:
        yield
        return
    with exact_bfloat16(), without_idle_work(), known_shapes():
        yield


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
