"""Which images a search uses, as a file that knows the data set that it belongs to."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastnas.data.division import class_balanced_fraction, split_halves
from fastnas.data.images import ImageData, ImageSet
from fastnas.files import read_json, write_json
from fastnas_kernels.check import complaint, require

WHERE = "index"
FORMAT = "fastnas index 1"
Indices = list[Annotated[int, Field(ge=0)]]


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


def digest(images: ImageSet) -> str:
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
    require(min(fractions) > 0 and sum(fractions) <= 1 + 1e-9, WHERE, *_RULE, fractions)
    used = class_balanced_fraction(data.train.labels, min(sum(fractions), 1.0), seed)
    return Halves(*split_halves(data.train.labels, used, fractions[0] / sum(fractions), seed))


def write_index(path: Path, data: ImageData, fractions: tuple[float, float], seed: int) -> Halves:
    """:func:`divide`, kept in a JSON file; returns what it holds."""
    halves = divide(data, fractions, seed)
    content: dict[str, Any] = {"format": FORMAT, "data": data.name, "digest": digest(data.train)}
    content |= {"fractions": list(fractions), "seed": seed}
    write_json(path, content | {name: half.tolist() for name, half in halves._asdict().items()}, indent=None)
    return halves


def read_index(path: Path, data: ImageData) -> Halves:
    """What :func:`write_index` wrote.

    Raises:
        ValueError: If the file is no index, or that of another data set.
    """
    rule, remedy = f"{path} must be an index file", "Write one: fastnas index."
    try:
        content = _File.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        got = f"{'.'.join(map(str, first['loc'])) or 'its content'}: {first['msg']}"
        raise ValueError(complaint(WHERE, rule, got, remedy)) from None
    count, ours = len(data.train.labels), digest(data.train)
    same = content.digest == ours
    other = f"the index of {content.data} ({content.digest}) beside {data.name} ({ours}, {count} images)"
    require(same, WHERE, f"{path} must belong to the data set", other, remedy)
    halves = Halves(np.array(content.weights, np.int64), np.array(content.alpha, np.int64))
    both = np.concatenate(halves)
    whole = len(halves.weights) > 0 < len(halves.alpha) and both.max() < count and len(np.unique(both)) == len(both)
    require(whole, WHERE, f"{path} must name images of the data set, each once and some for each half", "others")
    return halves


_RULE = ("fractions must be positive and no more than 1 together",)
