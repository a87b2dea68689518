"""What all tests share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_torch_state():
    """Every test starts from the same global generator and leaves the number of threads alone."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == threads
