"""Data sets by name."""

from pathlib import Path

from fastnas.data.decoders import Decoder, decoded_by
from fastnas.data.images import SMALLEST, WHERE, ImageData
from fastnas_kernels.check import require

SOURCES = "digits, cifar10:ROOT, cifar100:ROOT, imagenet:ROOT, folder:ROOT or shards:ROOT"


def load_data(
    source: str, *, download: bool = False, resolution: int | None = None, decoder: Decoder = "simplejpeg"
) -> ImageData:
    """The data set that ``source`` names.

    Args:
        source: ``digits`` (1,797 handwritten digits that come with scikit-learn), ``cifar10:ROOT``,
            ``cifar100:ROOT``, ``imagenet:ROOT`` (torchvision's formats), ``folder:ROOT``, a folder with
            ``train/<class>/*`` and ``test/<class>/*`` or ``val/<class>/*``, or ``shards:ROOT``, what
            ``fastnas shards`` made of one of these. ``ROOT/classes.txt``, if it is there, names the classes of a whole
            of which the folders are a part, one a line.
        download: Fetch CIFAR into ``ROOT`` if it is not there.
        resolution: Side in pixels to bring images to; ``None`` for that of the data.
        decoder: Of JPEG files. All give the same bits; those other than ``simplejpeg`` are extras.

    Raises:
        ValueError: If the name or the folder is not as described, or there are no files for an extra to decode.
        Unavailable: If the decoder is not installed.
    """
    from fastnas.data.loaders import LOADERS  # noqa: PLC0415  (torchvision takes two seconds)

    kind, _, root = source.partition(":")
    require(kind in LOADERS, WHERE, f"source must be {SOURCES}", repr(source))
    needs_root = kind != "digits"
    got = repr(source)
    require(bool(root) == needs_root, WHERE, f"{kind} must {'name' if needs_root else 'not name'} a folder", got)
    rule = f"resolution must be at least {SMALLEST} pixels"
    require(resolution is None or resolution >= SMALLEST, WHERE, rule, resolution)
    data = LOADERS[kind](Path(root).expanduser(), download, resolution)
    return decoded_by(decoder, data)
