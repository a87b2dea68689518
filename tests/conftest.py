"""What all tests share."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    # Triton decides at each `@triton.jit` whether to interpret: this must stand before anything imports it
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The tensors of tests are tiny: two threads that wait for each other on a busy machine take ten times as long
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_torch_state():
    """Every test starts from the same global generator and leaves the number of threads alone."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == threads
