"""Data sets of PyTorch and tables of Hugging Face as numbered images and their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

from fastnas.data.broken import UnreadableImage
from fastnas.data.config import WHERE
from fastnas.errors import describe, invalid

COMPARED = 32  # items, evenly over a data set, whose labels are compared with those that it lists
MOST_CLASSES = 100  # of which the first item of each is compared, too


class Labels(NamedTuple):
    """What a data set says of its labels.

    Args:
        labels: Of all items.
        differ: Whether the data set lists others, whose classes its names are.
    """

    labels: np.ndarray
    differ: bool = False


@dataclass(frozen=True)
class Pairs:
    """The images and labels of a data set of pairs.

    Args:
        dataset: Map-style.
        classes: The names that it has for classes.
    """

    dataset: Any
    classes: Sequence[str] | None

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self.dataset)

    def image(self, index: int) -> Any:
        """That of an item."""
        return self._item(index)[0]

    def _item(self, index: int) -> Any:
        item = self.dataset[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            remedy = "Give arrays as a pair (images, labels)."
            raise invalid(WHERE, "an item of a data set must be a pair of image and label", describe(item), remedy)
        return item

    def read_labels(self) -> Labels:
        """Those of the items: as the data set lists them, if items that are read agree; otherwise every one is read."""
        listed = self._listed()
        if listed is not None and getattr(self.dataset, "target_transform", None) is None and self._agree(listed):
            return Labels(listed)
        labels = _as_labels([self._item(index)[1] for index in range(self.count)])
        are_classes = listed is not None and listed.dtype.kind in "iu" and listed.shape == labels.shape
        return Labels(labels, are_classes and not _is_same(labels, listed))

    def _listed(self) -> np.ndarray | None:
        listed = getattr(self.dataset, "targets", getattr(self.dataset, "labels", None))
        if listed is None or callable(listed) or len(listed) != self.count:
            return None
        try:
            return _as_labels(listed)
        except ValueError:  # of many lengths, such as boxes
            return None

    def _agree(self, listed: np.ndarray) -> bool:
        places = {int(place) for place in np.linspace(0, self.count - 1, COMPARED)}
        if listed.ndim == 1 and listed.dtype.kind in "iu":
            places |= set(np.unique(listed, return_index=True)[1][:MOST_CLASSES].tolist())
        for place in sorted(places):
            try:
                label = self._item(place)[1]
            except UnreadableImage:  # whether it may be left out is decided where it is needed
                continue
            if not _is_same(_as_labels(label), listed[place]):
                return False
        return True


@dataclass(frozen=True)
class Columns:
    """The images and labels of a table of Hugging Face.

    Args:
        dataset: The table.
        image_column: Its column of images.
        label_column: Its column of labels.
        classes: The names that it has for classes.
    """

    dataset: Any
    image_column: str
    label_column: str
    classes: Sequence[str] | None

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.dataset)

    def image(self, index: int) -> Any:
        """That of a row."""
        return self.dataset[index][self.image_column]

    def read_labels(self) -> Labels:
        """The column of labels."""
        return Labels(_as_labels(self.dataset[self.label_column]))


def adapt(dataset: Any) -> Pairs | Columns:
    """A data set as images and labels.

    Raises:
        ValueError: If it is not map-style, or a table without such columns.
    """
    features: Any = getattr(dataset, "features", None)
    if hasattr(features, "items"):
        kinds = {name: type(feature).__name__ for name, feature in features.items()}
        images = [name for name, kind in kinds.items() if kind == "Image"]
        labels = [name for name, kind in kinds.items() if kind == "ClassLabel"] or [n for n in kinds if n == "label"]
        if not images or not labels:
            rule = "a data set must have a column of images and one of class labels"
            raise invalid(WHERE, rule, ", ".join(f"{name}: {kind}" for name, kind in kinds.items()))
        names = getattr(features[labels[0]], "names", None)
        return Columns(dataset, images[0], labels[0], names)
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        remedy = "An iterable has no order that a seed decides: give a map-style data set, or shards:ROOT (WebDataset)."
        raise invalid(WHERE, "a data set must have a length and items", describe(dataset), remedy)
    names = getattr(dataset, "classes", None)
    return Pairs(dataset, list(map(str, names)) if isinstance(names, list | tuple) else None)


def take_tensors(dataset: Any) -> tuple[Tensor, Tensor] | None:
    """The images and labels of a ``TensorDataset``; ``None`` for others, among them those that change its items."""
    if not isinstance(dataset, TensorDataset) or type(dataset).__getitem__ is not TensorDataset.__getitem__:
        return None
    return dataset.tensors if len(dataset.tensors) == 2 else None


def _as_labels(labels: Any) -> np.ndarray:
    """Whole numbers stay what they are; everything else is left to whoever checks labels."""
    if isinstance(labels, list) and labels and isinstance(labels[0], Tensor | Image.Image):
        labels = np.stack([np.asarray(one) for one in labels])
    y = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    return y.astype(np.int64) if y.dtype.kind in "iu" and y.ndim == 1 else y


def _is_same(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype.kind == other.dtype.kind == "f":  # float32 in a tensor, float64 in a list
        one, other = one.astype(np.float32), other.astype(np.float32)
    return one.dtype.kind != "O" and other.dtype.kind != "O" and bool(np.array_equal(one, other))
