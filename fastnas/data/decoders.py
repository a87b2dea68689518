"""Who decodes JPEG files: simplejpeg, or libjpeg-turbo 3 itself, an extra (``pip install fastnas[turbojpeg]``).

libjpeg-turbo gives the same bits in less time: what lies above and beside a part is read, but neither transformed nor
coloured. No library for Python offers that, so its C interface is called.
"""

from collections.abc import Callable
from ctypes import CDLL, Structure, c_char_p, c_int, c_size_t, c_void_p
from ctypes.util import find_library
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastnas.data.config import WHERE, Decoder
from fastnas.data.encoded import EncodedImage
from fastnas.data.images import ImageData
from fastnas.data.jpeg import Frame, Part, cut, decode_jpeg
from fastnas.errors import Unavailable, complaint, invalid

DECOMPRESS, SUBSAMPLING, RGB = 1, 4, 0  # TJINIT_DECOMPRESS, TJPARAM_SUBSAMP, TJPF_RGB
BLOCKS = {0: 8, 1: 16, 2: 16, 3: 8, 4: 8, 5: 32, 6: 8}  # by subsampling (TJSAMP): columns that are coded together
BESIDE = 8  # columns: more than the colours of a pixel are interpolated from


def use_decoder(decoder: Decoder, data: ImageData) -> ImageData:
    """``data`` whose JPEG files ``decoder`` decodes, wherever they are decoded at their full size.

    Files that it does not take, broken ones among them, are decoded as if it were not there.
    """
    if decoder == "simplejpeg":
        return data
    if not data.train.names:
        raise invalid(WHERE, "decoder must be simplejpeg unless the data are image files", decoder)
    load_turbojpeg()
    train, test = (replace(part, image=_Decoded(part.image)) for part in (data.train, data.test))
    return replace(data, train=train, test=test)


@dataclass(frozen=True)
class _Decoded:
    """The same encoded images, to be decoded by libjpeg-turbo."""

    image: Callable[[int], Any]

    def __call__(self, index: int) -> EncodedImage:
        return replace(self.image(index), jpeg=decode_jpeg_by_turbojpeg)


def decode_jpeg_by_turbojpeg(content: bytes, head: Frame, part: Part, divisor: int) -> Tensor | None:
    """A ``JpegDecoder`` that leaves parts to be decoded smaller, and files that it does not take, to simplejpeg."""
    pixels = _decode(content, head, part) if divisor == 1 else None
    return decode_jpeg(content, head, part, divisor) if pixels is None else pixels


class _Region(Structure):
    _fields_ = (("left", c_int), ("top", c_int), ("width", c_int), ("height", c_int))


SIGNATURES = {
    "tj3Init": (c_void_p, [c_int]),
    "tj3Destroy": (None, [c_void_p]),
    "tj3Get": (c_int, [c_void_p, c_int]),
    "tj3DecompressHeader": (c_int, [c_void_p, c_char_p, c_size_t]),
    "tj3SetCroppingRegion": (c_int, [c_void_p, _Region]),
    "tj3Decompress8": (c_int, [c_void_p, c_char_p, c_size_t, c_void_p, c_int, c_int]),
}


def _decode(content: bytes, head: Frame, part: Part) -> Tensor | None:
    """A part of a JPEG file, uint8 ``[3, height, width]``; ``None`` if the library does not decode it."""
    library = load_turbojpeg()
    handle = library.tj3Init(DECOMPRESS)
    try:
        if library.tj3DecompressHeader(handle, content, len(content)):
            return None
        block = BLOCKS.get(library.tj3Get(handle, SUBSAMPLING))
        if block is None:
            return None
        first = max(0, part.left - BESIDE) // block * block
        columns = min(head.width, part.left + part.width + BESIDE) - first
        pixels = np.empty((part.height, columns, 3), np.uint8)
        if library.tj3SetCroppingRegion(handle, _Region(first, part.top, columns, part.height)):
            return None
        if library.tj3Decompress8(handle, content, len(content), pixels.ctypes.data, 0, RGB):
            return None
    finally:
        library.tj3Destroy(handle)
    return cut(torch.from_numpy(pixels), part._replace(top=0, left=part.left - first), 1)


@cache
def load_turbojpeg() -> CDLL:
    """The library, as it comes with the package turbojpeg or with the system."""
    package = find_spec("turbojpeg")
    # From an extension module, what it is linked to can be called
    places = [place for place in (package and package.origin, find_library("turbojpeg")) if place]
    found = [library for library in map(_open, places) if library is not None]
    if not found:
        remedy = "Install it: pip install turbojpeg."
        rule = "decoder turbojpeg must find libjpeg-turbo 3"
        raise Unavailable(complaint("data", rule, f"none in {' and '.join(places) or 'any place'}", remedy))
    return found[0]


def _open(path: str) -> CDLL | None:
    try:
        library = CDLL(path)
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return library
