"""Data loaders of one's own, taken as they are: their batches, their order, their images.

A search asks for the batch of a step again after a resume. So a pass over a loader begins with a seed of its own, and
so does every batch that is taken from it: for PyTorch's generators, NumPy's and Python's, and for those that the loader
and its samplers hold. A loader that draws from nothing else gives the same batches again; what is drawn in worker
processes follows from the seed of the pass. Whether this holds is tried when the data is made, and what does not hold
is warned of.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastnas.data.config import WHERE
from fastnas.data.seeded import iterate_once
from fastnas.errors import invalid
from fastnas.seeds import stream

PARTS = ("weights", "alpha", "test")
UNUSED = (
    *("train_fraction", "weight_share", "fractions", "index", "minutes"),
    *("max_broken", "workers", "class_weights", "sampling"),
)
"""Settings of a search or training that a loader decides itself."""


class Batch(NamedTuple):
    """Normalised images, float32 ``[N, C, H, W]``, and their classes, int64 ``[N]``, on the device of the run."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Loader:
    """A data loader, read so that its batches depend on a seed and their number alone, as far as it draws from seeds.

    Args:
        part: What it is for, one of :data:`PARTS`.
        source: An iterable of pairs (images, labels) with a length.
        image_shape: ``[C, H, W]`` of its images.
        num_classes: Which labels it may give: those below.
    """

    part: str
    source: Any
    image_shape: tuple[int, ...]
    num_classes: int

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, seed: int, first: int = 0) -> Iterator[Batch]:
        """Pass after pass, from the batch of the number ``first`` on; those before it in its pass are read and left."""
        number, place = divmod(first, len(self))
        while True:
            for position, (images, labels) in enumerate(iterate_once(self.source, stream(seed, self.part, number))):
                if position >= place:
                    yield self._check(images, labels, number * len(self) + position)
            number, place = number + 1, 0

    def once(self, seed: int) -> Iterator[Batch]:
        """One pass."""
        for position, (images, labels) in enumerate(iterate_once(self.source, stream(seed, self.part))):
            yield self._check(images, labels, position)

    def _check(self, images: Tensor, labels: Tensor, number: int) -> Batch:
        if images.shape[1:2] != self.image_shape[:1] or images.ndim != 1 + len(self.image_shape):
            expected = ["N", *self.image_shape]
            raise invalid(self._at(number), f"images must have the shape {expected}", list(images.shape))
        if (
            labels.device.type == "cpu"
            and len(labels)
            and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes
        ):
            wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise invalid(self._at(number), f"labels must lie in [0, {self.num_classes}), one for each class", wrong)
        return Batch(images, labels.long())

    def _at(self, number: int) -> str:
        return f"{WHERE}: batch {number} of the loader for {self.part}"


@dataclass(frozen=True)
class Loaders:
    """The loaders that stand for images.

    Places of images stand for batches: each loader has as many places as batches of the first loader's size, one loader
    after the other.

    Args:
        training: Those for weights and alpha, or the first alone.
        test: That of the test images, if there is one.
        batch_size: Images of the first batch.
        digest: Of the first batches, if they come again.
    """

    training: tuple[Loader, ...]
    test: Loader | None
    batch_size: int
    digest: str | None

    @property
    def places(self) -> list[np.ndarray]:
        """The places of each loader for training."""
        ends = np.cumsum([0, *(self.batch_size * len(loader) for loader in self.training)])
        return [np.arange(start, end) for start, end in pairwise(ends)]

    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """The places for the weights, and for alpha."""
        if len(self.training) < 2:
            raise invalid(WHERE, "a search must have two loaders, for weights and for alpha", "one")
        return self.places[0], self.places[1]

    def paired(
        self,
        indices: np.ndarray,
        seed: int,
        first_step: int,
        num_steps: int,
        search_from_step: int,
        device: torch.device,
    ) -> Iterator[tuple[Batch, Batch | None]]:
        """See :func:`fastnas.data.paired_batches`."""
        for_weights = self._from(indices, seed, first_step)
        begin = max(first_step, search_from_step)
        for_alpha = self.training[1].batches(stream(seed, "alpha from", search_from_step), begin - search_from_step)
        for step in range(first_step, first_step + num_steps):
            second = _to(next(for_alpha), device) if step >= search_from_step else None
            yield _to(next(for_weights), device), second

    def for_training(
        self, indices: np.ndarray, seed: int, first_step: int, num_steps: int, device: torch.device
    ) -> Iterator[Batch]:
        """See :func:`fastnas.data.training_batches`."""
        batches = self._from(indices, seed, first_step)
        return (_to(next(batches), device) for _ in range(num_steps))

    def for_evaluation(self, indices: np.ndarray | None, device: torch.device) -> Iterator[Batch]:
        """The batches of a pass that is always the same: of the test loader, or of the one to which places belong."""
        if indices is None:
            loader, most = self.test, None
            if loader is None:
                remedy = "Make the data with fastnas.data.from_loaders(train, test=loader)."
                raise invalid(WHERE, "a retraining must have a loader of test images", "none", remedy)
        else:
            loader, most = self._readers(indices)[0], len(indices)
        seen = 0
        for batch in loader.once(0):
            if most is not None and seen >= most:
                return
            yield _to(batch, device)
            seen += len(batch.labels)

    def _readers(self, indices: np.ndarray) -> list[Loader]:
        of_each = zip(self.training, self.places, strict=True)
        return [loader for loader, places in of_each if np.isin(indices, places).any()]

    def _from(self, indices: np.ndarray, seed: int, first: int) -> Iterator[Batch]:
        """Passes over the loaders to which the places belong, one after the other."""
        readers = self._readers(indices)
        number, place = divmod(first, sum(map(len, readers)))
        while True:
            for loader in readers:
                skipped = min(place, len(loader))
                batches = loader.batches(seed, number * len(loader) + skipped)
                yield from (next(batches) for _ in range(len(loader) - skipped))
                place -= skipped
            number += 1

    def fit(self, config: Any, several: bool) -> Any:
        """``config`` with the batch size of the loaders."""
        if several:
            raise invalid(WHERE, "data loaders work in one process only", "several", "Give arrays or a data set.")
        fields = type(config).__dataclass_fields__
        for name in UNUSED:
            if name in fields and getattr(config, name) != fields[name].default:
                rule = f"{name} must not be set with data loaders, which decide it"
                raise invalid(type(config).__name__, rule, getattr(config, name), "Set it in the loaders.")
        return replace(config, batch_size=self.batch_size) if "batch_size" in fields else config


def _to(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(x.to(device, non_blocking=True) for x in batch))
