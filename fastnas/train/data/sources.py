"""Data sets by name: scikit-learn's digits, torchvision's data sets, folders of images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import datasets

from fastnas.train.data.division import class_balanced_fraction
from fastnas.train.data.images import ImageData, ImageSet
from fastnas.train.data.transforms import CIFAR, GREY, large_transforms, small_transforms
from fastnas_kernels.check import complaint, require

WHERE = "data"
SMALL = 96  # pixels; above, images are treated like ImageNet's
SMALLEST = 8  # pixels; a search space halves them twice
# What PIL raises for files that are no images, or broken ones: among others SyntaxError for PNG, ValueError for PPM
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
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
    rule = f"resolution must be at least {SMALLEST} pixels"
    require(resolution is None or resolution >= SMALLEST, WHERE, rule, resolution)
    return _LOADERS[kind](Path(root).expanduser(), download, resolution)


@dataclass(frozen=True)
class Items:
    """Images ``[N, ...]`` in memory."""

    arrays: Any

    def __call__(self, index: int) -> torch.Tensor:
        return torch.as_tensor(self.arrays[index])


@dataclass(frozen=True)
class _Files:
    """Images in files: grey ones, palettes, transparency and CMYK all become RGB."""

    paths: Sequence[str]

    def __call__(self, index: int) -> Image.Image:
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                image.load()
                return image if image.mode == "RGB" else image.convert("RGB")
        except UNREADABLE as error:
            raise ValueError(_unreadable(path, error)) from None


def _digits(root: Path, download: bool, resolution: int | None) -> ImageData:
    from sklearn.datasets import load_digits  # noqa: PLC0415  (half a second that other sources need not wait for)

    bundle: Any = load_digits()
    pixels = (bundle.images * (255 / 16)).round().astype(np.uint8)[:, None]
    labels = bundle.target.astype(np.int64)
    # The data has no test part of its own: this one is the same for every seed, so that runs can be compared
    train = class_balanced_fraction(labels, 0.8, seed=0)
    test = np.setdiff1d(np.arange(len(labels)), train)
    size = resolution or 8
    train_transform, eval_transform = small_transforms(size, GREY, flip=False, resize=size != 8)
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
    )


def _cifar(name: str, dataset: Callable[..., Any]) -> Callable[[Path, bool, int | None], ImageData]:
    def load(root: Path, download: bool, resolution: int | None) -> ImageData:
        try:
            parts = [dataset(str(root), train=train, download=download) for train in (True, False)]
        except (RuntimeError, OSError) as error:  # OSError: no network, no room, no permission
            got = f"{root} ({_first_sentence(error)})"
            remedy = "Fetch it by hand." if download else "Name the folder that holds it, or add --download."
            raise ValueError(complaint(WHERE, f"{name} must be in its folder, whole", got, remedy)) from None
        size = resolution or 32
        train_transform, eval_transform = small_transforms(size, CIFAR, flip=True, resize=size != 32)
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
        )

    return load


def _imagenet(root: Path, download: bool, resolution: int | None) -> ImageData:
    remedy = "Fetch it from image-net.org; its licence forbids doing so for you."
    require(not download, WHERE, "download must be off for imagenet", download, remedy)
    # ROOT/test of the original holds unlabelled images
    return _from_folder("imagenet", root, resolution or 224, ("val",))


def _folder(root: Path, download: bool, resolution: int | None) -> ImageData:
    remedy = "Leave --download out."
    require(not download, WHERE, "download must be off for a folder of your own", download, remedy)
    return _from_folder("folder", root, resolution, ("test", "val"))


def _from_folder(name: str, root: Path, resolution: int | None, held_out: Sequence[str]) -> ImageData:
    require(root.is_dir(), WHERE, "the folder of images must exist", str(root))
    test = next((root / part for part in held_out if (root / part).is_dir()), None)
    complete = (root / "train").is_dir() and test is not None
    found = ", ".join(sorted(entry.name for entry in root.iterdir())[:5]) or "nothing"
    require(complete, WHERE, f"{root} must hold train/ and {' or '.join(f'{part}/' for part in held_out)}", found)
    assert test is not None
    described = name == "imagenet" and (root / "meta.bin").is_file()
    parts = [_imagenet_part(part) if described else _image_folder(part) for part in (root / "train", test)]
    missing = sorted({*map(_class_name, parts[0].classes)} ^ {*map(_class_name, parts[1].classes)})
    rule = f"train/ and {test.name}/ must have the same classes"
    require(not missing, WHERE, rule, f"{missing[0] if missing else ''} in only one of them")
    sets = [ImageSet(np.array(part.targets, np.int64), _Files([path for path, _ in part.samples])) for part in parts]
    size = resolution or _resolution_of(parts[0].samples[0][0])
    large = size > SMALL
    transforms = large_transforms(size) if large else small_transforms(size, CIFAR, flip=True, resize=True)
    return ImageData(
        name=name,
        train=sets[0],
        test=sets[1],
        classes=tuple(map(_class_name, parts[0].classes)),
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
        rule = f"every class folder of {path} must hold images"
        remedy = "Add images or remove the folder."
        raise ValueError(complaint(WHERE, rule, _first_sentence(error), remedy)) from None


def _imagenet_part(path: Path) -> datasets.ImageFolder:
    """Beside ``meta.bin``, which names the synsets; torchvision reads it without executing pickles."""
    try:
        return datasets.ImageNet(str(path.parent), split=path.name)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnpicklingError) as error:
        rule = f"{path.parent / 'meta.bin'} must be torchvision's and name every synset of {path.name}/"
        remedy = "Remove it to call classes by their folders."
        raise ValueError(complaint(WHERE, rule, f"{type(error).__name__}: {_first_sentence(error)}", remedy)) from None


def _class_name(name: str | Sequence[str]) -> str:
    """Of a folder, or all the synonyms of a synset: single ones, like "crane", are not unique."""
    return name if isinstance(name, str) else ", ".join(name)


def _resolution_of(path: str) -> int:
    try:
        with Image.open(path) as image:
            side = min(image.size)
    except UNREADABLE as error:
        raise ValueError(_unreadable(path, error)) from None
    rule = f"the first image, {path}, must have sides of at least {SMALLEST} pixels where no resolution is given"
    require(side >= SMALLEST, WHERE, rule, side, "Set --resolution.")
    return side if side <= SMALL else 224


def _unreadable(path: str, error: BaseException) -> str:
    got = f"{type(error).__name__}: {_first_sentence(error)}"
    return complaint(WHERE, f"{path} must be a readable image", got, "Replace or delete the file.")


def _first_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")


_LOADERS: Mapping[str, Callable[[Path, bool, int | None], ImageData]] = {
    "digits": _digits,
    "cifar10": _cifar("cifar10", datasets.CIFAR10),
    "cifar100": _cifar("cifar100", datasets.CIFAR100),
    "imagenet": _imagenet,
    "folder": _folder,
}
