"""Data sets by name."""

from pathlib import Path
from typing import Literal

from fastnas.train.data.dali import decoded_by_dali
from fastnas.train.data.images import SMALLEST, WHERE, ImageData
from fastnas_kernels.check import require

SOURCES = "digits, cifar10:ROOT, cifar100:ROOT, imagenet:ROOT, folder:ROOT or shards:ROOT"
Decoder = Literal["pillow", "dali"]


def load_data(
    source: str, *, download: bool = False, resolution: int | None = None, decoder: Decoder = "pillow"
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
        decoder: Of JPEG files. Both give the same bits; ``dali`` is an extra, see :mod:`fastnas.train.data.dali`.

    Raises:
        ValueError: If the name or the folder is not as described, or there are no files for ``dali`` to decode.
        Unavailable: If ``dali`` is not installed.
    """
    from fastnas.train.data.loaders import LOADERS  # noqa: PLC0415  (torchvision takes two seconds)

    kind, _, root = source.partition(":")
    require(kind in LOADERS, WHERE, f"source must be {SOURCES}", repr(source))
    needs_root = kind != "digits"
    got = repr(source)
    require(bool(root) == needs_root, WHERE, f"{kind} must {'name' if needs_root else 'not name'} a folder", got)
    rule = f"resolution must be at least {SMALLEST} pixels"
    require(resolution is None or resolution >= SMALLEST, WHERE, rule, resolution)
    data = LOADERS[kind](Path(root).expanduser(), download, resolution)
    return decoded_by_dali(data) if decoder == "dali" else data
