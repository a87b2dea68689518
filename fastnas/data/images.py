"""Labelled images that are decoded when they are needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastnas.data.encoded import EncodedImage
from fastnas.data.loaders import Loaders
from fastnas.supernet.layout import Fit
from fastnas.tasks import CLASSIFICATION, Task

SMALL = 96  # pixels; above, images are treated like ImageNet's
THIN = 64  # pixels: a shorter side that no strided stem could halve five times
Transform = Callable[[Any], Tensor]


def is_large(size: tuple[int, ...]) -> bool:
    """Whether images of this size are photographs, for which networks begin with strided convolutions."""
    return min(size) >= THIN and prod(size) > SMALL**2


def as_they_are(images: Tensor) -> Tensor:
    """The images."""
    return images


@dataclass(frozen=True)
class Items:
    """Images ``[N, ...]`` in memory."""

    arrays: Any

    def __call__(self, index: int) -> Tensor:
        return torch.as_tensor(self.arrays[index])


@dataclass(frozen=True)
class ImageSet:
    """Images with their targets.

    Args:
        labels: Class of every image, int64 ``[N]``; for other tasks their targets ``[N, ...]``.
        image: From an index to an encoded image, a PIL image or a uint8 tensor ``[C, H, W]`` with the channels of its
            data set; raises ``UnreadableImage`` for one that cannot be read. It is pickled for worker processes.
        names: What the images are called in their data set, wherever it lies; empty if they have no names.
    """

    labels: np.ndarray
    image: Callable[[int], EncodedImage | Image.Image | Tensor]
    names: Sequence[str] = ()

    def select(self, indices: np.ndarray) -> "ImageSet":
        """The images ``indices`` as a set of its own."""
        names = [str(self.names[int(i)]) for i in indices] if len(self.names) else []
        return ImageSet(self.labels[indices], _Selected(self.image, indices), names)


@dataclass(frozen=True)
class _Selected:
    image: Callable[[int], Any]
    indices: np.ndarray

    def __call__(self, index: int) -> Any:
        return self.image(int(self.indices[index]))


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """A data set, ready to search on.

    Args:
        name: What runs and reports call it.
        train: Images to train weights and alpha on.
        test: Images that nothing is trained on.
        classes: Names of the classes, or of the numbers of a regression.
        channels: 3 for colour, 1 for grey images.
        resolution: Height and width in pixels of what a network sees; one number for series, three for volumes.
        train_transform: Decodes and augments, to uint8 ``[C, height, width]``; draws from torch's generator of the CPU.
        eval_transform: The same without augmentation.
        large: Images of hundreds of pixels, for which networks begin with strided convolutions.
        normalise: From batches of those, uint8 ``[N, C, height, width]`` on any device, to float32. Apart from the
            transforms, so that a byte a value is all that travels from a worker process to a GPU.
        fit: How images of another shape were brought to the resolution.
        augment: The name of the augmentation, or ``own``.
        notes: What was found out and decided, a sentence each.
        values: Of arrays that are no pixels of 8 bits, the numbers that became 0 and 255.
        loaders: Data loaders of one's own, which give the batches in place of ``train`` and ``test``.
        task: What the outputs of a network mean, and how networks are trained and compared.
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    channels: int
    resolution: tuple[int, ...]
    train_transform: Transform
    eval_transform: Transform
    large: bool
    normalise: Callable[[Tensor], Tensor] = as_they_are
    fit: Fit = "squeeze"
    augment: str = "none"
    notes: tuple[str, ...] = ()
    values: tuple[float, float] | None = None
    loaders: Loaders | None = None
    task: Task = CLASSIFICATION

    @property
    def identity(self) -> list[Any]:
        """What must be equal for a checkpoint to go on with these images."""
        found_out = ("train_images", "test_images", "notes", "classes")
        return [self.name, {key: value for key, value in self.describe().items() if key not in found_out}]

    def describe(self) -> dict[str, Any]:
        """What decides how the images look to a network, as JSON."""
        statistics = getattr(self.normalise, "statistics", None)
        other = {} if self.task.name == "classification" and self.task.own_loss is None else self.task.describe()
        return ({"task": other} if other else {}) | {
            "name": self.name,
            "classes": list(self.classes),
            "train_images": len(self.train.labels),
            "test_images": len(self.test.labels),
            "channels": self.channels,
            "resolution": list(self.resolution),
            "large": self.large,
            "fit": self.fit,
            "augment": self.augment,
            "values": None if self.values is None else list(self.values),
            "statistics": None if statistics is None else {"mean": statistics.mean, "std": statistics.std},
            "notes": list(self.notes),
        }


def read_items(images: ImageSet, indices: np.ndarray) -> Tensor | None:
    """A batch of images that lie in memory, ``[N, ...]``; ``None`` for others."""
    image = images.image
    while isinstance(image, _Selected):
        image, indices = image.image, image.indices[indices]
    return torch.as_tensor(image.arrays[indices]) if isinstance(image, Items) else None


def hold_out(data: ImageData, train: np.ndarray, test: np.ndarray) -> ImageData:
    """``data`` with both parts taken from its training images, to validate without the test set.

    Args:
        data: Whose training images.
        train: Those to train on.
        test: Those to validate on.
    """
    return replace(data, train=data.train.select(train), test=data.train.select(test))


def share_memory(data: ImageData) -> ImageData:
    """``data`` with its decoded images in memory that other processes read without a copy.

    Images that lie in files are decoded by whoever needs them, as before.
    """
    return replace(data, train=_share(data.train), test=_share(data.test))


def _share(images: ImageSet) -> ImageSet:
    if not isinstance(images.image, Items):
        return images
    arrays = torch.from_numpy(np.ascontiguousarray(images.image.arrays)).share_memory_()
    return replace(images, image=Items(arrays))
