"""Batches in an order that depends on the seed and the step alone.

The batch of step t is a pure function of (seed, t): the same for any number of worker processes, and after a resume
at t. One loader serves a whole run, so that its workers start once and decode across the borders of epochs. Workers
send uint8, pinned where there is a GPU, and the device normalises.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from fastnas.data.balance import Sampling, draw_balanced_pass
from fastnas.data.batched import read_batch
from fastnas.data.broken import BrokenImages, UnreadableImage
from fastnas.data.division import steps_per_epoch
from fastnas.data.images import ImageData, ImageSet, Transform
from fastnas.data.loaders import Batch
from fastnas.data.pixels import cut_out
from fastnas.errors import invalid
from fastnas.ranks import ALONE, Ranks
from fastnas.seeds import stream, torch_seed

CPU = torch.device("cpu")


class _Key(NamedTuple):
    image: int
    seed: int
    group: int = 0  # of the batch: its images are those of one half


class _Failure(NamedTuple):
    """An image that could not be read. It travels as a value, since an error raised in a worker process arrives
    wrapped in that process's traceback."""

    name: str
    got: str
    group: int = 0


_Sample = tuple[Tensor, int | Tensor, int]


class _Loaded(NamedTuple):
    """What workers send: uint8 images with their classes, and what went wrong."""

    images: Tensor
    labels: Tensor
    failures: list[_Failure]


class _Samples(Dataset):
    def __init__(self, images: ImageSet, transform: Transform) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, key: _Key) -> _Sample | _Failure:
        index, seed, group = key
        try:
            with torch_seed(seed):
                return *self._pair(index), group
        except UnreadableImage as error:
            return _Failure(error.name, error.got, group)

    def __getitems__(self, keys: list[_Key]) -> "list[_Sample | _Failure] | _Loaded":
        """What a loader asks for where it is there: at once, if the images lie in memory."""
        indices = np.array([key.image for key in keys], np.int64)
        pixels = read_batch(self.images, self.transform, indices, [key.seed for key in keys])
        if pixels is None:
            return [self[key] for key in keys]
        targets = torch.as_tensor(self.images.labels[indices])
        return _Loaded(pixels, targets.long() if targets.ndim == 1 else targets, [])

    def _pair(self, index: int) -> tuple[Tensor, int | Tensor]:
        if self.images.labels.ndim == 1:
            return self.transform(self.images.image(index)), int(self.images.labels[index])
        target = torch.as_tensor(self.images.labels[index])
        image, pair = self.images.image(index), getattr(self.transform, "pair", None)
        return (self.transform(image), target) if pair is None else pair(image, target)


@dataclass(frozen=True)
class _Collate:
    """Stack samples, in whose groups one that can be read takes the place of one that cannot.

    A batch keeps its size so, and no image of a half gets into the other. Unless it ``replaces``, it gets smaller
    instead.
    """

    replaces: bool

    def __call__(self, samples: Sequence[_Sample | _Failure] | _Loaded) -> _Loaded:
        if isinstance(samples, _Loaded):
            return samples
        failures = [sample for sample in samples if isinstance(sample, _Failure)]
        numbers = [sample.group if isinstance(sample, _Failure) else sample[2] for sample in samples]
        groups = [[s for s, n in zip(samples, numbers, strict=True) if n == number] for number in sorted({*numbers})]
        readable = [self._readable(group) for group in groups]
        read = [sample for group in readable for sample in group]
        if not read or (self.replaces and not all(readable)):
            return _Loaded(torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), failures)
        images, labels, _ = zip(*read, strict=True)
        targets = torch.tensor(labels) if isinstance(labels[0], int) else torch.stack(labels)
        return _Loaded(_stack(images), targets, failures)

    def _readable(self, group: Sequence[_Sample | _Failure]) -> list[_Sample]:
        read = [sample for sample in group if not isinstance(sample, _Failure)]
        missing = len(group) - len(read) if self.replaces and read else 0
        return read + [read[i % len(read)] for i in range(missing)]


def _stack(images: Sequence[Tensor]) -> Tensor:
    """A batch laid out as its images are: decoders write the channels of a pixel side by side, and to part them takes
    a worker as long as to crop. In a worker it is stacked where the other process can read it."""
    last = [image.movedim(0, -1) for image in images]
    if all(image.is_contiguous() for image in last):
        return default_collate(last).movedim(-1, 1)
    return default_collate(list(images))


class _Passes:
    """Pass after pass over some images, cut into batches: permutations, or balanced by the ``labels`` of all images."""

    def __init__(
        self,
        indices: np.ndarray,
        batch_size: int,
        seed: int,
        consumer: str,
        what: str,
        drop_last: bool = True,
        group: int = 0,
        labels: np.ndarray | None = None,
    ) -> None:
        self.indices, self.batch_size, self.seed, self.consumer = indices, batch_size, seed, consumer
        self.steps, self.group = steps_per_epoch(len(indices), batch_size, what, drop_last=drop_last), group
        self.labels = labels
        self.number, self.order = -1, indices

    def size(self, step: int) -> int:
        """Images of the batch of a step."""
        return min(self.batch_size, len(self.indices) - step % self.steps * self.batch_size)

    def keys(self, step: int) -> list[_Key]:
        number, position = divmod(step, self.steps)
        if number != self.number:
            rng = np.random.default_rng(stream(self.seed, self.consumer, number))
            labels, self.number = self.labels, number
            self.order = (
                rng.permutation(self.indices) if labels is None else draw_balanced_pass(self.indices, labels, rng)
            )
        chosen = self.order[position * self.batch_size : (position + 1) * self.batch_size]
        source = np.random.default_rng(stream(self.seed, f"{self.consumer} augmentation", step))
        seeds = source.integers(2**62, size=len(chosen))
        return [_Key(int(i), int(s), self.group) for i, s in zip(chosen, seeds, strict=True)]


