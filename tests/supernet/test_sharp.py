import pytest
import torch
from torch.nn import functional as F

from fastnas.spaces.cell_space import SHARPDARTS, SHARPERDARTS
from fastnas.supernet.candidates import find_operations
from fastnas.supernet.operations import SHARP_OPERATIONS

CONVOLUTIONS = {  # kernel, dilation, channels in the middle for 8 outside
    "sep_conv_3x3": (3, 1, 8),
    "sep_conv_5x5": (5, 1, 8),
    "dil_conv_3x3": (3, 2, 8),
    "dil_conv_5x5": (5, 2, 8),
    "flood_conv_3x3": (3, 1, 32),
    "dil_flood_conv_3x3": (3, 2, 32),
    "choke_conv_3x3": (3, 1, 32),
    "dil_choke_conv_3x3": (3, 2, 32),
}


def normalised(x):
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_sharp_convolution_is_what_the_paper_describes(name, stride):
    kernel, dilation, middle = CONVOLUTIONS[name]
    module = SHARP_OPERATIONS[name](8, stride, True).double()
    depthwise, to_middle, second, to_out = module.parameters()
    assert [p.shape[0] for p in module.parameters()] == [8, middle, middle, 8]
    x = torch.randn(2, 8, 7, 7, dtype=torch.float64)
    y = F.conv2d(x.relu(), depthwise, None, stride, dilation * (kernel // 2), dilation, 8)
    y = normalised(F.conv2d(y, to_middle)).relu()
    y = normalised(F.conv2d(F.conv2d(y, second, None, 1, kernel // 2, 1, middle), to_out))
    assert (module(x) - y).abs().max() < 1e-12  # float64, values of order one


def test_choking_keeps_32_channels_in_the_middle_however_many_are_outside():
    assert SHARP_OPERATIONS["choke_conv_3x3"](64, 1, True)[2].weight.shape[:2] == (32, 64)
    assert SHARP_OPERATIONS["flood_conv_3x3"](64, 1, True)[2].weight.shape[:2] == (256, 64)


def test_the_sharp_spaces_take_the_sharp_bodies():
    for space in (SHARPDARTS, SHARPERDARTS):
        operations = find_operations(space)
        assert all(operations[p] is SHARP_OPERATIONS[p] for p in space.primitives if p != "none")
