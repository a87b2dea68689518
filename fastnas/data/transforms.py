"""Augmentation, with the numbers of the field."""

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import crop, pil_to_tensor, resize, to_pil_image

from fastnas.data.encoded import EncodedImage
from fastnas.data.jpeg import Part


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
            pixels = image.decode_part(self.part_of(*image.size()), self.resolution)
        else:
            whole = Decode()(image)
            pixels = crop(whole, *self.part_of(*whole.shape[-2:]))
        return resize(pixels, [self.resolution, self.resolution], antialias=True)

    def part_of(self, height: int, width: int) -> Part:
        """A random part of an image of this size."""
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
