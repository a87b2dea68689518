"""Augmentation and normalisation, with the numbers of the field."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import crop, pil_to_tensor, resize, to_pil_image

from fastnas.train.data.encoded import EncodedImage, Part


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
        images: ``[N, C, H, W]``; left alone.
        side: Of the square, in pixels. Its centre is uniform over the image, so it may hang over the border.
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
        mean, std = _moments(self.statistics, images.device)
        return images.to(torch.float32).mul_(1 / 255).sub_(mean).div_(std)


@cache
def _moments(statistics: Statistics, device: torch.device) -> tuple[Tensor, Tensor]:
    """Once on each device: a copy from the host in every step would wait for the step before."""
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in statistics)
    return mean, std


class Decode(nn.Module):
    """Whatever an image comes as, to uint8 ``[C, H, W]``."""

    def forward(self, image: EncodedImage | Image.Image | Tensor) -> Tensor:
        if isinstance(image, EncodedImage):
            return image.decode()
        return image if isinstance(image, Tensor) else pil_to_tensor(image)


class ColourJitter(nn.Module):
    """torchvision's ``ColorJitter`` as PIL does it, in half the time that it takes on tensors of bytes.

    Args:
        most: Largest change of brightness, contrast and saturation, as shares.
        hue: Largest change of the hue, as a share of the circle.
    """

    def __init__(self, most: float, hue: float) -> None:
        super().__init__()
        self.jitter = v2.ColorJitter(brightness=most, contrast=most, saturation=most, hue=hue)

    def forward(self, image: Tensor) -> Tensor:
        return pil_to_tensor(self.jitter(to_pil_image(image)))


class RandomResizedCrop(nn.Module):
    """A random part of an image at a fixed size (Szegedy et al., 2015, arXiv:1409.4842), decoded no larger than needed.

    The part is chosen before anything is decoded, by torchvision's draws: the same seed gives the same part. If both
    its sides are at least 2, 4 or 8 times ``resolution``, a JPEG file is decoded to that fraction of its size (see
    :meth:`EncodedImage.decode_part`). Values then differ a little from those of an image that was decoded whole; all
    others are bit for bit those of ``v2.RandomResizedCrop`` on a tensor.

    Args:
        resolution: Side of the result in pixels.
        scale: Least and largest share of the area.
        ratio: Least and largest width over height.
    """

    def __init__(
        self, resolution: int, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
    ) -> None:
        super().__init__()
        self.resolution, self.scale, self.ratio = resolution, scale, ratio

    def forward(self, image: EncodedImage | Image.Image | Tensor) -> Tensor:
        if isinstance(image, EncodedImage):
            pixels = image.decode_part(self._part(*image.size()), self.resolution)
        else:
            whole = Decode()(image)
            pixels = crop(whole, *self._part(*whole.shape[-2:]))
        return resize(pixels, [self.resolution, self.resolution], antialias=True)

    def _part(self, height: int, width: int) -> Part:
        whole = torch.empty((1, height, width), device="meta")
        return Part(*transforms.RandomResizedCrop.get_params(whole, list(self.scale), list(self.ratio)))


def small_transforms(resolution: int, *, flip: bool, resize: bool) -> tuple[v2.Compose, v2.Compose]:
    """Shift by an eighth of the image and flip, for training; neither, for evaluation.

    Args:
        resolution: Side of the result in pixels.
        flip: Whether a mirrored image is of the same class.
        resize: Whether the images have other sizes than ``resolution``.
    """
    fit = [v2.Resize((resolution, resolution), antialias=True)] if resize else []
    shift = v2.RandomCrop(resolution, padding=max(1, resolution // 8))
    augment = [*fit, shift, *([v2.RandomHorizontalFlip()] if flip else [])]
    return v2.Compose([Decode(), *augment]), v2.Compose([Decode(), *fit])


def large_transforms(resolution: int) -> tuple[v2.Compose, v2.Compose]:
    """The ImageNet settings of DARTS (Liu et al., 2019, arXiv:1806.09055) for training and evaluation."""
    augment = [RandomResizedCrop(resolution), v2.RandomHorizontalFlip(), ColourJitter(0.4, hue=0.2)]
    centre = [v2.Resize(resolution * 256 // 224, antialias=True), v2.CenterCrop(resolution)]
    return v2.Compose(augment), v2.Compose([Decode(), *centre])
