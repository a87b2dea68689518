import pytest
import torch

from fastnas.costs.counts import num_parameters
from fastnas.spaces.chain_space import PROXYLESS
from fastnas.supernet.chain import MBCONV_OPERATIONS, mbconv


def test_every_primitive_of_the_chain_but_none_has_a_body():
    assert (*MBCONV_OPERATIONS, "none") == PROXYLESS.primitives


@pytest.mark.parametrize("name", MBCONV_OPERATIONS)
def test_a_bottleneck_changes_channels_and_rounds_strided_maps_up(name):
    for stride, side in ((1, 5), (2, 3)):
        for searching in (True, False):
            module = MBCONV_OPERATIONS[name](4, 6, stride, searching)
            assert module(torch.randn(2, 4, 5, 5)).shape == (2, 6, side, side)
            assert bool(list(module.buffers())) is not searching


@pytest.mark.parametrize(("kernel", "expansion"), [(3, 1), (5, 3), (7, 6)])
def test_a_bottleneck_has_the_weights_of_its_three_convolutions_and_their_norms(kernel, expansion):
    middle = 4 * expansion
    expand = 4 * middle + 2 * middle if expansion > 1 else 0
    expected = expand + kernel**2 * middle + 2 * middle + middle * 6 + 2 * 6
    assert num_parameters(mbconv(4, 6, 1, True, kernel=kernel, expansion=expansion)) == expected


def test_nothing_follows_the_projection_so_outputs_may_be_negative():
    y = mbconv(4, 4, 1, True, kernel=3, expansion=3)(torch.randn(8, 4, 6, 6))
    assert y.min() < 0
    assert y.mean((0, 2, 3)).abs().max() < 1e-6  # a fresh normalisation is the last thing that happens; float32
