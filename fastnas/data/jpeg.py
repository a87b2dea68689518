"""JPEG files, of which no more is decoded than somebody needs."""

from collections.abc import Callable
from math import inf
from typing import NamedTuple

import simplejpeg
import torch
from PIL import Image
from torch import Tensor

SEQUENTIAL, PROGRESSIVE = b"\xc0\xc1", b"\xc2"  # markers of the head that names the size
MARGIN = 16  # rows: one block of subsampled colours, which those above it are interpolated from


class Part(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


class Frame(NamedTuple):
    """What the head of a JPEG file says.

    Attributes:
        place: Where in the file it names the height and, two bytes later, the width.
        height: In pixels.
        width: In pixels.
        is_common: Whether it is in colour or grey, of 8 bits a component, and no larger than Pillow believes.
        is_progressive: Whether every scan runs over the whole image.
    """

    place: int
    height: int
    width: int
    is_common: bool
    is_progressive: bool


JpegDecoder = Callable[[bytes, Frame, Part, int], Tensor | None]
"""From a common JPEG file that has an end, its frame, a part of the whole image and the divisor of its size, 1, 2, 4 or
8, to the pixels of the part or to ``None``. Pixels are uint8 ``[3, height // divisor, width // divisor]``."""


def read_frame(content: bytes) -> Frame | None:
    """Of a JPEG file; ``None`` for other and for broken files."""
    place = 2 if content.startswith(b"\xff\xd8") else len(content)
    while place + 10 <= len(content) and content[place] == 0xFF and content[place + 1] != 0xDA:
        marker, size = content[place + 1], place + 5  # behind marker, length and precision
        if marker in SEQUENTIAL + PROGRESSIVE:
            height, width = (int.from_bytes(content[i : i + 2]) for i in (size, size + 2))
            precision, components = content[size - 1], content[size + 4]
            is_common = precision == 8 and components in {1, 3} and height * width <= (Image.MAX_IMAGE_PIXELS or inf)
            return Frame(size, height, width, is_common, marker in PROGRESSIVE)
        place += 2 + int.from_bytes(content[place + 2 : place + 4])
    return None


def rows_to_read(head: Frame, part: Part) -> int:
    """How many rows, from the first, a decoder has to read for a part: of a progressive file all."""
    return head.height if head.is_progressive else min(head.height, part.top + part.height + MARGIN)


def with_height(content: bytes, head: Frame, rows: int) -> bytes:
    """A JPEG file of which a decoder reads no more than the first ``rows`` pixels: its head names another height."""
    return content if rows == head.height else content[: head.place] + rows.to_bytes(2) + content[head.place + 2 :]


def decode_jpeg(content: bytes, head: Frame, part: Part, divisor: int) -> Tensor | None:
    """A :data:`JpegDecoder` by libjpeg-turbo: the bits that Pillow gives, without its copies of all pixels."""
    rows = rows_to_read(head, part)
    least = {"min_height": -(-rows // divisor), "min_width": -(-head.width // divisor)} if divisor > 1 else {}
    try:
        # Not strict, since to the decoder the rows that it does not read are too much
        decoded = simplejpeg.decode_jpeg(with_height(content, head, rows), "RGB", strict=False, **least)
    except ValueError:
        return None
    return cut(torch.from_numpy(decoded), part, divisor)


def cut(pixels: Tensor, part: Part, divisor: int) -> Tensor:
    """A part ``[3, height // divisor, width // divisor]`` of an image ``[H, W, 3]`` that was decoded to a fraction of
    its size; the borders are rounded to whole pixels of that."""
    top, left = (round(border / divisor) for border in part[:2])
    rows, columns = (border // divisor for border in part[2:])
    # Without gaps between rows, as to resize it is half the work then
    return pixels[top : top + rows, left : left + columns].contiguous().movedim(-1, 0)