def _load(
    data: ImageData,
    images: ImageSet,
    transform: Transform,
    batches: Any,
    workers: int,
    device: torch.device,
    broken: BrokenImages,
    replaces: bool = False,
) -> Iterator[Batch]:
    loader = DataLoader(
        _Samples(images, transform),
        batch_sampler=batches,
        collate_fn=_Collate(replaces),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        # It seeds workers, whose own randomness nothing uses; without it, torch's global generator would move
        generator=torch.Generator().manual_seed(0),
    )
    for loaded in loader:
        for failure in loaded.failures:
            broken.add(UnreadableImage(failure.name, failure.got))
        if replaces and len(loaded.labels) == 0:
            rule = "a batch must have a readable image of each half"
            raise invalid("data", rule, "none", "Raise --batch-size or replace the files.")
        if len(loaded.labels):
            pixels, labels = (x.to(device, non_blocking=True) for x in (loaded.images, loaded.labels))
            yield Batch(data.normalise(pixels), labels)


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
    sampling: Sampling = "uniform",
    device: torch.device = CPU,
    broken: BrokenImages | None = None,
    ranks: Ranks = ALONE,
    drop_last: bool = True,
) -> Iterator[tuple[Batch, Batch | None]]:
    """For every step one batch for the weights and one for alpha, each half in passes of its own.

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
        sampling: Which images a pass takes.
        device: Where to bring the batches, and to normalise them.
        broken: Counts images that cannot be read; another one of the same batch and half takes the place of each.
            Without it, the first ends the run.
        ranks: The processes that share every batch; each gets its part of both.
        drop_last: Leave out the incomplete batch at the end of a pass; several processes do in any case.

    Raises:
        ValueError: At once if a half does not fill a batch, and on the way if too many images cannot be read.
    """
    if data.loaders is not None:
        return data.loaders.paired(weight_indices, seed, first_step, num_steps, search_from_step, device)
    drop_last = drop_last or ranks.size > 1
    labels = data.train.labels if sampling == "balanced" else None
    for_weights = _Passes(weight_indices, batch_size, seed, "weights", "the half for the weights", drop_last, 0, labels)
    for_alpha = _Passes(search_indices, batch_size, seed, "alpha", "the half for alpha", drop_last, 1, labels)

    def keys(step: int) -> list[_Key]:
        part = ranks.part(batch_size)
        return for_weights.keys(step)[part] + (for_alpha.keys(step)[part] if step >= search_from_step else [])

    steps = range(first_step, first_step + num_steps)
    broken = broken or BrokenImages()
    loaded = _load(data, data.train, data.train_transform, map(keys, steps), workers, device, broken, True)
    sizes = (for_weights.size(step) // ranks.size for step in steps)
    return (_part(batch, size) for batch, size in zip(loaded, sizes, strict=True))


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
    sampling: Sampling = "uniform",
    device: torch.device = CPU,
    broken: BrokenImages | None = None,
    ranks: Ranks = ALONE,
    drop_last: bool = True,
) -> Iterator[Batch]:
    """Augmented batches of ``indices``, pass after pass; see :func:`paired_batches` for the arguments.

    Args:
        cutout: Side in pixels of the square blanked in every image; 0 for none.
    """
    steps, own = range(first_step, first_step + num_steps), (ranks.index,) if ranks.index else ()
    if data.loaders is not None:
        loaded = data.loaders.for_training(indices, seed, first_step, num_steps, device)
        return _each_with_squares(loaded, cutout, seed, steps, own)
    labels = data.train.labels if sampling == "balanced" else None
    drop_last = drop_last or ranks.size > 1
    passes = _Passes(indices, batch_size, seed, "retraining", "the training images", drop_last, 0, labels)
    part = ranks.part(batch_size)
    every = (passes.keys(step)[part] for step in steps)
    broken = broken or BrokenImages()
    loaded = _load(data, data.train, data.train_transform, every, workers, device, broken, True)
    return _each_with_squares(loaded, cutout, seed, steps, own)


def _each_with_squares(
    batches: Iterator[Batch], side: int, seed: int, steps: range, own: tuple[int, ...]
) -> Iterator[Batch]:
    for step, batch in zip(steps, batches, strict=True):
        square_seed = stream(seed, "cutout", step, *own)
        yield batch._replace(images=cut_out(batch.images, side, 1.0, square_seed)) if side else batch


def evaluation_batches(
    data: ImageData,
    images: ImageSet,
    indices: np.ndarray | None = None,
    *,
    batch_size: int,
    workers: int = 0,
    device: torch.device = CPU,
    broken: BrokenImages | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Batch]:
    """Every image once, in order and without augmentation, in batches of nearly equal size; beside other processes
    every R-th of them.

    Args:
        data: Whose transform and normalisation.
        images: Its training or test images.
        indices: Which of them; ``None`` for all.
        batch_size: Upper bound on the images of a batch.
        workers: Processes that decode; 0 decodes in this one.
        device: Where to bring the batches, and to normalise them.
        broken: Counts images that cannot be read, which are left out. Without it, the first ends the run.
    """
    if batch_size < 1:
        raise invalid("data", "batch_size must be at least 1", batch_size)
    if data.loaders is not None:
        return data.loaders.for_evaluation(None if images is data.test else indices, device)
    indices = np.arange(len(images.labels)) if indices is None else indices
    chunks = np.array_split(indices, -(-len(indices) // batch_size)) if len(indices) else []
    keys = [[_Key(int(i), 0) for i in chunk] for chunk in chunks[ranks.index :: ranks.size]]
    return _load(data, images, data.eval_transform, keys, workers, device, broken or BrokenImages())
