"""Whether images are still the ones that they were: a digest that is cheap for a million files."""

import hashlib
import os
from typing import Any

import numpy as np
from PIL import Image

from fastnas.data.broken import UnreadableImage
from fastnas.data.encoded import EncodedImage
from fastnas.data.images import ImageData, ImageSet

SAMPLED = 256  # images of a set whose contents are read, evenly over its list, which goes class by class
MEASURED = 20_000  # images of a set whose sizes in bytes are asked for


def digest_data(data: ImageData) -> str:
    """Sixteen hexadecimal digits of names, classes, sizes in bytes and a sample of the contents of all images.

    Folders may move and times may change. Images of a set beyond :data:`MEASURED` are represented by that many of them.

    Args:
        data: Whose images, those to test on among them.
    """
    if data.loaders is not None:
        return data.loaders.digest or "batches that change"
    content = hashlib.sha256(repr((data.classes, data.channels)).encode("utf-8", "surrogateescape"))
    for images in (data.train, data.test):
        content.update(targets_to_bytes(images.labels))
        content.update("\n".join(map(str, images.names)).encode("utf-8", "surrogateescape"))
        content.update(repr(_sizes(images)).encode())
        for index in _spread(len(images.labels), SAMPLED):
            content.update(_read(images, index))
    return content.hexdigest()[:16]


def targets_to_bytes(targets: np.ndarray) -> bytes:
    """Targets as bytes that are the same on every machine."""
    return targets.astype("<f8" if targets.dtype.kind == "f" else "<i8").tobytes()


def _spread(count: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist() if count else []


def _sizes(images: ImageSet) -> list[int]:
    """Of the files, where the images lie in files."""
    root: Any = getattr(images.image, "root", None)
    if root is None:
        return []
    sizes = []
    for index in _spread(len(images.names), MEASURED):
        try:
            sizes.append(os.stat(os.path.join(root, images.names[index])).st_size)
        except OSError:
            sizes.append(-1)
    return sizes


def _read(images: ImageSet, index: int) -> bytes:
    try:
        image = images.image(index)
    except UnreadableImage:
        return b"unreadable"
    if isinstance(image, EncodedImage):
        return hashlib.sha256(image.content).digest()
    return np.asarray(image).tobytes() if isinstance(image, Image.Image) else np.ascontiguousarray(image).tobytes()
