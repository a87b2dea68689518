"""What the tests of kernels share."""

import pytest
import triton

from fastnas_kernels.audit.interpreter import exact_bfloat16


@pytest.fixture(scope="session", autouse=True)
def _exact_bfloat16():
    """Without a GPU, kernels run in Triton's interpreter, whose own bfloat16 is wrong."""
    if not triton.knobs.runtime.interpret:
        yield
        return
    with exact_bfloat16():
        yield
