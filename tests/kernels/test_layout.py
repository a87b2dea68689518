import pytest
import torch

from fastnas_kernels.tensors import common_image_format, common_strides, empty_images, laid_out

SHAPE = (2, 4, 3, 5)
CHANNELS_LAST = torch.channels_last


def image(memory_format=torch.contiguous_format):
    return torch.arange(120.0).view(SHAPE).contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST], ids=str)
def test_tensors_that_agree_keep_their_layout_and_are_not_copied(memory_format):
    x, y = image(memory_format), image(memory_format)
    strides = common_strides([x, y])
    assert strides == x.stride()
    assert laid_out(x, strides) is x


def test_the_majority_decides_and_the_others_are_copied_with_their_values():
    odd, last, sliced = image(), image(CHANNELS_LAST), image(CHANNELS_LAST)[:, ::2].repeat_interleave(2, dim=1)
    strides = common_strides([odd, last, sliced.contiguous(memory_format=CHANNELS_LAST)])
    assert strides == last.stride()
    assert laid_out(odd, strides).stride() == strides
    assert torch.equal(laid_out(odd, strides), odd)


def test_memory_with_holes_or_overlaps_is_no_layout():
    expanded, strided = torch.ones(()).expand(SHAPE), torch.zeros(2, 8, 3, 5)[:, ::2]
    assert common_strides([expanded, strided]) == image().stride()
    assert common_strides([expanded, strided, image(CHANNELS_LAST)]) == image(CHANNELS_LAST).stride()
    assert laid_out(expanded, image().stride()).is_contiguous()


def test_strides_of_axes_of_length_one_do_not_matter():
    x = torch.zeros(4, 1, 3)
    y = x.as_strided((4, 1, 3), (3, 77, 1))
    assert laid_out(y, common_strides([x, y])) is y


def test_images_are_contiguous_only_if_all_of_them_are():
    assert common_image_format(image(), image()) == torch.contiguous_format
    assert common_image_format(image(), image(CHANNELS_LAST)) == CHANNELS_LAST
    images = empty_images(image().double(), 6, CHANNELS_LAST)
    assert images.shape == (2, 6, 3, 5)
    assert images.dtype == torch.float64
    assert images.is_contiguous(memory_format=CHANNELS_LAST)
