"""Batches in an order that depends on the seed and the step alone.

The batch of step t is a pure function of (seed, t): the same for any number of worker processes, and after a resume
at t. One loader serves a whole run, so that its workers start once and decode across the borders of epochs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from fastnas.seeds import stream, torch_seed
from fastnas.train.data.division import steps_per_epoch
from fastnas.train.data.images import ImageData, ImageSet, Transform
from fastnas.train.data.transforms import Cutout
from fastnas.train.ranks import ALONE, Ranks
from fastnas_kernels.check import require


class Batch(NamedTuple):
    """Images, float32 ``[N, C, H, W]``, and their classes, int64 ``[N]``."""

    images: Tensor
    labels: Tensor


class _Key(NamedTuple):
    index: int
    seed: int


class _Failure(NamedTuple):
    """An image that could not be read. It travels as a value, since an error raised in a worker process arrives
    wrapped in that process's traceback."""

    message: str


class _Samples(Dataset):
    def __init__(self, images: ImageSet, transform: Transform) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, key: _Key) -> tuple[Tensor, int] | _Failure:
        index, seed = key
        try:
            image = self.images.image(index)
        except ValueError as error:
            return _Failure(str(error))
        with torch_seed(seed):
            return self.transform(image), int(self.images.labels[index])


def _collate(samples: Sequence[tuple[Tensor, int] | _Failure]) -> Batch | _Failure:
    for sample in samples:
        if isinstance(sample, _Failure):
            return sample
    images, labels = zip(*samples, strict=True)
    return Batch(torch.stack(images), torch.tensor(labels))


class _Passes:
    """Permutation after permutation of some images, cut into batches."""

    def __init__(self, indices: np.ndarray, batch_size: int, seed: int, consumer: str, what: str) -> None:
        self.indices, self.batch_size, self.seed, self.consumer = indices, batch_size, seed, consumer
        self.steps = steps_per_epoch(len(indices), batch_size, what)
        self.number, self.order = -1, indices

    def keys(self, step: int) -> list[_Key]:
        number, position = divmod(step, self.steps)
        if number != self.number:
            rng = np.random.default_rng(stream(self.seed, self.consumer, number))
            self.number, self.order = number, rng.permutation(self.indices)
        chosen = self.order[position * self.batch_size : (position + 1) * self.batch_size]
        source = np.random.default_rng(stream(self.seed, f"{self.consumer} augmentation", step))
        return [_Key(int(i), int(s)) for i, s in zip(chosen, source.integers(2**62, size=len(chosen)), strict=True)]


def _load(images: ImageSet, transform: Transform, batches: Sequence[list[_Key]] | Any, workers: int) -> Iterator[Batch]:
    loader = DataLoader(
        _Samples(images, transform),
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        # It seeds workers, whose own randomness nothing uses; without it, torch's global generator would move
        generator=torch.Generator().manual_seed(0),
    )
    for batch in loader:
        if isinstance(batch, _Failure):
            raise ValueError(batch.message)
        yield batch


class _Lazily:
    """A sampler that is made as it is read."""

    def __init__(self, make: Callable[[int], list[_Key]], steps: range) -> None:
        self.make, self.steps = make, steps

    def __iter__(self) -> Iterator[list[_Key]]:
        return map(self.make, self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def paired_batches(
    data: ImageData,
    weight_indices: np.ndarray,
    search_indices: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    num_steps: int,
    search_from_step: int,
    workers: int,
    ranks: Ranks = ALONE,
) -> Iterator[tuple[Batch, Batch | None]]:
    """For every step one batch for the weights and one for alpha, each half in permutations of its own.

    Args:
        data: Where the images come from.
        weight_indices: Training images for the weights.
        search_indices: Training images for alpha.
        batch_size: Images of each batch.
        seed: Decides order and augmentation.
        first_step: Global number of the first step.
        num_steps: How many steps follow.
        search_from_step: Global number of the first step that needs a batch for alpha; ``None`` comes before.
        workers: Processes that decode; 0 decodes in this one.
        ranks: The processes that share every batch; each gets its part of both.

    Raises:
        ValueError: At once if a half does not fill a batch, and on the way if an image cannot be read.
    """
    for_weights = _Passes(weight_indices, batch_size, seed, "weights", "the half for the weights")
    for_alpha = _Passes(search_indices, batch_size, seed, "alpha", "the half for alpha")

    def keys(step: int) -> list[_Key]:
        part = ranks.part(batch_size)
        return for_weights.keys(step)[part] + (for_alpha.keys(step)[part] if step >= search_from_step else [])

    steps = range(first_step, first_step + num_steps)
    loaded = _load(data.train, data.train_transform, _Lazily(keys, steps), workers)
    return (_part(batch, batch_size // ranks.size) for batch in loaded)


def _part(batch: Batch, size: int) -> tuple[Batch, Batch | None]:
    first, second = (Batch(*(tensor[part] for tensor in batch)) for part in (slice(size), slice(size, None)))
    return first, second if len(second.labels) else None


def training_batches(
    data: ImageData,
    indices: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    num_steps: int,
    workers: int,
    cutout: int = 0,
    ranks: Ranks = ALONE,
) -> Iterator[Batch]:
    """Augmented batches of ``indices``, pass after pass; see :func:`paired_batches` for the arguments.

    Args:
        cutout: Side in pixels of the square blanked in every image; 0 for none.
    """
    passes = _Passes(indices, batch_size, seed, "retraining", "the training images")
    transform = v2.Compose([data.train_transform, Cutout(cutout)]) if cutout else data.train_transform
    steps = range(first_step, first_step + num_steps)
    part = ranks.part(batch_size)
    return _load(data.train, transform, _Lazily(lambda step: passes.keys(step)[part], steps), workers)


def evaluation_batches(
    images: ImageSet,
    transform: Transform,
    indices: np.ndarray | None = None,
    *,
    batch_size: int,
    workers: int = 0,
    ranks: Ranks = ALONE,
) -> Iterator[Batch]:
    """Every image once, in order, in batches of nearly equal size; beside other processes every R-th of them.

    Args:
        images: The set.
        transform: Without randomness.
        indices: Which images; ``None`` for all.
        batch_size: Upper bound on the images of a batch.
        workers: Processes that decode; 0 decodes in this one.
    """
    require(batch_size >= 1, "data", "batch_size must be at least 1", batch_size)
    indices = np.arange(len(images.labels)) if indices is None else indices
    chunks = np.array_split(indices, -(-len(indices) // batch_size)) if len(indices) else []
    own = chunks[ranks.index :: ranks.size]
    return _load(images, transform, [[_Key(int(i), 0) for i in chunk] for chunk in own], workers)
