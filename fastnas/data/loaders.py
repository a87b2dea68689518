"""Loaders of the data sets that have names: scikit-learn's digits, torchvision's data sets, folders of images."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from fastnas.data.division import class_balanced_fraction
from fastnas.data.encoded import first_sentence
from fastnas.data.folders import load_folder, load_imagenet, photographs
from fastnas.data.images import SMALL, WHERE, ImageData, ImageSet, Items
from fastnas.data.pixels import CIFAR, GREY, Normalise
from fastnas.data.shards import read_shards
from fastnas.data.transforms import small_transforms
from fastnas_kernels.check import complaint


def _digits(root: Path, download: bool, resolution: int | None) -> ImageData:
    from sklearn.datasets import load_digits  # noqa: PLC0415  (half a second that other sources need not wait for)

    bundle: Any = load_digits()
    pixels = (bundle.images * (255 / 16)).round().astype(np.uint8)[:, None]
    labels = bundle.target.astype(np.int64)
    # The data has no test part of its own: this one is the same for every seed, so that runs can be compared
    train = class_balanced_fraction(labels, 0.8, seed=0)
    test = np.setdiff1d(np.arange(len(labels)), train)
    size = resolution or 8
    train_transform, eval_transform = small_transforms(size, flip=False, resize=size != 8)
    sets = (ImageSet(labels[part], Items(pixels[part])) for part in (train, test))
    return ImageData(
        name="digits",
        train=next(sets),
        test=next(sets),
        classes=tuple(map(str, range(10))),
        channels=1,
        resolution=size,
        train_transform=train_transform,
        eval_transform=eval_transform,
        large=False,
        normalise=Normalise(GREY),
    )


def _cifar(name: str, dataset: Callable[..., Any]) -> Callable[[Path, bool, int | None], ImageData]:
    def load(root: Path, download: bool, resolution: int | None) -> ImageData:
        try:
            parts = [dataset(str(root), train=train, download=download) for train in (True, False)]
        except (RuntimeError, OSError) as error:  # OSError: no network, no room, no permission
            got = f"{root} ({first_sentence(error)})"
            remedy = "Fetch it by hand." if download else "Name the folder that holds it, or add --download."
            raise ValueError(complaint(WHERE, f"{name} must be in its folder, whole", got, remedy)) from None
        size = resolution or 32
        train_transform, eval_transform = small_transforms(size, flip=True, resize=size != 32)
        sets = [ImageSet(np.array(part.targets, np.int64), Items(part.data.transpose(0, 3, 1, 2))) for part in parts]
        return ImageData(
            name=name,
            train=sets[0],
            test=sets[1],
            classes=tuple(parts[0].classes),
            channels=3,
            resolution=size,
            train_transform=train_transform,
            eval_transform=eval_transform,
            large=size > SMALL,
            normalise=Normalise(CIFAR),
        )

    return load


def _shards(root: Path, download: bool, resolution: int | None) -> ImageData:
    return photographs(*read_shards(root, download), resolution)


LOADERS: Mapping[str, Callable[[Path, bool, int | None], ImageData]] = {
    "digits": _digits,
    "cifar10": _cifar("cifar10", datasets.CIFAR10),
    "cifar100": _cifar("cifar100", datasets.CIFAR100),
    "imagenet": load_imagenet,
    "folder": load_folder,
    "shards": _shards,
}
