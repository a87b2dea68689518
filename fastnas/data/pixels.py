"""What is done to pixels, with the numbers of the field; nothing here needs torchvision."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    """Mean and standard deviation of the pixels of each channel, of values in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


CIFAR = Statistics((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768))
IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = Statistics((0.5,), (0.5,))


def cut_out(images: Tensor, side: int, probability: float, seed: int) -> Tensor:
    """Blank a square in some normalised images (DeVries and Taylor, 2017, arXiv:1708.04552).

    Args:
        images: ``[N, C, H, W]``, or with one or three sizes; left alone.
        side: Of the square, in pixels. Its centre is uniform over the image, so it may hang over the border.
        probability: Of an image to be cut.
        seed: Decides which, and where.
    """
    generator = torch.Generator().manual_seed(seed)
    count, sizes = len(images), images.shape[2:]
    is_cut = torch.rand(count, generator=generator) < probability
    square = is_cut.view(-1, *[1] * len(sizes))
    for axis, size in enumerate(sizes):
        first = torch.randint(size, (count, 1), generator=generator) - side // 2
        place = torch.arange(size)
        inside = (place >= first) & (place < first + side)
        square = square & inside.view(count, *[size if i == axis else 1 for i in range(len(sizes))])
    return images.masked_fill(square[:, None].to(images.device), 0)


@dataclass(frozen=True)
class Normalise:
    """From uint8 to float32 with mean 0 and standard deviation 1.

    Bit for bit ``v2.ToDtype(torch.float32, scale=True)`` and ``v2.Normalize``, on batches and on the device.

    Args:
        statistics: Of the data.
    """

    statistics: Statistics

    def __call__(self, images: Tensor) -> Tensor:
        mean, std = _moments(self.statistics, images.device, images.dim() - 2)
        return images.contiguous().to(torch.float32, copy=True).mul_(1 / 255).sub_(mean).div_(std)


@cache
def _moments(statistics: Statistics, device: torch.device, dimensions: int) -> tuple[Tensor, Tensor]:
    """Once on each device: a copy from the host in every step would wait for the step before."""
    shape = [-1, *[1] * dimensions]
    mean, std = (torch.tensor(values, device=device).view(shape) for values in statistics)
    return mean, std
