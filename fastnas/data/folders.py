"""Folders of images, ImageNet's among them."""

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np

from fastnas.data.broken import UnreadableImage, describe_error, first_sentence
from fastnas.data.config import WHERE, DataConfig
from fastnas.data.encoded import EncodedImage
from fastnas.data.images import SMALL, ImageData, ImageSet
from fastnas.data.pixels import CIFAR, IMAGENET
from fastnas.data.prepare import Defaults, prepare, say
from fastnas.errors import complaint, invalid
from fastnas.supernet.layout import height_and_width

LARGEST = 2**28
"""Bytes of an image file: a photograph has thousands of times less."""
IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of the names of images, those of torchvision."""


@dataclass(frozen=True)
class Files:
    """Images in files, read whole and decoded later.

    Args:
        root: The folder of the data set.
        names: Their paths in it.
    """

    root: str
    names: Sequence[str]

    def __call__(self, index: int) -> EncodedImage:
        path = os.path.join(self.root, self.names[index])
        try:
            about = os.stat(path)
            if not stat.S_ISREG(about.st_mode):  # a pipe would wait for ever, and a device has no end
                raise UnreadableImage(path, "no regular file")
            if about.st_size > LARGEST:
                raise UnreadableImage(path, f"{about.st_size} bytes, more than {LARGEST}")
            with open(path, "rb") as file:
                return EncodedImage(path, file.read(LARGEST + 1))
        except OSError as error:
            raise UnreadableImage(path, describe_error(error)) from None


def load_imagenet(root: Path, config: DataConfig) -> ImageData:
    """ImageNet as torchvision unpacks it."""
    remedy = "Fetch it from image-net.org; its licence does not let fastnas do so."
    if config.download:
        raise invalid(WHERE, "download must be off for imagenet", True, remedy)
    # ROOT/test of the original holds unlabelled images
    return _load("imagenet", root, config, ("val",))


def load_folder(root: Path, config: DataConfig) -> ImageData:
    """A folder of the user's own."""
    if config.download:
        raise invalid(WHERE, "download must be off for a folder of your own", True, "Leave --download out.")
    return _load("folder", root, config, ("test", "val"))


def _load(name: str, root: Path, config: DataConfig, held_out: Sequence[str]) -> ImageData:
    if not root.is_dir():
        raise invalid(WHERE, "the folder of images must exist", str(root))
    test = next((root / part for part in held_out if (root / part).is_dir()), None)
    if not (root / "train").is_dir() or test is None:
        found = ", ".join(sorted(entry.name for entry in root.iterdir())[:5]) or "nothing"
        raise invalid(WHERE, f"{root} must hold train/ and {' or '.join(f'{part}/' for part in held_out)}", found)
    read = _read_imagenet if name == "imagenet" and (root / "meta.bin").is_file() else _read_classes
    seen = [_Endings() for _ in range(2)]
    parts = [read(part, endings) for part, endings in zip((root / "train", test), seen, strict=True)]
    # The names of folders, or all the synonyms of synsets: single ones, like "crane", are not unique
    folders = [tuple(n if isinstance(n, str) else ", ".join(n) for n in part.classes) for part in parts]
    missing = sorted({*folders[0]} ^ {*folders[1]})
    if missing:
        rule = f"train/ and {test.name}/ must have the same classes"
        raise invalid(WHERE, rule, f"{missing[0]} in only one of them")
    classes = _read_all_classes(root / "classes.txt", folders[0])
    places = np.array([classes.index(name) for name in folders[0]], np.int64)
    sets = [_image_set(part, places) for part in parts]
    data = prepare_files(name, sets[0], sets[1], classes, config)
    counts = [
        f"{len(part.labels):,} images in {folder}/" for part, folder in zip(sets, ("train", test.name), strict=True)
    ]
    data = replace(data, notes=(", ".join(counts), *data.notes))
    others = seen[0].others + seen[1].others
    return say(data, _describe_others(others)) if others else data


class _Endings:
    """Tells images by the endings of their names, and counts the files that are none; asked for each file once."""

    def __init__(self) -> None:
        self.others = Counter[str]()

    def __call__(self, path: str) -> bool:
        name = os.path.basename(path).lower()
        if name.endswith(IMAGES):
            return True
        if not name.startswith(".") and os.path.isfile(path):
            self.others[os.path.splitext(name)[1] or "none"] += 1
        return False


def _describe_others(others: Counter[str]) -> str:
    """How many files are left out, and their commonest endings."""
    count, some = others.total(), [ending for ending, _ in others.most_common(5)]
    more = ", ..." if len(others) > len(some) else ""
    files = "1 file of another ending is" if count == 1 else f"{count:,} files of other endings are"
    return f"{files} left out ({', '.join(some)}{more})"


def _image_set(part: Any, places: np.ndarray) -> ImageSet:
    root = str(part.root)
    folder, name = os.path.split(root)
    names = [name + path.removeprefix(root) for path, _ in part.samples]
    return ImageSet(places[np.array(part.targets)], Files(folder, names), names)


def prepare_files(
    name: str, train: ImageSet, test: ImageSet, classes: tuple[str, ...], config: DataConfig
) -> ImageData:
    """Images in files as a data set: ImageNet as everybody prepares it, others by what they look like."""
    is_imagenet = name == "imagenet"
    side = 224 if config.resolution is None else min(height_and_width(config.resolution))
    defaults = Defaults(
        resolution=(224, 224),
        channels=3,
        statistics=IMAGENET if side > SMALL else CIFAR,
        augment="photo" if side > SMALL else "flip-crop",
    )
    return prepare(name, train, test, classes, config, defaults if is_imagenet else Defaults())


def _read_all_classes(path: Path, present: tuple[str, ...]) -> tuple[str, ...]:
    """Those that a file names, one a line, of which those that are present are a part; without a file, the latter."""
    if not path.is_file():
        return present
    classes = tuple(line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line)
    unknown = sorted(set(present) - set(classes))
    if unknown or len(set(classes)) < len(classes):
        got = f"no {unknown[0]!r}" if unknown else f"{len(classes)} lines of {len(set(classes))} classes"
        raise invalid(WHERE, f"{path} must name every class that is there, one a line and each once", got)
    return classes


def _read_classes(path: Path, endings: _Endings) -> Any:
    from torchvision import datasets  # noqa: PLC0415

    try:
        return datasets.ImageFolder(str(path), is_valid_file=endings)
    except FileNotFoundError as error:
        rule = f"every class folder of {path} must hold images"
        remedy = "Add images or remove the folder."
        if endings.others:
            remedy = f"{_describe_others(endings.others)}: images are {', '.join(IMAGES)}."
        raise ValueError(complaint(WHERE, rule, first_sentence(error), remedy)) from None


def _read_imagenet(path: Path, endings: _Endings) -> Any:
    """Beside ``meta.bin``, which names the synsets; torchvision reads it without executing pickles."""
    from torchvision import datasets  # noqa: PLC0415

    try:
        return datasets.ImageNet(str(path.parent), split=path.name, is_valid_file=endings)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnpicklingError) as error:
        rule = f"{path.parent / 'meta.bin'} must be torchvision's and name every synset of {path.name}/"
        remedy = "Remove it to name classes after their folders."
        raise ValueError(complaint(WHERE, rule, describe_error(error), remedy)) from None
