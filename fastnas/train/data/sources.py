"""Data sets by name: scikit-learn's digits, torchvision's data sets, folders of images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision import datasets

from fastnas.train.data.division import class_balanced_fraction
from fastnas.train.data.images import ImageData, ImageSet
from fastnas.train.data.transforms import CIFAR, GREY, large_transforms, small_transforms
from fastnas_kernels.check import complaint, require

WHERE = "data"
SMALL = 96  # pixels; above, images are treated like ImageNet's
SOURCES = "digits, cifar10:ROOT, cifar100:ROOT, imagenet:ROOT or folder:ROOT"


def load_data(source: str, *, download: bool = False, resolution: int | None = None) -> ImageData:
    """The data set that ``source`` names.

    Args:
        source: ``digits`` (1,797 handwritten digits that come with scikit-learn), ``cifar10:ROOT``,
            ``cifar100:ROOT``, ``imagenet:ROOT`` (torchvision's formats) or ``folder:ROOT``, a folder with
            ``train/<class>/*`` and ``test/<class>/*`` or ``val/<class>/*``.
        download: Fetch CIFAR into ``ROOT`` if it is not there.
        resolution: Side in pixels to bring images to; ``None`` for that of the data.

    Raises:
        ValueError: If the name or the folder is not as described.
    """
    kind, _, root = source.partition(":")
    require(kind in _LOADERS, WHERE, f"source must be {SOURCES}", repr(source))
    needs_root = kind != "digits"
    got = repr(source)
    require(bool(root) == needs_root, WHERE, f"{kind} must {'name' if needs_root else 'not name'} a folder", got)
    require(resolution is None or resolution >= 8, WHERE, "resolution must be at least 8 pixels", resolution)
    return _LOADERS[kind](Path(root).expanduser(), download, resolution)


@dataclass(frozen=True)
class _Items:
    """Images ``[N, ...]`` in memory."""

    arrays: Any

    def __call__(self, index: int) -> torch.Tensor:
        return torch.as_tensor(self.arrays[index])


@dataclass(frozen=True)
class _Files:
    """Images in files."""

    paths: Sequence[str]

    def __call__(self, index: int) -> Image.Image:
        with Image.open(self.paths[index]) as image:
            image.load()
            return image

    def name_of(self, index: int) -> str:
        return self.paths[index]


@dataclass(frozen=True)
class _Numbered:
    name: str

    def __call__(self, index: int) -> str:
        return f"image {index} of {self.name}"


def _digits(root: Path, download: bool, resolution: int | None) -> ImageData:
    from sklearn.datasets import load_digits  # noqa: PLC0415  (half a second that other sources need not wait for)

    bundle: Any = load_digits()
    pixels = (bundle.images * (255 / 16)).round().astype(np.uint8)[:, None]
    labels = bundle.target.astype(np.int64)
    # The data has no test part of its own: this one is the same for every seed, so that runs can be compared
    train = class_balanced_fraction(labels, 0.8, seed=0)
    test = np.setdiff1d(np.arange(len(labels)), train)
    size = resolution or 8
    train_transform, eval_transform = small_transforms(size, 1, GREY, flip=False, resize=size != 8)
    sets = (ImageSet(labels[part], _Items(pixels[part]), _Numbered("digits")) for part in (train, test))
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
    )


def _cifar(name: str, dataset: Callable[..., Any]) -> Callable[[Path, bool, int | None], ImageData]:
    def load(root: Path, download: bool, resolution: int | None) -> ImageData:
        try:
            parts = [dataset(str(root), train=train, download=download) for train in (True, False)]
        except RuntimeError as error:
            got = f"{root} ({' '.join(str(error).split())})"
            remedy = "Name the folder that holds it, or add --download."
            raise ValueError(complaint(WHERE, f"{name} must be in its folder, whole", got, remedy)) from None
        size = resolution or 32
        train_transform, eval_transform = small_transforms(size, 3, CIFAR, flip=True, resize=size != 32)
        sets = [
            ImageSet(np.array(part.targets, np.int64), _Items(part.data.transpose(0, 3, 1, 2)), _Numbered(name))
            for part in parts
        ]
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
        )

    return load


def _imagenet(root: Path, download: bool, resolution: int | None) -> ImageData:
    remedy = "Fetch it from image-net.org; its licence forbids doing so for you."
    require(not download, WHERE, "download must be off for imagenet", download, remedy)
    return _from_folder("imagenet", root, resolution or 224)


def _folder(root: Path, download: bool, resolution: int | None) -> ImageData:
    remedy = "Leave --download out."
    require(not download, WHERE, "download must be off for a folder of your own", download, remedy)
    return _from_folder("folder", root, resolution)


def _from_folder(name: str, root: Path, resolution: int | None) -> ImageData:
    require(root.is_dir(), WHERE, "the folder of images must exist", str(root))
    test = next((root / part for part in ("test", "val") if (root / part).is_dir()), None)
    complete = (root / "train").is_dir() and test is not None
    found = ", ".join(sorted(entry.name for entry in root.iterdir())[:5]) or "nothing"
    require(complete, WHERE, f"{root} must hold train/ and test/ or val/", found)
    assert test is not None
    parts = [_image_folder(root / "train"), _image_folder(test)]
    missing = sorted(set(parts[0].classes) ^ set(parts[1].classes))
    rule = f"train/ and {test.name}/ must have the same classes"
    require(not missing, WHERE, rule, f"{missing[0] if missing else ''} in only one of them")
    sets = [
        ImageSet(np.array(part.targets, np.int64), files, files.name_of)
        for part in parts
        for files in [_Files([path for path, _ in part.samples])]
    ]
    sides = _size_of_first(parts[0].samples[0][0])
    size = resolution or (min(sides) if min(sides) <= SMALL else 224)
    large = size > SMALL
    transforms = large_transforms(size) if large else small_transforms(size, 3, CIFAR, flip=True, resize=True)
    return ImageData(
        name=name,
        train=sets[0],
        test=sets[1],
        classes=tuple(parts[0].classes),
        channels=3,
        resolution=size,
        train_transform=transforms[0],
        eval_transform=transforms[1],
        large=large,
    )


def _image_folder(path: Path) -> datasets.ImageFolder:
    try:
        return datasets.ImageFolder(str(path))
    except FileNotFoundError as error:
        got = " ".join(str(error).split())
        rule = f"every class folder of {path} must hold images"
        raise ValueError(complaint(WHERE, rule, got, "Add images or remove the folder.")) from None


def _size_of_first(path: str) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (UnidentifiedImageError, OSError) as error:
        remedy = "Replace or delete the file."
        rule = f"{path} must be a readable image"
        raise ValueError(complaint(WHERE, rule, type(error).__name__, remedy)) from None


_LOADERS: Mapping[str, Callable[[Path, bool, int | None], ImageData]] = {
    "digits": _digits,
    "cifar10": _cifar("cifar10", datasets.CIFAR10),
    "cifar100": _cifar("cifar100", datasets.CIFAR100),
    "imagenet": _imagenet,
    "folder": _folder,
}
