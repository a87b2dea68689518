"""One data set for several processes, and one part of it to learn from, another to be judged by."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastnas.data.encoded import EncodedImage
from fastnas.data.images import ImageData, ImageSet, Items
from fastnas.data.index import Halves


def shared(data: ImageData) -> ImageData:
    """The same data with its decoded images in memory that other processes read without a copy.

    Images that lie in files are decoded by whoever needs them, as before.
    """
    return replace(data, train=_shared(data.train), test=_shared(data.test))


def _shared(images: ImageSet) -> ImageSet:
    if not isinstance(images.image, Items):
        return images
    arrays = torch.from_numpy(np.ascontiguousarray(images.image.arrays)).share_memory_()
    return replace(images, image=Items(arrays))


@dataclass(frozen=True)
class _Chosen:
    """Some images of a set, by their place among those that were chosen."""

    images: ImageSet
    indices: np.ndarray

    def __call__(self, index: int) -> EncodedImage | Image.Image | Tensor:
        return self.images.image(int(self.indices[index]))


def held_out(data: ImageData, halves: Halves) -> ImageData:
    """Train and test parts that are both of the training images: to judge what was found without the test set.

    Args:
        data: Whose training images.
        halves: Those to train on; the others are the test part.
    """
    labels = data.train.labels
    train, test = (ImageSet(labels[half], _Chosen(data.train, half)) for half in halves)
    return replace(data, train=train, test=test)
