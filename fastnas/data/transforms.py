"""Bringing images to one size, and augmentation with the numbers of the field."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import (
    crop,
    pil_to_tensor,
    resize,
    to_pil_image,
)

from fastnas.data.config import Augment, Colour
from fastnas.data.encoded import EncodedImage
from fastnas.data.jpeg import Part
from fastnas.errors import invalid
from fastnas.networks.preprocessing import FitTo, with_channels
from fastnas.supernet.layout import Fit

DARTS_COLOUR: Colour = (0.4, 0.4, 0.4, 0.2)
"""Brightness, contrast, saturation and hue of the published code of DARTS on ImageNet."""


class Decode(nn.Module):
    """Whatever an image comes as, to uint8 ``[channels, H, W]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, image: EncodedImage | Image.Image | Tensor) -> Tensor:
        if isinstance(image, EncodedImage):
            image = image.decode()
        return with_channels(image if isinstance(image, Tensor) else pil_to_tensor(image), self.channels)


class Aligned(Decode):
    """Images as they are, which must have one size, as there is a map for each that would not change with them.

    Args:
        channels: Of the result.
        size: Height and width that they must have.
        augment: From an image and its map to others, for training images; ``None`` for no change.
    """

    def __init__(
        self, channels: int, size: tuple[int, ...], augment: Callable[[Tensor, Tensor], Any] | None = None
    ) -> None:
        super().__init__(channels)
        self.size, self.augment = size, augment

    def forward(self, image: EncodedImage | Image.Image | Tensor) -> Tensor:
        pixels = super().forward(image)
        if tuple(pixels.shape[1:]) != self.size:
            rule = f"images of a dense task must all have the size {list(self.size)}"
            raise invalid("data", rule, list(pixels.shape[1:]), "Bring images and maps to one size before.")
        return pixels

    def pair(self, image: EncodedImage | Image.Image | Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """An image and its map."""
        pixels = self(image)
        return (pixels, target) if self.augment is None else self.augment(pixels, target)


class ColourJitter(nn.Module):
    """torchvision's ``ColorJitter`` as PIL does it, in half the time that it takes on tensors of bytes.

    Args:
        colour: Largest change of brightness, contrast and saturation, as shares, and of the hue, as a share of the
            circle.
    """

    def __init__(self, colour: Colour) -> None:
        super().__init__()
        self.jitter = v2.ColorJitter(*colour)

    def forward(self, image: Tensor) -> Tensor:
        return pil_to_tensor(self.jitter(to_pil_image(image)))


class RandomResizedCrop(nn.Module):
    """A random part of an image at a fixed size (Szegedy et al., 2015, arXiv:1409.4842), decoded no larger than needed.

    The part is chosen before anything is decoded, by torchvision's draws: the same seed gives the same part. If both
    its sides are at least 2, 4 or 8 times as long as needed, a JPEG file is decoded to that fraction of its size (see
    :meth:`EncodedImage.decode_part`). Values then differ a little from those of an image that was decoded whole; all
    others are bit for bit those of ``v2.RandomResizedCrop`` on a tensor.

    Args:
        resolution: Height and width of the result in pixels, or the side of a square.
        squeezed: Parts have the proportions of the image, instead of those of the result.
        channels: Of the result.
        scale: Least and largest share of the area.
        ratio: Least and largest width over height of a part, relative to those proportions.
    """

    def __init__(
        self,
        resolution: int | tuple[int, int],
        squeezed: bool = False,
        channels: int = 3,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        super().__init__()
        self.size = (resolution, resolution) if isinstance(resolution, int) else resolution
        self.squeezed, self.channels, self.scale, self.ratio = squeezed, channels, scale, ratio

    def forward(self, image: EncodedImage | Image.Image | Tensor) -> Tensor:
        if isinstance(image, EncodedImage):
            pixels = image.decode_part(self.choose_part(*image.size()), max(self.size))
        else:
            whole = image if isinstance(image, Tensor) else pil_to_tensor(image)
            pixels = crop(whole, *self.choose_part(*whole.shape[-2:]))
        return with_channels(resize(pixels, list(self.size), antialias=True), self.channels)

    def choose_part(self, height: int, width: int) -> Part:
        """A random part of an image of this size."""
        natural = width / height if self.squeezed else self.size[1] / self.size[0]
        ratio = [bound * natural for bound in self.ratio]
        whole = torch.empty((1, height, width), device="meta")
        return Part(*transforms.RandomResizedCrop.get_params(whole, list(self.scale), ratio))


def evaluation_transform(size: tuple[int, int], channels: int, fit: Fit, large: bool) -> v2.Compose:
    """Decode and fit; nothing is random. Large images lose a margin when they are cropped, as ImageNet's do."""
    return v2.Compose([Decode(channels), FitTo(size, fit, margin=large and fit == "crop")])


def training_transform(
    size: tuple[int, int],
    channels: int,
    fit: Fit,
    large: bool,
    augment: Augment | Callable[[Any], Tensor],
    colour: Colour | None = None,
) -> v2.Compose:
    """Decode, fit and augment.

    Args:
        size: Height and width of the result in pixels.
        channels: Of the result.
        fit: How images of another shape get there.
        large: Images of hundreds of pixels.
        augment: A name of :class:`fastnas.data.DataConfig`, or a transform of uint8 images ``[C, H, W]``.
        colour: What ``photo`` changes; ``None`` for :data:`DARTS_COLOUR`.
    """
    fitted = [Decode(channels), FitTo(size, fit)]
    if callable(augment):
        return v2.Compose([*evaluation_transform(size, channels, fit, large).transforms, augment])
    if augment == "none":
        return evaluation_transform(size, channels, fit, large)
    flip = v2.RandomHorizontalFlip()
    shift = v2.RandomCrop(size, padding=_eighth(size))
    part = RandomResizedCrop(size, fit == "squeeze", channels)
    if augment == "crop":
        return v2.Compose([*fitted, shift])
    if augment == "flip-crop":
        return v2.Compose([*fitted, shift, flip])
    if augment == "auto":
        policy = v2.AutoAugmentPolicy.IMAGENET if large else v2.AutoAugmentPolicy.CIFAR10
        return v2.Compose([*([part] if large else [*fitted, shift]), flip, v2.AutoAugment(policy)])
    colour = DARTS_COLOUR if colour is None else colour
    return v2.Compose([part, flip, *([ColourJitter(colour)] if channels == 3 and any(colour) else [])])


def _eighth(size: tuple[int, int]) -> int | list[int]:
    height, width = (max(1, side // 8) for side in size)
    return height if height == width else [width, height]
