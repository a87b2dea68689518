"""From images and targets to a data set: their size, channels, statistics and augmentation, found out or said."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from fastnas.data.broken import UnreadableImage, UnsupportedImage
from fastnas.data.config import SMALLEST, WHERE, Augment, Colour, DataConfig
from fastnas.data.decoders import use_decoder
from fastnas.data.encoded import EncodedImage
from fastnas.data.images import SMALL, THIN, ImageData, ImageSet, is_large
from fastnas.data.pixels import Normalise, Statistics
from fastnas.errors import invalid
from fastnas.supernet.layout import height_and_width
from fastnas.tasks import CLASSIFICATION, Classification, Dense, Task

LOOKED_AT = 500  # training images, evenly over the set, that decide what nobody said
PHOTO = 224  # pixels: side of the square whose area large images are brought to
UNEVEN = 1.5  # ratio of proportions from which it is said
MANY = 3.0  # ratio of the widest to the narrowest proportions from which it is said
IMBALANCE = 3  # images of the largest class for one of the smallest, from which it is said


class DataWarning(UserWarning):
    """Something about the images that may not be as it was meant."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a source says of its images itself; what it does not say is found out.

    Args:
        resolution: Height and width in pixels.
        channels: 3 for colour, 1 for grey.
        statistics: To normalise with.
        augment: Of training images.
        large: Whether they are photographs; ``None`` to go by the resolution.
    """

    resolution: tuple[int, int] | None = None
    channels: int | None = None
    statistics: Statistics | None = None
    augment: Augment | None = None
    large: bool | None = None


@dataclass(frozen=True)
class _Look:
    """What some training images look like."""

    sizes: list[tuple[int, int]]
    images: list[Tensor]
    is_grey: bool
    highest: int | None  # of the values of 16 bits

    @property
    def commonest(self) -> tuple[int, int]:
        """The commonest size, or the median ones where none makes up a half."""
        (size, count), *_ = Counter(self.sizes).most_common(1)
        if 2 * count >= len(self.sizes):
            return size
        height, width = np.median(np.array(self.sizes), axis=0)
        return int(height), int(width)


def prepare(
    name: str,
    train: ImageSet,
    test: ImageSet,
    classes: tuple[str, ...],
    config: DataConfig,
    defaults: Defaults = Defaults(),
    *,
    augment: Callable[[Any], Tensor] | None = None,
    task: Task = CLASSIFICATION,
) -> ImageData:
    """A data set of these images.

    Args:
        name: What runs and reports call it.
        train: Images to train on.
        test: Images that nothing is trained on.
        classes: Their names.
        config: What to do with the images; it goes before ``defaults``.
        defaults: What the source knows of them.
        augment: A transform of uint8 images ``[C, H, W]`` in place of a named one.
        task: What the labels are.

    Raises:
        ValueError: If labels are no classes, or no image can be read.
    """
    from fastnas.data.transforms import evaluation_transform  # noqa: PLC0415  (torchvision takes two seconds)

    for part in (train, test):
        task.check(part.labels, classes)
    notes: list[str] = []
    said = config.resolution is not None or defaults.resolution is not None
    known = said and None not in (config.image_channels or defaults.channels, defaults.statistics)
    look = None if known else _look_at(train)
    if config.resolution is not None:
        size = height_and_width(config.resolution)
    elif defaults.resolution is not None:
        size = defaults.resolution
    else:
        assert look is not None
        size = _choose_size(look, notes)
    large = is_large(size) if defaults.large is None else defaults.large
    fit = config.fit or ("crop" if large else "squeeze")
    channels = config.image_channels or defaults.channels
    if channels is None:
        assert look is not None
        channels = 1 if look.is_grey else 3
        notes.append(f"image_channels {channels}: {'none' if look.is_grey else 'some'} of {_count(look)} have colours")
    if look is not None:
        _warn_of_sizes(look, size, fit, notes)
    chosen: Augment | Callable[[Any], Tensor] = config.augment or defaults.augment or _default_augment(channels, large)
    if config.augment is None and defaults.augment is None and augment is None:
        notes.append(f"augment {chosen}, as usual for {'large' if large else 'small'} images of {channels} channels")
    evaluate = evaluation_transform(size, channels, fit, large)
    statistics = defaults.statistics
    if statistics is None or len(statistics.mean) != channels:
        look = look or _look_at(train)
        statistics = measure([evaluate(image) for image in look.images])
        notes.append(f"statistics of {_count(look)}")
    data = ImageData(
        name=name,
        task=task.fit(train.labels),
        train=train,
        test=test,
        classes=classes,
        channels=channels,
        resolution=size,
        train_transform=evaluate,
        eval_transform=evaluate,
        large=large,
        normalise=Normalise(statistics),
        fit=fit,
        notes=tuple(notes),
    )
    if isinstance(task, Dense):
        return _align(data, augment, config)
    data = set_augment(compare_classes(data), augment or chosen, config.colour)
    return use_decoder(config.decoder, data)


def _align(data: ImageData, augment: Callable[..., Any] | None, config: DataConfig) -> ImageData:
    """``data`` of a dense task, whose images stay as they are, since maps would not change with them."""
    from fastnas.data.transforms import Aligned  # noqa: PLC0415

    if config.augment not in (None, "none") or config.colour is not None:
        rule = "augment must be none for a dense task, whose maps it would not change"
        raise invalid(
            WHERE, rule, config.augment or config.colour, "augment= takes a function of an image and its map."
        )
    evaluate = Aligned(data.channels, data.resolution)
    train = evaluate if augment is None else Aligned(data.channels, data.resolution, augment)
    evaluate(data.train.image(0))  # or raises
    name, notes = "none" if augment is None else "own", [note for note in data.notes if not note.startswith("augment ")]
    return replace(data, train_transform=train, eval_transform=evaluate, augment=name, notes=tuple(notes))


def set_augment(
    data: ImageData, augment: Augment | Callable[[Any], Tensor] | None, colour: Colour | None = None
) -> ImageData:
    """``data`` whose training images are augmented otherwise.

    Args:
        data: The data set.
        augment: A name of :class:`fastnas.data.DataConfig`, or a transform of uint8 images ``[C, H, W]``; ``None``
            keeps the name.
        colour: What ``photo`` changes; ``None`` for DARTS's numbers.

    Raises:
        ValueError: For changes of colours that no transform would make.
    """
    if isinstance(data.task, Dense):
        rule = "augment and colour must not be set for a dense task, whose maps they would not change"
        raise invalid(WHERE, rule, augment or colour, "Give from_arrays augment=, a function of an image and its map.")
    if data.loaders is not None:
        rule = "augment and colour must not be set with data loaders, which decide them"
        raise invalid(WHERE, rule, augment or colour, "Set them in the loaders.")
    if augment is None and data.augment == "own":
        raise invalid(WHERE, "augment must be given with colour where the transform is your own", None)
    augment = cast(Augment, data.augment) if augment is None else augment
    from fastnas.data.transforms import training_transform  # noqa: PLC0415

    if augment == "auto" and data.channels != 3:
        raise invalid(WHERE, "augment auto needs colour images", f"{data.channels} channels")
    if colour is not None and any(colour) and augment != "photo":
        got = "a function" if callable(augment) else augment
        raise invalid(WHERE, "colour needs augment photo", got, "It would change nothing: zeros say so.")
    transform = training_transform(
        height_and_width(data.resolution), data.channels, data.fit, data.large, augment, colour
    )
    return replace(data, train_transform=transform, augment="own" if callable(augment) else augment)


def _default_augment(channels: int, large: bool) -> Augment:
    if channels == 1:
        return "crop"  # digits, letters and the sides of a body are others when they are mirrored
    return "photo" if large else "flip-crop"


def _look_at(images: ImageSet) -> _Look:
    places = np.unique(np.linspace(0, len(images.labels) - 1, min(LOOKED_AT, len(images.labels))).astype(int))
    sizes, seen, highest, error = [], [], [], None
    for place in places:
        try:
            image = images.image(int(place))
            pixels = image.decode() if isinstance(image, EncodedImage) else _as_tensor(image)
            if isinstance(image, EncodedImage) and (most := image.find_highest_of_16_bits()) is not None:
                highest.append(most)
        except UnsupportedImage:
            raise
        except UnreadableImage as unreadable:
            error = error or unreadable
            continue
        sizes.append((pixels.shape[1], pixels.shape[2]))
        seen.append(pixels)
    if not seen:
        raise error or invalid(WHERE, "the training part must hold images", "none")
    from fastnas.networks.preprocessing import is_grey  # noqa: PLC0415

    return _Look(sizes, seen, all(map(is_grey, seen)), max(highest) if highest else None)


def _as_tensor(image: Any) -> Tensor:
    return image if isinstance(image, Tensor) else torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0)


def _count(look: _Look) -> str:
    return f"{len(look.images)} training images"


def _choose_size(look: _Look, notes: list[str]) -> tuple[int, int]:
    height, width = look.commonest
    share = look.sizes.count((height, width)) / len(look.sizes)
    why = f"the commonest of {_count(look)} ({share:.0%})" if share >= 0.5 else f"the medians of {_count(look)}"
    if min(height, width) < SMALLEST:
        rule = f"images must have sides of at least {SMALLEST} pixels unless a resolution is given"
        raise invalid(WHERE, rule, f"{height}x{width}, {why}", "Set --resolution.")
    size = height, width
    if height * width > SMALL**2 and (min(height, width) >= THIN or height * width > PHOTO**2):
        if max(height, width) <= UNEVEN * min(height, width):
            size = PHOTO, PHOTO
        elif height * width > PHOTO**2:
            scale = PHOTO / sqrt(height * width)
            size = _to_sixteenths(height * scale), _to_sixteenths(width * scale)
    scaled = "" if size == (height, width) else f", resized from {height}x{width}"
    notes.append(f"resolution {size[0]}x{size[1]}{scaled}: {why}")
    return size


def _to_sixteenths(side: float) -> int:
    return max(16, 16 * round(side / 16))


def _warn_of_sizes(look: _Look, size: tuple[int, int], fit: str, notes: list[str]) -> None:
    ratios = np.array([width / height for height, width in look.sizes])
    target = size[1] / size[0]
    off = float(np.median(np.maximum(ratios / target, target / ratios)))
    if off > UNEVEN and fit != "pad":
        does = "changes their proportions" if fit == "squeeze" else f"cuts off {1 - 1 / off:.0%} of them"
        _warn(notes, f"images are {off:.1f} times as elongated as {size[0]}x{size[1]}, so --fit {fit} {does}")
    elif ratios.max() > MANY * ratios.min() and fit != "pad":
        spread = f"widths over heights from {ratios.min():.2f} to {ratios.max():.2f}"
        _warn(notes, f"images have many shapes ({spread}), which --fit {fit} does not keep; --fit pad does")
    areas = np.array([height * width for height, width in look.sizes])
    if areas.max() > 4 * areas.min():
        small, big = look.sizes[int(areas.argmin())], look.sizes[int(areas.argmax())]
        notes.append(f"sizes from {small[0]}x{small[1]} to {big[0]}x{big[1]}")
    if look.highest is not None and look.highest < 65536 // 4:
        kept = look.highest // 257 + 1
        _warn(notes, f"16-bit images reach {look.highest} of 65535, so only {kept} of 256 levels remain; rescale them")


def say(data: ImageData, text: str) -> ImageData:
    """``data`` with a warning, which its notes keep."""
    notes = list(data.notes)
    _warn(notes, text)
    return replace(data, notes=tuple(notes))


def _warn(notes: list[str], text: str) -> None:
    notes.append(text)
    warnings.warn(text, DataWarning, stacklevel=4)


def measure(images: Sequence[Tensor]) -> Statistics:
    """Mean and standard deviation of every channel, at least a level, so that constant ones are divided by no zero."""
    values = torch.cat([image.flatten(1) for image in images], dim=1).to(torch.float64) / 255
    mean, std = values.mean(1), values.std(1, unbiased=False).clamp(min=1 / 255)
    return Statistics(tuple(round(x, 6) for x in mean.tolist()), tuple(round(x, 6) for x in std.tolist()))


def compare_classes(data: ImageData) -> ImageData:
    """``data``, with a warning if its classes are of very unequal size."""
    if not isinstance(data.task, Classification):
        return data
    counts = np.bincount(data.train.labels, minlength=len(data.classes))
    there = counts[counts > 0]
    if not len(there) or there.max() <= IMBALANCE * there.min():
        return data
    least = np.where(counts > 0, counts, counts.max() + 1).argmin()
    most, fewest = (data.classes[int(i)] for i in (counts.argmax(), least))
    text = f"classes are unequal, {there.max()} images of {most} and {there.min()} of {fewest}: accuracy favours {most}"
    return say(data, text)
