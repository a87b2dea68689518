"""Data sets by name: scikit-learn's digits, torchvision's data sets, folders of images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torchvision import datasets

from fastnas.train.data.dali import decoded_by_dali
from fastnas.train.data.division import class_balanced_fraction
from fastnas.train.data.encoded import first_sentence
from fastnas.train.data.folders import SMALL, SMALLEST, load_folder, load_imagenet
from fastnas.train.data.images import ImageData, ImageSet
from fastnas.train.data.shards import load_shards
from fastnas.train.data.transforms import CIFAR, GREY, Normalise, small_transforms
from fastnas_kernels.check import complaint, require

WHERE = "data"
SOURCES = "digits, cifar10:ROOT, cifar100:ROOT, imagenet:ROOT, folder:ROOT or shards:ROOT"


Decoder = Literal["pillow", "dali"]


def load_data(
    source: str, *, download: bool = False, resolution: int | None = None, decoder: Decoder = "pillow"
) -> ImageData:
    """The data set that ``source`` names.

    Args:
        source: ``digits`` (1,797 handwritten digits that come with scikit-learn), ``cifar10:ROOT``,
            ``cifar100:ROOT``, ``imagenet:ROOT`` (torchvision's formats), ``folder:ROOT``, a folder with
            ``train/<class>/*`` and ``test/<class>/*`` or ``val/<class>/*``, or ``shards:ROOT``, what
            ``fastnas shards`` made of one of these. ``ROOT/classes.txt``, if it is there, names the classes of a whole
            of which the folders are a part, one a line.
        download: Fetch CIFAR into ``ROOT`` if it is not there.
        resolution: Side in pixels to bring images to; ``None`` for that of the data.
        decoder: Of JPEG files. Both give the same bits; ``dali`` is an extra, see :mod:`fastnas.train.data.dali`.

    Raises:
        ValueError: If the name or the folder is not as described, or there are no files for ``dali`` to decode.
        RuntimeError: If ``dali`` is not installed.
    """
    kind, _, root = source.partition(":")
    require(kind in _LOADERS, WHERE, f"source must be {SOURCES}", repr(source))
    needs_root = kind != "digits"
    got = repr(source)
    require(bool(root) == needs_root, WHERE, f"{kind} must {'name' if needs_root else 'not name'} a folder", got)
    rule = f"resolution must be at least {SMALLEST} pixels"
    require(resolution is None or resolution >= SMALLEST, WHERE, rule, resolution)
    data = _LOADERS[kind](Path(root).expanduser(), download, resolution)
    return decoded_by_dali(data) if decoder == "dali" else data


@dataclass(frozen=True)
class Items:
    """Images ``[N, ...]`` in memory."""

    arrays: Any

    def __call__(self, index: int) -> torch.Tensor:
        return torch.as_tensor(self.arrays[index])


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


_LOADERS: Mapping[str, Callable[[Path, bool, int | None], ImageData]] = {
    "digits": _digits,
    "cifar10": _cifar("cifar10", datasets.CIFAR10),
    "cifar100": _cifar("cifar100", datasets.CIFAR100),
    "imagenet": load_imagenet,
    "folder": load_folder,
    "shards": load_shards,
}
