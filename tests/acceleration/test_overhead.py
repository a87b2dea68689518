"""What an accelerated call does beside the kernels, in counts: they are the same on a busy machine."""

import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastnas import accelerate
from tests.acceleration.conftest import CHANNELS

CALLS_A_PART = 7
"""Calls of functions, of Python and of C, for each part of a cell: 5.2 here, where 18 had cost a step some percent."""


def count_calls(run):
    """Function calls of Python and C that the interpreter makes."""
    count = 0

    def add(_frame, event, _what):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(add)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


class Copies(TorchDispatchMode):
    """Counts copies of maps of one shape."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        copies = function in (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default)
        self.count += copies and result.shape == self.shape
        return result


@pytest.fixture
def arguments():
    a, b = (torch.randn(2, CHANNELS, 8, 8, requires_grad=True) for _ in range(2))
    return a, b, torch.rand(5, 8)


def test_checks_before_a_call_take_few_calls_of_functions(make_block, arguments):
    block = make_block().float()
    accelerate(block)
    block(*arguments)
    calls = count_calls(lambda: block(*arguments))
    assert calls <= CALLS_A_PART * len(list(block.modules()))


@pytest.mark.parametrize("behind", [nn.Identity(), nn.Dropout(0.1)], ids=["another layout", "the same layout"])
def test_the_maps_of_a_cell_are_copied_once(make_block, arguments, behind):
    block = make_block().float()
    accelerate(nn.Sequential(block, behind))
    y = block(*arguments)
    assert y.is_contiguous() == isinstance(behind, nn.Dropout)
    with Copies(y.shape) as copies:
        block(*arguments)
    assert copies.count == 1
