"""Images as they lie in files, decoded no larger than somebody needs them."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastnas_kernels.check import complaint

# What PIL raises for files that are no images, or broken ones: among others SyntaxError for PNG, ValueError for PPM
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
SEQUENTIAL, PROGRESSIVE = b"\xc0\xc1", b"\xc2"  # markers of the head that names the size
MARGIN = 16  # rows: one block of subsampled colours, which those above it are interpolated from
SHRINKS = (8, 4, 2)  # by which a JPEG decoder can divide both sides while it inverts the cosine transform


class Part(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


JpegDecoder = Callable[[bytes, Part], Tensor | None]
"""From a JPEG file to the pixels of a part of it, uint8 ``[3, height, width]``, or to ``None``."""


class UnreadableImage(ValueError):
    """A file that holds no image, or a broken one.

    Args:
        name: The file.
        got: What is wrong with it.
    """

    def __init__(self, name: str, got: str) -> None:
        super().__init__(complaint("data", f"{name} must be a readable image", got, "Replace or delete the file."))
        self.name, self.got = name, got

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.name, self.got)


@dataclass(frozen=True)
class EncodedImage:
    """The content of an image file; grey ones, palettes, transparency and CMYK all become RGB.

    Args:
        name: The file, for complaints.
        content: Its bytes.
        jpeg: Decodes what it takes in Pillow's place: JPEG files in colour or grey, at their full size.
    """

    name: str
    content: bytes
    jpeg: JpegDecoder | None = None

    def size(self) -> tuple[int, int]:
        """Height and width in pixels, from the head of the file.

        Raises:
            UnreadableImage: If there is none.
        """
        place = _frame(self.content)
        if place is not None:
            height, width = (int.from_bytes(self.content[i : i + 2]) for i in (place, place + 2))
        else:
            try:
                with Image.open(io.BytesIO(self.content)) as image:
                    height, width = image.height, image.width
            except UNREADABLE as error:
                raise UnreadableImage(self.name, described(error)) from None
        if min(height, width) == 0:
            raise UnreadableImage(self.name, f"{height} by {width} pixels")
        return height, width

    def decode(self) -> Tensor:
        """All pixels, uint8 ``[3, H, W]``.

        Raises:
            UnreadableImage: If they cannot be decoded.
        """
        return self._decoded(None, 0)

    def decode_part(self, part: Part, least: int) -> Tensor:
        """The pixels of a part of the image, uint8 ``[3, height, width]``, or fewer of them.

        If both sides of the part are at least 2, 4 or 8 times ``least``, a JPEG file is decoded to that fraction of its
        size, by a smaller inverse cosine transform. The borders are rounded to whole pixels of the smaller image.
        Rows below the part are not decoded, which changes nothing.

        Args:
            part: Which, in pixels of the whole image.
            least: The sides of what is returned are no shorter, if those of ``part`` are not.

        Raises:
            UnreadableImage: If they cannot be decoded.
        """
        return self._decoded(part, least)

    def _decoded(self, part: Part | None, least: int) -> Tensor:
        pixels = self._in_pillows_place(part, least)
        if pixels is not None:
            return pixels
        content = self.content if part is None else _ending_below(self.content, part.top + part.height + MARGIN)
        try:
            with Image.open(io.BytesIO(content)) as image:
                if part is None:
                    return _pixels(image)
                height, shrink = image.height, _shrink(part, least)
                if shrink > 1 and image.format == "JPEG":
                    image.draft(None, (image.width // shrink, height // shrink))
                divisor = round(height / image.height)
                top, left = (round(border / divisor) for border in part[:2])
                rows, columns = (border // divisor for border in part[2:])
                return _pixels(image.crop((left, top, left + columns, top + rows)))
        except UNREADABLE as error:
            raise UnreadableImage(self.name, described(error)) from None

    def _in_pillows_place(self, part: Part | None, least: int) -> Tensor | None:
        place = None if self.jpeg is None else _frame(self.content)
        if place is None or (part is not None and _shrink(part, least) > 1):
            return None
        precision, components = self.content[place - 1], self.content[place + 4]
        if precision != 8 or components not in (1, 3):
            return None
        assert self.jpeg is not None
        return self.jpeg(self.content, part or Part(0, 0, *self.size()))


def _shrink(part: Part, least: int) -> int:
    return next((by for by in SHRINKS if min(part[2:]) >= by * least), 1)


def _frame(content: bytes) -> int | None:
    """Where a JPEG file names its height and, two bytes later, its width; ``None`` in other and in broken files."""
    place = 2 if content.startswith(b"\xff\xd8") else len(content)
    while place + 9 <= len(content) and content[place] == 0xFF and content[place + 1] != 0xDA:
        if content[place + 1] in SEQUENTIAL + PROGRESSIVE:
            return place + 5  # behind marker, length and precision
        place += 2 + int.from_bytes(content[place + 2 : place + 4])
    return None


def _ending_below(content: bytes, rows: int) -> bytes:
    """A JPEG file of which a decoder reads no more than the first ``rows`` pixels: its head names a smaller height.

    Progressive files, whose scans each run over the whole image, and other formats stay as they are.
    """
    place = _frame(content)
    if place is None or content[place - 4] in PROGRESSIVE or rows >= int.from_bytes(content[place : place + 2]):
        return content
    return content[:place] + rows.to_bytes(2) + content[place + 2 :]


def _pixels(image: Image.Image) -> Tensor:
    image.load()
    return torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB"))).permute(2, 0, 1)


def described(error: BaseException) -> str:
    """The kind of an error and the first sentence of what it says."""
    return f"{type(error).__name__}: {first_sentence(error)}"


def first_sentence(error: BaseException) -> str:
    """Of what an error says, in one line."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")
