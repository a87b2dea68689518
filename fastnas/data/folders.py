"""Folders of images, ImageNet's among them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
from torchvision import datasets

from fastnas.data.encoded import EncodedImage, UnreadableImage, described, first_sentence
from fastnas.data.images import SMALL, SMALLEST, WHERE, ImageData, ImageSet
from fastnas.data.pixels import CIFAR, IMAGENET, Normalise
from fastnas.data.transforms import large_transforms, small_transforms
from fastnas_kernels.check import complaint, require


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
            with open(path, "rb") as file:
                return EncodedImage(path, file.read())
        except OSError as error:
            raise UnreadableImage(path, described(error)) from None


def load_imagenet(root: Path, download: bool, resolution: int | None) -> ImageData:
    """ImageNet as torchvision unpacks it."""
    remedy = "Fetch it from image-net.org; its licence forbids doing so for you."
    require(not download, WHERE, "download must be off for imagenet", download, remedy)
    # ROOT/test of the original holds unlabelled images
    return _from_folder("imagenet", root, resolution or 224, ("val",))


def load_folder(root: Path, download: bool, resolution: int | None) -> ImageData:
    """A folder of the user's own."""
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
    has_synsets = name == "imagenet" and (root / "meta.bin").is_file()
    parts = [_imagenet_part(part) if has_synsets else _image_folder(part) for part in (root / "train", test)]
    missing = sorted({*map(_class_name, parts[0].classes)} ^ {*map(_class_name, parts[1].classes)})
    rule = f"train/ and {test.name}/ must have the same classes"
    require(not missing, WHERE, rule, f"{missing[0] if missing else ''} in only one of them")
    folders = [tuple(map(_class_name, part.classes)) for part in parts]
    classes = _all_classes(root / "classes.txt", folders[0])
    places = np.array([classes.index(name) for name in folders[0]], np.int64)
    sets = [_image_set(part, places) for part in parts]
    return photographs(name, sets[0], sets[1], classes, resolution)


def _image_set(part: datasets.ImageFolder, places: np.ndarray) -> ImageSet:
    root = str(part.root)
    folder, name = os.path.split(root)
    names = [name + path.removeprefix(root) for path, _ in part.samples]
    return ImageSet(places[np.array(part.targets)], Files(folder, names), names)


def photographs(
    name: str, train: ImageSet, test: ImageSet, classes: tuple[str, ...], resolution: int | None
) -> ImageData:
    """Encoded colour images as a data set; small ones are treated like CIFAR's, large ones like ImageNet's.

    Args:
        name: What runs and reports call it.
        train: Images to train on.
        test: Images that nothing is trained on.
        classes: Their names.
        resolution: Side in pixels to bring images to; ``None`` for that of the first, or 224 if it is large.
    """
    size = resolution or _resolution_of(train)
    large = size > SMALL
    transforms = large_transforms(size) if large else small_transforms(size, flip=True, resize=True)
    return ImageData(
        name=name,
        train=train,
        test=test,
        classes=classes,
        channels=3,
        resolution=size,
        train_transform=transforms[0],
        eval_transform=transforms[1],
        large=large,
        normalise=Normalise(IMAGENET if large else CIFAR),
    )


def _all_classes(path: Path, present: tuple[str, ...]) -> tuple[str, ...]:
    """Those that a file names, one a line, of which those that are present are a part; without a file, the latter."""
    if not path.is_file():
        return present
    classes = tuple(line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line)
    unknown = sorted(set(present) - set(classes))
    rule = f"{path} must name every class that is there, one a line and each once"
    got = f"no {unknown[0]!r}" if unknown else f"{len(classes)} lines of {len(set(classes))} classes"
    require(not unknown and len(set(classes)) == len(classes), WHERE, rule, got)
    return classes


def _image_folder(path: Path) -> datasets.ImageFolder:
    try:
        return datasets.ImageFolder(str(path))
    except FileNotFoundError as error:
        rule = f"every class folder of {path} must hold images"
        remedy = "Add images or remove the folder."
        raise ValueError(complaint(WHERE, rule, first_sentence(error), remedy)) from None


def _imagenet_part(path: Path) -> datasets.ImageFolder:
    """Beside ``meta.bin``, which names the synsets; torchvision reads it without executing pickles."""
    try:
        return datasets.ImageNet(str(path.parent), split=path.name)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnpicklingError) as error:
        rule = f"{path.parent / 'meta.bin'} must be torchvision's and name every synset of {path.name}/"
        remedy = "Remove it to call classes by their folders."
        raise ValueError(complaint(WHERE, rule, described(error), remedy)) from None


def _class_name(name: str | Sequence[str]) -> str:
    """Of a folder, or all the synonyms of a synset: single ones, like "crane", are not unique."""
    return name if isinstance(name, str) else ", ".join(name)


def _resolution_of(images: ImageSet) -> int:
    first = images.image(0)
    assert isinstance(first, EncodedImage)
    side = min(first.size())
    rule = f"the first image, {first.name}, must have sides of at least {SMALLEST} pixels where no resolution is given"
    require(side >= SMALLEST, WHERE, rule, side, "Set --resolution.")
    return side if side <= SMALL else 224
