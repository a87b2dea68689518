"""What to do with the images of a source."""

from dataclasses import dataclass

from fastnas.data.decoders import Decoder
from fastnas.data.images import SMALLEST, WHERE
from fastnas.errors import invalid
from fastnas.files import STRICT


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How images are fetched, decoded and brought to one size.

    Args:
        download: Fetch CIFAR into ROOT if it is not there.
        resolution: Side in pixels to bring images to; unset for that of the data.
        decoder: Of JPEG files; all give the same bits, and turbojpeg, where it is installed, in the least time.
    """

    __pydantic_config__ = STRICT

    download: bool = False
    resolution: int | None = None
    decoder: Decoder = "simplejpeg"

    def __post_init__(self) -> None:
        if self.resolution is not None and self.resolution < SMALLEST:
            raise invalid(WHERE, f"resolution must be at least {SMALLEST} pixels", self.resolution)
