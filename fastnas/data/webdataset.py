"""WebDataset's tar files, read in any order: members ``KEY.jpg`` (or png, ...) and ``KEY.cls``.

A stream has no order that a seed decides. So the heads of all members are read once, and then every image in one read
from where it begins, as of our own shards.
"""

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastnas.data.config import WHERE
from fastnas.data.images import ImageSet
from fastnas.data.shards import Shards
from fastnas.errors import invalid
from fastnas.tasks.kinds import name_classes

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff")


class Parts(NamedTuple):
    """What tar files hold.

    Args:
        train: Images to train on.
        test: Images to test on; ``None`` where there are no tar files for them.
        classes: Names of all classes.
        left_out: Members ``.cls`` without an image beside them.
    """

    train: ImageSet
    test: ImageSet | None
    classes: tuple[str, ...]
    left_out: int = 0


class _Sample(NamedTuple):
    shard: int
    offset: int
    size: int
    label: str
    name: str


def read_webdataset(root: Path) -> Parts:
    """The tar files of a folder: those whose names begin with ``test`` or ``val`` are to test on, the others to train.

    Args:
        root: The folder, in which or in whose folders ``train``, ``test`` and ``val`` they lie. ``classes.txt`` names
            the classes, one a line, where labels are numbers.
    """
    paths = sorted([*root.glob("*.tar"), *root.glob("train/*.tar"), *root.glob("test/*.tar"), *root.glob("val/*.tar")])
    is_test = [str(path.relative_to(root)).startswith(("test", "val")) for path in paths]
    train = _samples([path for path, held_out in zip(paths, is_test, strict=True) if not held_out])
    test = _samples([path for path, held_out in zip(paths, is_test, strict=True) if held_out])
    labels = {sample.label for sample in (*train[1], *test[1])}
    if not train[1]:
        remedy = "It takes members KEY.jpg (or png, ...) and KEY.cls in files that do not begin with test or val."
        raise invalid(WHERE, f"the tar files of {root} must hold images to train on", "none", remedy)
    if all(label.isdecimal() for label in labels):
        named = root / "classes.txt"
        classes = tuple(named.read_text(encoding="utf-8").split("\n")) if named.is_file() else ()
        classes = tuple(filter(None, classes)) or tuple(name_classes(max(map(int, labels))))
        numbers = {label: int(label) for label in labels}
    else:
        classes = tuple(sorted(labels))
        numbers = {label: number for number, label in enumerate(classes)}
    sets = [_image_set(paths, samples, numbers) for paths, samples, _ in (train, test)]
    return Parts(sets[0], sets[1] if test[1] else None, classes, train[2] + test[2])


def _samples(paths: Sequence[Path]) -> tuple[Sequence[Path], list[_Sample], int]:
    found, left_out = [], 0
    for number, path in enumerate(paths):
        images, labels = dict[str, tarfile.TarInfo](), dict[str, str]()
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    folder, slash, base = member.name.rpartition("/")
                    key, _, ending = base.partition(".")
                    key, ending = folder + slash + key, ending.lower()
                    if member.isfile() and ending in IMAGES:
                        images[key] = member
                    elif member.isfile() and ending == "cls":
                        content = archive.extractfile(member)
                        labels[key] = "" if content is None else content.read(1000).decode("utf-8", "replace").strip()
        except (tarfile.TarError, OSError, EOFError) as error:
            rule = f"{path} must be a tar file, whole and not compressed"
            raise invalid(WHERE, rule, f"{type(error).__name__}: {' '.join(str(error).split())[:100]}") from None
        left_out += len(labels.keys() - images.keys())
        for key, member in images.items():
            if not labels.get(key):
                raise invalid(
                    WHERE, f"every image of {path} must have a member .cls beside it", f"none for {member.name}"
                )
            found.append(_Sample(number, member.offset_data, member.size, labels[key], f"{path.name}/{member.name}"))
    return paths, found, left_out


def _image_set(paths: Sequence[Path], samples: Sequence[_Sample], numbers: dict[str, int]) -> ImageSet:
    names = [sample.name for sample in samples]
    shard, offset, size = (np.array(column, np.int64) for column in list(zip(*samples, strict=True))[:3] or [[]] * 3)
    shards = Shards(tuple(map(str, paths)), shard, offset, size, np.array(names))
    return ImageSet(np.array([numbers[sample.label] for sample in samples], np.int64), shards, names)
