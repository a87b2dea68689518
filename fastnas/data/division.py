"""Which images train weights and which train alpha, class by class, and a file that keeps the choice."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from fastnas.data.config import WHERE
from fastnas.data.images import ImageData, ImageSet
from fastnas.errors import invalid
from fastnas.files import read_json, validate, write_json
from fastnas.seeds import stream

INDEX = "index"
FORMAT = "fastnas index 1"
Indices = list[Annotated[int, Field(ge=0, lt=2**62)]]


def class_balanced_fraction(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Indices of a share of every class, sorted.

    Args:
        labels: Class of every image, ``[N]``.
        fraction: The share, in (0, 1].
        seed: Decides which images.

    Returns:
        ``round(fraction * n)`` of the ``n`` images of each class.

    Raises:
        ValueError: If ``fraction`` is out of range, or would leave a class without an image.
    """
    if not 0 < fraction <= 1:
        raise invalid(WHERE, "train_fraction must lie in (0, 1]", fraction)
    labels = _strata(labels)
    first, _ = _cut_classes(np.arange(len(labels)), labels, fraction, stream(seed, "fraction"))
    if len(emptied := np.setdiff1d(labels, labels[first])):
        rule, got = "train_fraction must leave an image of every class", f"{fraction}, which leaves none of class"
        raise invalid(WHERE, rule, f"{got} {emptied[0]}", "Raise --train-fraction.")
    return first


def split_halves(
    labels: np.ndarray, indices: np.ndarray, weight_share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide images into those that train weights and those that train alpha, class by class.

    Args:
        labels: Class of every image of the set, ``[N]``.
        indices: The images to divide.
        weight_share: Share of every class that trains weights, in (0, 1).
        seed: Decides which images.

    Returns:
        Both halves, sorted.

    Raises:
        ValueError: If a class has too few images to stand in both.
    """
    labels = _strata(labels)
    for_weights, for_alpha = _cut_classes(indices, labels, weight_share, stream(seed, "halves"))
    present = np.unique(labels[indices])
    for half, name in ((for_weights, "weights"), (for_alpha, "alpha")):
        if len(missing := np.setdiff1d(present, labels[half])):
            rule, got = "every class must have images for weights and for alpha", f"none of class {missing[0]}"
            remedy = "Raise --train-fraction, or add images to the class."
            raise invalid(WHERE, rule, f"{got} in the half for {name}", remedy)
    return for_weights, for_alpha


LEAST = 2
"""Images of an incomplete batch, below which it has no statistics to be normalised by."""


def steps_per_epoch(
    num_images: int,
    batch_size: int,
    what: str = "the training images",
    *,
    drop_last: bool = True,
    option: str = "--batch-size",
) -> int:
    """Batches of one pass.

    Args:
        num_images: In the pass.
        batch_size: Of a full batch.
        what: The images, in words.
        drop_last: Leave the incomplete batch out; one of a single image is left out in any case, since it has no
            statistics to be normalised by.
        option: What sets the batch.

    Raises:
        ValueError: If there is not even one.
    """
    if batch_size < 1:
        raise invalid(WHERE, "batch_size must be at least 1", batch_size)
    if batch_size > num_images:
        rule = f"batch_size must not exceed {what} ({num_images})"
        raise invalid(WHERE, rule, batch_size, f"Lower {option} or raise --train-fraction.")
    return num_images // batch_size + (not drop_last and num_images % batch_size >= LEAST)


def _strata(labels: np.ndarray) -> np.ndarray:
    """What is divided evenly: the classes; targets that are no classes, ``[N, ...]``, are one."""
    return labels if labels.ndim == 1 else np.zeros(len(labels), np.int64)


def _cut_classes(indices: np.ndarray, labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    first, second = [], []
    for label in np.unique(labels[indices]):
        members = rng.permutation(indices[labels[indices] == label])
        cut = round(share * len(members))
        first.append(members[:cut])
        second.append(members[cut:])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


class Halves(NamedTuple):
    """Places of the training images for the weights and for alpha, each sorted and of integers."""

    weights: np.ndarray
    alpha: np.ndarray


class _File(BaseModel):
    """The content of an index file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal["fastnas index 1"]
    data: str
    digest: str
    fractions: list[float]
    seed: int
    weights: Indices
    alpha: Indices


def digest_images(images: ImageSet) -> str:
    """Sixteen hexadecimal digits of the names and classes of all images, wherever they lie."""
    content = hashlib.sha256(images.labels.astype("<i8").tobytes())
    content.update("\n".join(images.names).encode("utf-8", "surrogateescape"))
    return content.hexdigest()[:16]


def divide(data: ImageData, fractions: tuple[float, float], seed: int) -> Halves:
    """Two class-balanced parts of the training images without a common image.

    Args:
        data: The data set.
        fractions: Share of every class for the weights, and for alpha (PC-DARTS on ImageNet: 0.1 and 0.025).
        seed: Decides which images.

    Raises:
        ValueError: If the shares are out of range, or leave a class without an image.
    """
    if not min(fractions) > 0 or not sum(fractions) <= 1 + 1e-9:
        raise invalid(INDEX, "fractions must be positive and no more than 1 together", fractions)
    used = class_balanced_fraction(data.train.labels, min(sum(fractions), 1.0), seed)
    return Halves(*split_halves(data.train.labels, used, fractions[0] / sum(fractions), seed))


def write_index(path: Path, data: ImageData, fractions: tuple[float, float], seed: int) -> Halves:
    """:func:`divide`, kept in a JSON file; returns what it holds."""
    halves = divide(data, fractions, seed)
    content: dict[str, Any] = {"format": FORMAT, "data": data.name, "digest": digest_images(data.train)}
    content |= {"fractions": list(fractions), "seed": seed}
    write_json(path, content | {name: half.tolist() for name, half in halves._asdict().items()}, indent=None)
    return halves


def read_index(path: Path, data: ImageData) -> Halves:
    """What :func:`write_index` wrote.

    Raises:
        ValueError: If the file is no index, or that of another data set.
    """
    remedy = "Write one: fastnas index."
    content = validate(TypeAdapter(_File), read_json(path), INDEX, f"{path} must be an index file", remedy)
    count, ours = len(data.train.labels), digest_images(data.train)
    if content.digest != ours:
        other = f"the index of {content.data} ({content.digest}) beside {data.name} ({ours}, {count} images)"
        raise invalid(INDEX, f"{path} must belong to the data set", other, remedy)
    halves = Halves(np.array(content.weights, np.int64), np.array(content.alpha, np.int64))
    both = np.concatenate(halves)
    if not (all(map(len, halves)) and both.max() < count and len(np.unique(both)) == len(both)):
        raise invalid(INDEX, f"{path} must name images of the data set, each once and some for each half", "others")
    return halves
