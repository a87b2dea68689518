"""Data sets by name: a registry, and those that need no folder of images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np

from fastnas.data.arrays import HELD_OUT, from_arrays, from_dataset
from fastnas.data.broken import first_sentence
from fastnas.data.config import WHERE, DataConfig
from fastnas.data.division import class_balanced_fraction
from fastnas.data.folders import load_folder, load_imagenet, prepare_files
from fastnas.data.images import SMALL, ImageData, ImageSet, Items
from fastnas.data.loader_data import from_loaders, is_loader
from fastnas.data.pixels import CIFAR, GREY
from fastnas.data.prepare import Defaults, prepare, say
from fastnas.data.shards import read_shards
from fastnas.data.webdataset import IMAGES, read_webdataset
from fastnas.errors import complaint, describe, invalid, require_type
from fastnas.supernet.layout import height_and_width
from fastnas.tasks import Task

Load = Callable[[Path, DataConfig], ImageData]


@dataclass(frozen=True)
class Source:
    """A kind of data that has a name.

    Args:
        load: From a folder and what to do with the images to the data set.
        has_root: Whether it is in a folder, which stands after a colon.
        sizes: Classes, channels and side in pixels, where they are known before anything is read.
        takes_tasks: Whether its labels may be no classes, as ``config.task`` says.
    """

    load: Load
    has_root: bool = True
    sizes: tuple[int, int, int] | None = None
    takes_tasks: bool = False


SOURCES: dict[str, Source] = {}


def register_source(
    name: str, *, has_root: bool = True, sizes: tuple[int, int, int] | None = None, takes_tasks: bool = False
) -> Callable[[Load], Load]:
    """Make the decorated function the loader of ``name`` (see :class:`Source`): ``load_data("name:ROOT")`` calls it.

    Raises:
        ValueError: If the name is taken.
    """
    if name in SOURCES or ":" in name:
        raise invalid(WHERE, "a source needs a new name without a colon", repr(name))

    def register(load: Load) -> Load:
        SOURCES[name] = Source(load, has_root, sizes, takes_tasks)
        return load

    return register


def list_sources() -> str:
    """All sources in one line, as they are written."""
    places = {True: ":FILE.npz", False: ":ROOT"}
    names = [name + (places[source.takes_tasks] if source.has_root else "") for name, source in SOURCES.items()]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def as_data(
    data: object,
    where: str = "data",
    *,
    pairs: Literal["halves", "parts"] = "halves",
    dimensions: int | None = None,
    task: Task | str | None = None,
) -> ImageData:
    """Return images, from the images themselves or from what names them.

    Args:
        data: An :class:`ImageData`; the ``source`` of :func:`load_data`; a pair of images and labels, or a pair of such
            pairs to train and to test on (:func:`from_arrays`); a map-style data set (:func:`from_dataset`); or two
            data loaders (:func:`from_loaders`).
        where: The beginning of errors.
        pairs: Whether two loaders are those for weights and for alpha, or those to train and to test on.
        dimensions: Of the maps of the network that reads them, where it is known.
        task: What the labels of arrays and data sets are, see :mod:`fastnas.tasks`; without it classes.

    Raises:
        ValueError: If it is none of these, or the name or the folder is not as described.
    """
    known = isinstance(data, str | Path | ImageData) or is_loader(data)
    if task is not None and (known or (isinstance(data, tuple | list) and any(map(is_loader, data)))):
        remedy = "Give it where the data is made: fastnas.data.from_arrays(..., task=...)."
        raise invalid(where, "task must be given with arrays or a data set", describe(data), remedy)
    found = _as_data(data, where, pairs, dimensions, task)
    if dimensions is not None and len(found.resolution) != dimensions:
        rule = f"data must have {dimensions} dimensions beside the channels, as the space has"
        remedy = "Give the space its dimensions: replace(DARTS, name=..., dimensions=1)."
        raise invalid(where, rule, f"{len(found.resolution)}, {list(found.resolution)}", remedy)
    return found


def _as_data(
    data: object, where: str, pairs: Literal["halves", "parts"], dimensions: int | None, task: Task | str | None
) -> ImageData:
    if isinstance(data, str | Path):
        return load_data(str(data))
    if isinstance(data, tuple | list) and len(data) == 2 and all(map(is_loader, data)):
        return from_loaders(*data) if pairs == "halves" else from_loaders(data[0], test=data[1])
    if is_loader(data):
        rule = "data loaders must be a pair, one for the weights and one for alpha"
        raise invalid(where, rule, "one", "Give its data set in place of it, or two loaders.")
    if isinstance(data, tuple | list) and len(data) == 2:
        parts: Any = data if isinstance(data[0], tuple | list) else [data]
        return from_arrays(*parts, dimensions=dimensions, task=task)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return from_dataset(data, dimensions=dimensions, task=task)
    return require_type(
        where, "data", data, ImageData, f"Or give {list_sources()}, arrays, a data set or two data loaders."
    )


def load_data(source: str, config: DataConfig = DataConfig()) -> ImageData:  # noqa: B008
    """The data set that ``source`` names.

    Args:
        source: ``digits`` (1,797 handwritten digits that come with scikit-learn), ``cifar10:ROOT``, ``cifar100:ROOT``,
            ``imagenet:ROOT`` (torchvision's formats), ``folder:ROOT``, ``shards:ROOT``, ``arrays:FILE.npz``, or one of
            your own (:func:`register_source`). A folder holds ``train/<class>/*`` and ``test/<class>/*`` or
            ``val/<class>/*``. ``fastnas shards`` makes shards of any of these. A file of arrays holds ``x_train`` and
            ``y_train``. ``ROOT/classes.txt``, if it is there, names the classes of a whole of which the folders are a
            part, one a line.
        config: What to do with the images.

    Raises:
        ValueError: If the name or the folder is not as described, or there are no files for an extra to decode.
        Unavailable: If the decoder is not installed.

    Example:
        >>> load_data("digits").classes
        ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    found, root = find_source(source)
    if config.task != "classification" and not found.takes_tasks:
        remedy = "Give arrays:FILE.npz, or arrays in Python."
        raise invalid(WHERE, f"--task must be classification beside {source}", config.task, remedy)
    return found.load(Path(root).expanduser(), config)


def find_source(source: str) -> tuple[Source, str]:
    """The source that ``source`` names, and the folder behind its colon."""
    kind, _, root = source.partition(":")
    if kind not in SOURCES:
        close = get_close_matches(kind, SOURCES, n=1)
        remedy = f"Did you mean {close[0]}?" if close else ""
        raise invalid(WHERE, f"source must be {list_sources()}", repr(source), remedy)
    found = SOURCES[kind]
    if bool(root) != found.has_root:
        remedy = f"Write {kind}:ROOT." if found.has_root else f"Write {kind} alone."
        raise invalid(WHERE, f"{kind} must {'name' if found.has_root else 'not name'} a folder", repr(source), remedy)
    return found, root


def placeholder_data(source: str, config: DataConfig = DataConfig()) -> ImageData:  # noqa: B008
    """What :func:`load_data` returns, but without images where the sizes are known: the folder need not exist."""
    name = source.partition(":")[0]
    sizes = SOURCES[name].sizes if name in SOURCES else None
    if sizes is None:
        return load_data(source, config)
    classes, channels, side = sizes
    resolution = height_and_width(config.resolution or side)
    nothing = ImageSet(np.arange(0), _refuse)
    return ImageData(
        name=name,
        train=nothing,
        test=nothing,
        classes=tuple(map(str, range(classes))),
        channels=config.image_channels or channels,
        resolution=resolution,
        train_transform=_refuse,
        eval_transform=_refuse,
        large=min(resolution) > SMALL and name != "digits",
    )


def _refuse(image: object) -> Any:
    raise AssertionError("an outline has no image")


@register_source("digits", has_root=False, sizes=(10, 1, 8))
def _load_digits(root: Path, config: DataConfig) -> ImageData:
    pixels, labels = _digits()
    # The data has no test part of its own: this one is the same for every seed, so that runs can be compared
    train = class_balanced_fraction(labels, 0.8, seed=0)
    test = np.setdiff1d(np.arange(len(labels)), train)
    sets = [ImageSet(labels[part], Items(pixels[part])) for part in (train, test)]
    return _prepare_digits("digits", sets, 8, config)


@register_source("cluttered", has_root=False, sizes=(10, 1, 16))
def _load_cluttered(root: Path, config: DataConfig) -> ImageData:
    """Digits somewhere among fragments of others, as Mnih et al., 2014, arXiv:1406.6247, made them of MNIST: an
    architecture has to find the digit, so that architectures differ more than their trainings do."""
    sets = [ImageSet(labels.copy(), Items(images.copy())) for images, labels in _cluttered()]
    return _prepare_digits("cluttered", sets, 16, config)


@lru_cache(maxsize=1)
def _cluttered() -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and labels to train and to test on; they take a quarter of a second to make, a millisecond to copy."""
    pixels, labels = _digits()
    train = class_balanced_fraction(labels, 0.6, seed=0)
    test = np.setdiff1d(np.arange(len(labels)), train)
    rng = np.random.default_rng(0)
    return [_clutter(pixels[part, 0], labels[part], count, rng) for part, count in ((train, 2200), (test, 2000))]


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # noqa: PLC0415  (half a second that other sources need not wait for)

    bundle: Any = load_digits()
    return (bundle.images * (255 / 16)).round().astype(np.uint8)[:, None], bundle.target.astype(np.int64)


def _prepare_digits(name: str, sets: Sequence[ImageSet], side: int, config: DataConfig) -> ImageData:
    defaults = Defaults(resolution=(side, side), channels=1, statistics=GREY, augment="crop", large=False)
    return prepare(name, sets[0], sets[1], tuple(map(str, range(10))), config, defaults)


def _clutter(
    digits: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """``count`` images of 16 x 16 pixels: a digit of 8 x 8 and five fragments of 4 x 4, each anywhere."""
    images = np.zeros((count, 1, 16, 16), np.uint8)

    def paste(image: np.ndarray, part: np.ndarray) -> None:
        side = len(part)
        row, column = rng.integers(0, 16 - side + 1, 2)
        place = image[row : row + side, column : column + side]
        np.maximum(place, part, out=place)

    for number, (image,) in enumerate(images):
        for other in rng.integers(0, len(digits), 5):
            row, column = rng.integers(0, 5, 2)
            paste(image, digits[other, row : row + 4, column : column + 4])
        paste(image, digits[number % len(digits)])
    return images, labels[np.arange(count) % len(digits)]


@register_source("cifar10", sizes=(10, 3, 32))
def _load_cifar10(root: Path, config: DataConfig) -> ImageData:
    from torchvision.datasets import CIFAR10  # noqa: PLC0415

    return _load_cifar("cifar10", CIFAR10, root, config)


@register_source("cifar100", sizes=(100, 3, 32))
def _load_cifar100(root: Path, config: DataConfig) -> ImageData:
    from torchvision.datasets import CIFAR100  # noqa: PLC0415

    return _load_cifar("cifar100", CIFAR100, root, config)


def _load_cifar(name: str, dataset: Callable[..., Any], root: Path, config: DataConfig) -> ImageData:
    try:
        parts = [dataset(str(root), train=train, download=config.download) for train in (True, False)]
    except (RuntimeError, OSError) as error:  # OSError: no network, no room, no permission
        got = f"{root} ({first_sentence(error)})"
        remedy = "Fetch it by hand." if config.download else "Name the folder that holds it, or add --download."
        raise ValueError(complaint(WHERE, f"{name} must be in its folder, whole", got, remedy)) from None
    sets = [ImageSet(np.array(part.targets, np.int64), Items(part.data.transpose(0, 3, 1, 2))) for part in parts]
    defaults = Defaults(resolution=(32, 32), channels=3, statistics=CIFAR, augment="flip-crop")
    return prepare(name, sets[0], sets[1], tuple(parts[0].classes), config, defaults)


register_source("imagenet", sizes=(1000, 3, 224))(load_imagenet)
register_source("folder")(load_folder)


@register_source("arrays", takes_tasks=True)
def _load_arrays(root: Path, config: DataConfig) -> ImageData:
    try:
        with np.load(root, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        got = f"{type(error).__name__}: {first_sentence(error)}"
        raise invalid(WHERE, f"{root} must be a file of arrays, as np.savez writes", got) from None
    needed, tested = ("x_train", "y_train"), ("x_test", "y_test")
    if missing := [name for name in needed if name not in arrays]:
        rule = f"{root} must hold x_train and y_train; x_test, y_test and classes are used if they are there"
        raise invalid(WHERE, rule, f"no {' and no '.join(missing)}")
    unread = [name for name in arrays if name not in (*needed, *tested, "classes")]
    if len(there := [name for name in tested if name in arrays]) == 1:
        got = f"only {there[0]}" + (f", and {', '.join(unread)}, which nothing reads" if unread else "")
        raise invalid(WHERE, f"{root} must hold both of x_test and y_test, or neither", got)
    test = (arrays["x_test"], arrays["y_test"]) if there else None
    classes = list(map(str, arrays["classes"])) if "classes" in arrays else None
    train = arrays["x_train"], arrays["y_train"]
    data = from_arrays(train, test, classes=classes, config=config, name=root.stem, task=config.task)
    return say(data, f"{root.name} holds arrays that nothing reads: {', '.join(unread)}") if unread else data


@register_source("shards")
def _load_shards(root: Path, config: DataConfig) -> ImageData:
    is_ours = any((root / name).is_file() for name in ("shards.json", "train.npz"))  # also where one of them is lost
    if is_ours or not (found := sorted(root.glob("**/*.tar"))):
        return prepare_files(*read_shards(root, config.download), config)
    parts = read_webdataset(root)
    train, test, notes = parts.train, parts.test, [f"{len(found)} tar files of WebDataset, indexed"]
    if test is None:
        kept = class_balanced_fraction(train.labels, 1 - HELD_OUT, seed=0)
        test, train = train.select(np.setdiff1d(np.arange(len(train.labels)), kept)), train.select(kept)
        notes.append(f"{len(test.labels)} images are held out to test on, as no tar file begins with test or val")
    data = prepare_files(root.resolve().name, train, test, parts.classes, config)
    data = replace(data, notes=(*notes, *data.notes))
    text = f"{parts.left_out:,} members .cls have no image beside them, of the endings {', '.join(IMAGES)}"
    return say(data, text) if parts.left_out else data
