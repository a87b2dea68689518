"""Data sets of one's own objects: arrays, tensors, and map-style data sets of PyTorch or Hugging Face."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastnas.data.adapters import adapt, take_tensors
from fastnas.data.broken import UnreadableImage
from fastnas.data.config import WHERE, DataConfig
from fastnas.data.division import class_balanced_fraction
from fastnas.data.images import ImageData, ImageSet, Items, as_they_are, is_large
from fastnas.data.pixels import Normalise
from fastnas.data.prepare import LOOKED_AT, Defaults, compare_classes, measure, prepare, say
from fastnas.data.seeded import seeded
from fastnas.errors import describe, invalid
from fastnas.tasks import Task, as_task

HELD_OUT = 0.2  # of the images, class by class, where no test part is given
Pair = tuple[Any, Any]


def from_arrays(
    train: Pair,
    test: Pair | None = None,
    *,
    classes: Sequence[str] | None = None,
    config: DataConfig = DataConfig(),  # noqa: B008
    augment: Callable[[Any], Tensor] | None = None,
    dimensions: int | None = None,
    name: str = "arrays",
    task: Task | str | None = None,
) -> ImageData:
    """Make a data set of arrays or tensors.

    Args:
        train: Images ``[N, C, H, W]``, ``[N, H, W, C]`` with 1, 3 or 4 channels, or ``[N, H, W]``, and labels ``[N]``.
            Images are uint8, or numbers of another type, which are scaled: [0, 1] if they lie in it, and otherwise from
            the lowest to the highest of the training images. A network sees them with mean 0 and deviation 1. Series
            are ``[N, C, L]`` or ``[N, L]``, volumes ``[N, C, D, H, W]``.
        test: The same to test on; without it a fifth of ``train`` is held out, class by class, the same for every seed.
        classes: Their names; without them the numbers up to the highest label.
        config: What to do with the images.
        augment: A transform of images ``[C, H, W]`` in place of a named one.
        dimensions: 1 for series and 3 for volumes, whose shapes may be those of images, too; 2 for images. Without it
            ``[N, C, D, H, W]`` are volumes, ``[N, L]`` are series, and others are images.
        name: What runs and reports call it.
        task: What the labels are, see :mod:`fastnas.tasks`; without it classes.

    Raises:
        ValueError: If shapes, types or labels are not as described, or a number is not finite.

    Example:
        >>> import numpy as np
        >>> from fastnas.data import from_arrays
        >>> images, labels = np.zeros((40, 16, 24), np.uint8), np.arange(40) % 2
        >>> from_arrays((images, labels)).resolution
        (16, 24)
    """
    task = as_task(task)
    pairs = [_as_images(*_unpack(pair), dimensions, task) for pair in (train, test) if pair is not None]
    channels = {x.shape[1] for x, _ in pairs}
    if len(channels) > 1:
        raise invalid(WHERE, "training and test images must have the same number of channels", sorted(channels))
    values = None if pairs[0][0].dtype == np.uint8 else _range(pairs[0][0])
    sets = [ImageSet(y, Items(x if values is None else _scale(x, values))) for x, y in pairs]
    if values is None and any(x.dtype != np.uint8 for x, _ in pairs):
        raise invalid(WHERE, "test images must be uint8, as the training images are", [str(x.dtype) for x, _ in pairs])
    return _prepare(name, sets, classes, config, channels.pop(), values, augment, task)


def from_dataset(
    train: Any,
    test: Any = None,
    *,
    classes: Sequence[str] | None = None,
    config: DataConfig = DataConfig(),  # noqa: B008
    augment: Callable[[Any], Tensor] | None = None,
    dimensions: int | None = None,
    name: str | None = None,
    task: Task | str | None = None,
) -> ImageData:
    """Make a data set of a map-style data set, whose images are read when they are needed.

    Args:
        train: A ``torch.utils.data.Dataset`` of pairs (image, label), the image a PIL image or a tensor ``[C, H, W]``;
            or a ``datasets.Dataset`` of Hugging Face with a column of images and one of class labels.
        test: The same to test on; without it a fifth of ``train`` is held out, class by class, the same for every seed.
        classes: Their names; without them those that the data set knows, or the numbers up to the highest label.
        config: What to do with the images.
        augment: A transform of uint8 images ``[C, H, W]`` in place of a named one.
        dimensions: Of the images, see :func:`from_arrays`.
        name: What runs and reports call it; without it the name of the class.
        task: What the second part of a pair is, see :mod:`fastnas.tasks`; without it a class.

    Labels are those of the items. They are taken from an attribute ``targets`` or ``labels``, without reading every
    image, where the data set has no ``target_transform`` and some items, evenly over the set, have the same.

    Raises:
        ValueError: If an item is no such pair, or labels are no classes.

    Warns:
        DataWarning: If items have other labels than that attribute, so that the names of its classes are not theirs; or
            if images are others when they are read again.
    """
    name, task = type(train).__name__ if name is None else name, as_task(task)
    pairs = [pair for part in (train, test) if part is not None and (pair := take_tensors(part)) is not None]
    if len(pairs) == (1 if test is None else 2):
        return from_arrays(
            *pairs, classes=classes, config=config, augment=augment, dimensions=dimensions, name=name, task=task
        )
    sources = [adapt(part) for part in (train, test) if part is not None]
    for source in sources:
        if source.count == 0:
            raise invalid(WHERE, "a data set must hold images", "none")
    first = sources[0].image(0)
    if not isinstance(first, Image.Image | Tensor):
        raise invalid(WHERE, "an image must be a PIL image or a tensor [C, H, W]", describe(first))
    read = [source.read_labels() for source in sources]
    labels = [task.take_targets(found.labels) for found in read]
    values, channels = None, None
    if isinstance(first, Tensor):
        if first.ndim not in (2, 3, 4):
            rule = "a tensor of an image must have the shape [C, H, W], [C, L] or [C, D, H, W]"
            raise invalid(WHERE, rule, list(first.shape))
        channels = len(first)
        if first.dtype != torch.uint8:
            places = np.unique(np.linspace(0, sources[0].count - 1, LOOKED_AT).astype(int))
            values = _range(np.concatenate([np.asarray(sources[0].image(int(i))).reshape(-1) for i in places]))
    sets = [
        ImageSet(y, source.image if values is None else _Scaled(source.image, values))
        for source, y in zip(sources, labels, strict=True)
    ]
    differ = any(found.differ for found in read)
    known = sources[0].classes if classes is None and not differ else classes
    data = _prepare(name, sets, known, config, channels, values, augment, task)
    if differ:
        text = f"the items of {name} have other labels than its .targets or .labels: those of the items count"
        named = classes is not None or sources[0].classes is None
        data = replace(data, notes=(*data.notes, text)) if named else say(data, f"{text}. Name them by classes=")
    if _draws(sources[0].image):
        text = f"{name} changes its images at random, the held-out ones too: use --augment or augment= instead"
        data = say(data, text)
    return data


@dataclass(frozen=True)
class _Scaled:
    image: Callable[[int], Tensor]
    values: tuple[float, float]

    def __call__(self, index: int) -> Tensor:
        values = np.asarray(self.image(index))
        if not np.isfinite(values).all():
            raise UnreadableImage(f"image {index} of the data set", "NaN or infinity")
        return torch.from_numpy(_scale(values, self.values))


def _unpack(pair: Any) -> Pair:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise invalid(WHERE, "arrays must be a pair of images and labels", describe(pair))
    return pair[0], pair[1]


def _as_images(images: Any, labels: Any, dimensions: int | None, task: Task) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(images.detach().cpu() if isinstance(images, Tensor) else images)
    y = task.take_targets(labels)
    if x.dtype.kind not in "biuf":
        raise invalid(WHERE, "images must be numbers", x.dtype)
    if dimensions is None:
        dimensions = {2: 1, 5: 3}.get(x.ndim, 2)
    if x.ndim == 1 + dimensions:
        x = x[:, None]
    elif dimensions == 2 and x.ndim == 4 and x.shape[1] not in (1, 3, 4) and x.shape[3] in (1, 3, 4):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 2 + dimensions:
        rule = {
            1: "series must have the shape [N, C, L] or [N, L]",
            3: "volumes must have the shape [N, C, D, H, W]",
        }.get(dimensions, "images must have the shape [N, C, H, W], [N, H, W, C] or [N, H, W]")
        raise invalid(WHERE, rule, list(np.shape(images)))
    if len(x) != len(y):
        raise invalid(WHERE, "there must be one label for every image", f"{len(x)} images and {len(y)} labels")
    if len(x) == 0:
        raise invalid(WHERE, "a data set must hold images", "none")
    return x, y


def _range(x: np.ndarray) -> tuple[float, float]:
    low, high = float(x.min()), float(x.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise invalid(WHERE, "images must be finite numbers", f"values from {low} to {high}")
    if low == high:
        raise invalid(WHERE, "images must differ", f"{low} everywhere")
    return (0.0, 1.0) if x.dtype.kind == "f" and low >= 0 and high <= 1 else (low, high)


def _scale(x: np.ndarray, values: tuple[float, float]) -> np.ndarray:
    """The values from 0 to 255, as pixels have them, but as float32 with all their levels."""
    low, high = values
    if not np.isfinite(x).all():
        raise invalid(WHERE, "images must be finite numbers", "NaN or infinity")
    return ((x.astype(np.float64) - low) * (255 / (high - low))).astype(np.float32)


def _prepare(
    name: str,
    sets: Sequence[ImageSet],
    classes: Sequence[str] | None,
    config: DataConfig,
    channels: int | None,
    values: tuple[float, float] | None,
    augment: Callable[[Any], Tensor] | None,
    task: Task,
) -> ImageData:
    labels = sets[0].labels
    classes = task.name_outputs(labels) if classes is None else classes
    if values is not None and config.augment in ("photo", "auto"):
        rule = f"augment {config.augment} must have images of 8 bits"
        raise invalid(WHERE, rule, "other numbers", "Choose none, crop or flip-crop, or give augment= a transform.")
    notes = [f"values from {values[0]:g} to {values[1]:g} are scaled to those of pixels"] if values else []
    task.check(labels, classes)
    if len(sets) == 1:
        train = class_balanced_fraction(labels, 1 - HELD_OUT, seed=0)
        test = np.setdiff1d(np.arange(len(labels)), train)
        notes.append(f"{len(test)} images of {len(labels)} are held out to test on, as no test part is given")
        sets = [sets[0].select(train), sets[0].select(test)]
    first = sets[0].image(0)
    if isinstance(first, Tensor) and first.dim() != 3:
        return _prepare_maps(name, sets[0], sets[1], tuple(map(str, classes)), config, values, augment, notes, task)
    defaults = Defaults(channels=channels, augment="none" if values is not None else None)
    data = prepare(name, sets[0], sets[1], tuple(map(str, classes)), config, defaults, augment=augment, task=task)
    return replace(data, values=values, notes=(*notes, *data.notes))


def _prepare_maps(
    name: str,
    train: ImageSet,
    test: ImageSet,
    classes: tuple[str, ...],
    config: DataConfig,
    values: tuple[float, float] | None,
    augment: Callable[[Any], Tensor] | None,
    notes: list[str],
    task: Task,
) -> ImageData:
    """Series or volumes: all of one size, and as they are."""
    for field in ("resolution", "fit", "image_channels", "augment", "colour"):
        if getattr(config, field) not in (None, "none"):
            rule = f"{field} must not be set for series and volumes"
            raise invalid(
                WHERE, rule, getattr(config, field), "Bring them to one size before; augment= takes a function."
            )
    count = len(train.labels)
    seen = [
        cast(Tensor, train.image(int(i)))
        for i in np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int))
    ]
    shapes = {tuple(one.shape) for one in seen}
    if len(shapes) > 1:
        raise invalid(WHERE, "series and volumes must have one size", " and ".join(map(str, sorted(shapes)[:2])))
    channels, *size = seen[0].shape
    for part in (train, test):
        task.check(part.labels, classes)
    data = ImageData(
        name=name,
        task=task.fit(train.labels),
        train=train,
        test=test,
        classes=classes,
        channels=channels,
        resolution=tuple(size),
        train_transform=augment or as_they_are,
        eval_transform=as_they_are,
        large=is_large(tuple(size)),
        normalise=Normalise(measure(seen)),
        augment="own" if augment else "none",
        notes=(*notes, f"statistics of {len(seen)} training images"),
        values=values or (0.0, 255.0),
    )
    return compare_classes(data)


def _draws(image: Callable[[int], Any]) -> bool:
    """Whether an image is another one when it is asked for again."""
    seen = []
    for seed in (0, 1):
        with seeded(seed):
            seen.append(np.asarray(image(0)))
    return seen[0].shape != seen[1].shape or not np.array_equal(seen[0], seen[1])
