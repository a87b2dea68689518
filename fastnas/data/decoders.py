"""Who decodes JPEG files. All of them give the same bits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from torch import Tensor

from fastnas.data.dali import decode_by_dali, require_dali
from fastnas.data.encoded import EncodedImage
from fastnas.data.images import WHERE, ImageData
from fastnas.data.jpeg import Frame, JpegDecoder, Part, decode_jpeg
from fastnas.data.turbojpeg import decode_by_turbojpeg, turbojpeg
from fastnas_kernels.check import require

Decoder = Literal["simplejpeg", "turbojpeg", "dali"]


class _Extra(NamedTuple):
    """A decoder that is not always there.

    Attributes:
        require: Raises ``Unavailable`` if it is not.
        decode: From a JPEG file and its frame to a part, at full size, or to ``None``.
    """

    require: Callable[[], Any]
    decode: Callable[[bytes, Frame, Part], Tensor | None]


@dataclass(frozen=True)
class Before:
    """A ``JpegDecoder`` that asks an extra first.

    Args:
        decode: That of the extra.
    """

    decode: Callable[[bytes, Frame, Part], Tensor | None]

    def __call__(self, content: bytes, head: Frame, part: Part, divisor: int) -> Tensor | None:
        pixels = self.decode(content, head, part) if divisor == 1 else None
        return decode_jpeg(content, head, part, divisor) if pixels is None else pixels


EXTRAS: dict[Decoder, _Extra] = {
    "turbojpeg": _Extra(turbojpeg, decode_by_turbojpeg),
    "dali": _Extra(require_dali, decode_by_dali),
}


def decoded_by(decoder: Decoder, data: ImageData) -> ImageData:
    """``data`` whose JPEG files ``decoder`` decodes, wherever they are decoded at their full size.

    Files that it does not take, broken ones among them, are decoded as if it were not there.

    Raises:
        ValueError: If it is an extra, and the data set does not consist of image files.
        Unavailable: If it is not installed.
    """
    if decoder == "simplejpeg":
        return data
    require(bool(data.train.names), WHERE, "decoder must be simplejpeg unless the data are image files", decoder)
    EXTRAS[decoder].require()
    decode = Before(EXTRAS[decoder].decode)
    train, test = (replace(part, image=_Decoded(part.image, decode)) for part in (data.train, data.test))
    return replace(data, train=train, test=test)


@dataclass(frozen=True)
class _Decoded:
    """The same encoded images, to be decoded by somebody else."""

    image: Callable[[int], Any]
    decode: JpegDecoder

    def __call__(self, index: int) -> EncodedImage:
        return replace(self.image(index), jpeg=self.decode)
