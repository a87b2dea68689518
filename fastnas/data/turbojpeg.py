"""JPEG files decoded by libjpeg-turbo 3 itself, an extra: ``pip install fastnas[turbojpeg]``.

It gives the bits that simplejpeg gives, in less time: what lies above and beside a part is read, but neither
transformed nor coloured. No library for Python offers that, so its C interface is called.
"""

from ctypes import CDLL, Structure, c_char_p, c_int, c_size_t, c_void_p
from ctypes.util import find_library
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from fastnas.data.jpeg import Frame, Part, cut
from fastnas_kernels.check import Unavailable, complaint

DECOMPRESS, SUBSAMPLING, RGB = 1, 4, 0  # TJINIT_DECOMPRESS, TJPARAM_SUBSAMP, TJPF_RGB
BLOCKS = {0: 8, 1: 16, 2: 16, 3: 8, 4: 8, 5: 32, 6: 8}  # by subsampling (TJSAMP): columns that are coded together
BESIDE = 8  # columns: more than the colours of a pixel are interpolated from


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


def decode_by_turbojpeg(content: bytes, head: Frame, part: Part) -> Tensor | None:
    """A part of a JPEG file, uint8 ``[3, height, width]``; ``None`` if the library does not decode it."""
    library = turbojpeg()
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
def turbojpeg() -> CDLL:
    """The library, as it comes with the package turbojpeg or with the system.

    Raises:
        Unavailable: If there is none, or an older one.
    """
    package = find_spec("turbojpeg")
    # From an extension module, what it is linked to can be called
    places = [place for place in (package and package.origin, find_library("turbojpeg")) if place]
    found = [library for library in map(_opened, places) if library is not None]
    if not found:
        remedy = "Install it: pip install fastnas[turbojpeg]."
        rule = "decoder turbojpeg must find libjpeg-turbo 3"
        raise Unavailable(complaint("data", rule, f"none in {' and '.join(places) or 'any place'}", remedy))
    return found[0]


def _opened(path: str) -> CDLL | None:
    try:
        library = CDLL(path)
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return library
