import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastnas_kernels.partial_channels import channel_shuffle, merge_channels, require_partial


def numbered(channels):
    return torch.arange(float(channels)).view(1, channels, 1, 1)


def test_eight_channels_in_four_groups_come_out_in_the_published_order():
    assert channel_shuffle(numbered(8), 4).flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


@pytest.mark.parametrize(("channels", "groups"), [(8, 4), (12, 3), (6, 1), (6, 6)])
def test_a_shuffle_with_the_complementary_groups_undoes_it(channels, groups):
    x = torch.randn(2, channels, 3, 3)
    assert torch.equal(channel_shuffle(channel_shuffle(x, groups), channels // groups), x)


def test_channels_that_pass_by_appear_unchanged():
    mixed, bypass = -1 - numbered(2), numbered(6)
    y = merge_channels(mixed, bypass, 4).flatten().tolist()
    assert sorted(v for v in y if v >= 0) == bypass.flatten().tolist()
    assert y == [-1, 0, 2, 4, -2, 1, 3, 5]  # of -1, -2, 0, ..., 5: every second one, then the others


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)], ids=str)
def test_derivatives_are_exact_to_second_order_whatever_is_asked_for(needs):
    inputs = [
        torch.randn(2, c, 2, 2, dtype=torch.float64).requires_grad_(n) for c, n in zip((2, 6), needs, strict=True)
    ]
    assert gradcheck(lambda m, b: merge_channels(m, b, 4), inputs)
    assert gradgradcheck(lambda m, b: merge_channels(m, b, 4), inputs)


def test_channels_that_cannot_be_divided_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match="groups must divide the 6 channels, got 4"):
        channel_shuffle(numbered(6), 4)
    with pytest.raises(ValueError, match="groups must divide the 6 channels, got 0"):
        channel_shuffle(numbered(6), 0)
    with pytest.raises(
        ValueError, match=r"even number \(k = 4\), got 12 channels\. Choose channels as a multiple of 8"
    ):
        require_partial("cell", 12, 4, even=True)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        require_partial("cell", 12, 0, even=False)
