"""Labelled images that are decoded when they are needed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

Transform = Callable[[Any], Tensor]


@dataclass(frozen=True)
class ImageSet:
    """Images with their classes.

    Args:
        labels: Class of every image, int64 ``[N]``.
        image: From an index to a PIL image or a uint8 tensor ``[C, H, W]`` with the channels of its data set; raises
            ``ValueError`` naming the file for one that cannot be decoded. It is pickled for worker processes.
    """

    labels: np.ndarray
    image: Callable[[int], Image.Image | Tensor]


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """A data set, ready to search on.

    Args:
        name: What runs and reports call it.
        train: Images to train weights and alpha on.
        test: Images that nothing is trained on.
        classes: Names of the classes.
        channels: 3 for colour, 1 for grey images.
        resolution: Side in pixels of what a network sees.
        train_transform: Augments, converts and normalises to float32 ``[C, resolution, resolution]``; draws from
            torch's generator of the CPU.
        eval_transform: The same without augmentation.
        large: Images of hundreds of pixels, for which networks begin with strided convolutions.
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    channels: int
    resolution: int
    train_transform: Transform
    eval_transform: Transform
    large: bool
