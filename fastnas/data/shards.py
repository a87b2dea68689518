"""Images in a few tar files instead of a million files, with a table of where each begins.

The tar files follow WebDataset's convention (members ``KEY.jpg`` and ``KEY.cls``), so that its streaming loader reads
them too. Here nothing streams: a table of offsets gives every image in one read, so that the batch of a step stays a
function of seed and step.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from fastnas.data.broken import UNREADABLE, UnreadableImage, describe_error
from fastnas.data.encoded import EncodedImage
from fastnas.data.images import ImageData, ImageSet
from fastnas.errors import complaint, invalid
from fastnas.files import read_json, write_atomically, write_json

FORMAT = "fastnas shards 1"
PARTS = ("train", "test")
QUALITY = 90  # of JPEG files that are made smaller
COLUMNS = ("shard", "offset", "size", "label", "name")


@dataclass(frozen=True)
class Shards:
    """Images in tar files.

    Args:
        paths: The tar files.
        shard: Which of them holds each image, ``[N]``.
        offset: Where it begins, in bytes, ``[N]``.
        size: Its bytes, ``[N]``.
        names: What it is called.
    """

    paths: tuple[str, ...]
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    names: np.ndarray

    def __call__(self, index: int) -> EncodedImage:
        path, size = self.paths[self.shard[index]], int(self.size[index])
        name = f"{self.names[index]} in {path}"
        try:
            content = os.pread(_open_for(path, os.getpid()), size, int(self.offset[index]))
        except OSError as error:
            raise UnreadableImage(name, describe_error(error)) from None
        if len(content) < size:
            raise UnreadableImage(name, f"{len(content)} of {size} bytes")
        return EncodedImage(name, content)


@cache
def _open_for(path: str, process: int) -> int:
    """A descriptor of ``path`` for as long as ``process`` lives."""
    return os.open(path, os.O_RDONLY)


def write_shards(data: ImageData, folder: Path, images_per_shard: int = 10_000, side: int | None = None) -> None:
    """Write the images of ``data`` as tar files with their tables.

    Args:
        data: Images that lie in files.
        folder: Where to; a new one.
        images_per_shard: Images of a tar file.
        side: Shorter side in pixels to bring larger images to, as JPEG of quality 90. They are decoded faster then,
            and are no longer the originals. ``None`` copies every file byte for byte.

    Raises:
        ValueError: If the data set has no files, the folder holds something, or an image cannot be read.
    """
    if images_per_shard < 1:
        raise invalid("shards", "images_per_shard must be at least 1", images_per_shard)
    if side is not None and side < 1:
        raise invalid("shards", "side must be positive", side)
    if folder.exists() and any(folder.iterdir()):
        raise invalid("shards", "the folder must be new", str(folder))
    if not data.train.names:
        raise invalid("shards", "the data set must consist of image files", data.name)
    for part, images in zip(PARTS, (data.train, data.test), strict=True):
        table: dict[str, list[Any]] = {column: [] for column in COLUMNS}
        for number, start in enumerate(range(0, len(images.labels), images_per_shard)):
            indices = range(start, min(start + images_per_shard, len(images.labels)))
            path = folder / f"{part}-{number:05d}.tar"
            write_atomically(path, lambda file, i=indices, s=images, t=table, n=number: _write(file, s, i, side, t, n))
        arrays = {column: np.array(values, "S" if column == "name" else np.int64) for column, values in table.items()}
        write_atomically(
            folder / f"{part}.npz", lambda file, arrays=arrays: np.savez(file, allow_pickle=False, **arrays)
        )
    # Last, since without it the folder is no data set
    write_json(folder / "shards.json", {"format": FORMAT, "name": data.name, "classes": list(data.classes)})


def _write(
    file: Any, images: ImageSet, indices: range, side: int | None, table: dict[str, list[Any]], number: int
) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for index in indices:
            encoded, label = images.image(index), int(images.labels[index])
            assert isinstance(encoded, EncodedImage)
            content, suffix = _shrink(encoded, side)
            for end, member in ((f"{suffix}", content), ("cls", str(label).encode())):
                about = tarfile.TarInfo(f"{index:09d}.{end}")
                about.size = len(member)
                archive.addfile(about, io.BytesIO(member))
                if end == suffix:
                    # The member ends where the archive stands, but for the filling of its last block of 512 bytes
                    begins = archive.offset - -(-len(member) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    row = (number, begins, len(member), label, images.names[index].encode("utf-8", "surrogateescape"))
                    for column, value in zip(COLUMNS, row, strict=True):
                        table[column].append(value)


def _shrink(encoded: EncodedImage, side: int | None) -> tuple[bytes, str]:
    """The content of an image file and the ending of its name, its shorter side at most ``side`` pixels."""
    try:
        with Image.open(io.BytesIO(encoded.content)) as image:
            suffix = {"JPEG": "jpg"}.get(image.format or "", (image.format or "image").lower())
            if side is None or min(image.size) <= side:
                return encoded.content, suffix
            scale = side / min(image.size)
            size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
            content = io.BytesIO()
            image.convert("RGB").resize(size, Image.Resampling.BILINEAR).save(content, "JPEG", quality=QUALITY)
            return content.getvalue(), "jpg"
    except UNREADABLE as error:
        raise UnreadableImage(encoded.name, describe_error(error)) from None


def read_shards(root: Path, download: bool) -> tuple[str, ImageSet, ImageSet, tuple[str, ...]]:
    """What :func:`write_shards` wrote: the name of the data, images to train and to test on, and their classes."""
    if download:
        raise invalid("data", "download must be off for shards", download, "Leave --download out.")
    about = root / "shards.json"
    if not about.is_file():
        raise invalid("data", f"{root} must hold shards", "no shards.json in it", "Write them: fastnas shards.")
    content: Any = read_json(about)
    is_ours = isinstance(content, dict) and content.get("format") == FORMAT
    is_ours = is_ours and isinstance(content.get("name"), str) and _are_names(content.get("classes"))
    if not is_ours:
        raise invalid("data", f"{about} must be a file of fastnas", "another program's file")
    train, test = (_part(root, part, len(content["classes"])) for part in PARTS)
    return content["name"], train, test, tuple(content["classes"])


def _are_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _part(root: Path, part: str, num_classes: int) -> ImageSet:
    table = root / f"{part}.npz"
    rule, remedy = f"{table} must be the table of the tar files beside it", "Write the shards again."
    try:
        with np.load(table, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in COLUMNS}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(complaint("data", rule, describe_error(error), remedy)) from None
    if wrong := next(_faults(columns, num_classes), ""):
        raise invalid("data", rule, wrong, remedy)
    count = int(columns["shard"].max()) + 1
    paths = tuple(str(root / f"{part}-{number:05d}.tar") for number in range(count))
    ends = np.zeros(count, np.int64)
    np.maximum.at(ends, columns["shard"], columns["offset"] + columns["size"])
    for path, end in zip(paths, ends, strict=True):
        there = os.path.getsize(path) if os.path.isfile(path) else 0
        if there < int(end):
            raise invalid("data", f"{path} must hold what its table says", f"{there} bytes of {end}", remedy)
    names = np.array([name.decode("utf-8", "surrogateescape") for name in columns["name"].tolist()])
    shards = Shards(paths, columns["shard"], columns["offset"], columns["size"], names)
    return ImageSet(columns["label"], shards, names.tolist())


def _faults(columns: dict[str, np.ndarray], num_classes: int) -> Iterator[str]:
    """What is wrong with a table, in words."""
    count = len(columns["label"]) if columns["label"].ndim == 1 else 0
    if count == 0:
        yield "no images"
        return
    limits = {"shard": count, "offset": 2**62, "size": 2**62, "label": num_classes}  # a sum of two is no overflow
    for name, array in columns.items():
        kind = "S" if name == "name" else "i"
        if array.shape != (count,) or array.dtype.kind != kind:
            yield f"{name}: {array.dtype}{list(array.shape)} beside {count} labels"
        elif kind == "i" and (array.min() < 0 or array.max() >= limits[name]):
            yield f"{name}: from {array.min()} to {array.max()}"
