"""Augmentation and normalisation, with the numbers of the field."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms import v2


class Statistics(NamedTuple):
    """Mean and standard deviation of the pixels of each channel, of values in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


CIFAR = Statistics((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768))
IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = Statistics((0.5,), (0.5,))


class Cutout:
    """Blank a square of a normalised image (DeVries and Taylor, 2017, arXiv:1708.04552).

    Args:
        side: Of the square, in pixels. Its centre is uniform over the image, so it may hang over the border.
    """

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        top = int(torch.randint(height, ())) - self.side // 2
        left = int(torch.randint(width, ())) - self.side // 2
        image = image.clone()
        image[..., max(top, 0) : max(top + self.side, 0), max(left, 0) : max(left + self.side, 0)] = 0
        return image


def cut_out(images: Tensor, side: int, probability: float, seed: int) -> Tensor:
    """Blank a square in some of the images, as :class:`Cutout` does in all of them.

    Args:
        images: Normalised, on the CPU, ``[N, C, H, W]``; left alone.
        side: Of the square, in pixels.
        probability: Of an image to be cut.
        seed: Decides which, and where.
    """
    generator = torch.Generator().manual_seed(seed)
    count, (height, width) = len(images), images.shape[-2:]
    is_cut = torch.rand(count, generator=generator) < probability
    top, left = (torch.randint(size, (count, 1), generator=generator) - side // 2 for size in (height, width))
    row, column = torch.arange(height), torch.arange(width)
    in_rows, in_columns = (row >= top) & (row < top + side), (column >= left) & (column < left + side)
    square = is_cut[:, None, None] & in_rows[:, :, None] & in_columns[:, None, :]
    return images.masked_fill(square[:, None], 0)


class Normalise(nn.Module):
    """From uint8 to float32 with mean 0 and standard deviation 1.

    Bit for bit ``v2.ToDtype(torch.float32, scale=True)`` and ``v2.Normalize`` in a quarter of their time, most of which
    goes, for an image of 8 or 32 pixels, into finding out what they were given.
    """

    def __init__(self, statistics: Statistics) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in statistics)

    def forward(self, image: Tensor) -> Tensor:
        return image.to(torch.float32).mul_(1 / 255).sub_(self.mean).div_(self.std)


def _normalised(steps: Sequence[nn.Module], statistics: Statistics) -> v2.Compose:
    # Plain tensors: v2 takes twice as long over its own subclasses of them
    return v2.Compose([v2.PILToTensor(), *steps, Normalise(statistics)])


def small_transforms(
    resolution: int, statistics: Statistics, *, flip: bool, resize: bool
) -> tuple[v2.Compose, v2.Compose]:
    """Shift by an eighth of the image and flip, for training; neither, for evaluation.

    Args:
        resolution: Side of the result in pixels.
        statistics: To normalise with.
        flip: Whether a mirrored image is of the same class.
        resize: Whether the images have other sizes than ``resolution``.
    """
    fit = [v2.Resize((resolution, resolution), antialias=True)] if resize else []
    shift = v2.RandomCrop(resolution, padding=max(1, resolution // 8))
    augment = [*fit, shift, *([v2.RandomHorizontalFlip()] if flip else [])]
    return _normalised(augment, statistics), _normalised(fit, statistics)


def large_transforms(resolution: int) -> tuple[v2.Compose, v2.Compose]:
    """The ImageNet settings of DARTS (Liu et al., 2019, arXiv:1806.09055) for training and evaluation."""
    jitter = v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2)
    augment = [v2.RandomResizedCrop(resolution, antialias=True), v2.RandomHorizontalFlip(), jitter]
    centre = [v2.Resize(resolution * 256 // 224, antialias=True), v2.CenterCrop(resolution)]
    return _normalised(augment, IMAGENET), _normalised(centre, IMAGENET)
