"""Augmentation of whole batches of images that lie in memory, with the random numbers that each image draws alone."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastnas.data.images import ImageSet, Transform, as_they_are, read_items

Change = Callable[[Tensor, Sequence[int]], Tensor]


def read_batch(images: ImageSet, transform: Transform, indices: np.ndarray, seeds: Sequence[int]) -> Tensor | None:
    """Images of a batch, bit for bit what ``transform`` makes of each of them behind ``torch.manual_seed(seed)``.

    Returns:
        ``[N, ...]``; ``None`` unless the images lie in memory, at the size that networks see, and the transform only
        shifts and mirrors them.
    """
    items = read_items(images, indices)
    if items is None or (steps := _steps(transform, tuple(items.shape[1:]))) is None:
        return None
    if not steps:
        return items
    draws, generator = [], torch.Generator()
    for seed in seeds:
        generator.manual_seed(seed)
        draws.append([draw(generator) for draw, _ in steps])
    for (_, change), drawn in zip(steps, zip(*draws, strict=True), strict=True):
        items = change(items, drawn)
    return items


_Step = tuple[Callable[[torch.Generator], Any], Callable[[Tensor, Sequence[Any]], Tensor]]


def _steps(transform: Transform, shape: tuple[int, ...]) -> list[_Step] | None:
    """What an image of a shape draws, and what becomes of a batch of them; ``None`` for other transforms."""
    if transform is as_they_are:
        return []
    if getattr(transform, "pair", None) is not None:
        return [] if transform.augment is None and (transform.channels, *transform.size) == shape else None  # type: ignore[attr-defined]
    from torchvision.transforms import v2  # noqa: PLC0415  (it takes two seconds)

    from fastnas.data.transforms import Decode  # noqa: PLC0415
    from fastnas.networks.preprocessing import FitTo  # noqa: PLC0415

    if type(transform) is not v2.Compose or len(shape) != 3:
        return None
    steps: list[_Step] = []
    for step in cast(v2.Compose, transform).transforms:
        if type(step) is Decode and step.channels == shape[0]:
            continue
        if type(step) is FitTo and step.size == step.covered == shape[1:]:
            continue
        if type(step) is v2.RandomCrop and step.size == shape[1:] and _pads_with_zeros(step):
            steps.append(_shift(*step.padding))  # type: ignore[misc]
        elif type(step) is v2.RandomHorizontalFlip:
            steps.append(_mirror(step.p))
        else:
            return None
    return steps


def _pads_with_zeros(crop: Any) -> bool:
    return crop.padding is not None and crop.fill == 0 and crop.padding_mode == "constant" and not crop.pad_if_needed


def _shift(left: int, right: int, top: int, bottom: int) -> _Step:
    place = torch.empty((), dtype=torch.int64)

    def draw(generator: torch.Generator) -> tuple[int, int]:
        rows, columns = (
            int(place.random_(0, total + 1, generator=generator)) if total else 0
            for total in (top + bottom, left + right)
        )
        return rows, columns

    def change(images: Tensor, drawn: Sequence[tuple[int, int]]) -> Tensor:
        rows, columns = torch.tensor(drawn).T
        windows = F.pad(images, (left, right, top, bottom)).unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
        return windows[torch.arange(len(images)), :, rows, columns]

    return draw, change


def _mirror(probability: float) -> _Step:
    number = torch.empty(1)

    def draw(generator: torch.Generator) -> bool:
        return number.uniform_(generator=generator).item() < probability

    def change(images: Tensor, drawn: Sequence[bool]) -> Tensor:
        which, pixels = np.array(drawn), images.numpy()
        pixels[which] = pixels[which, ..., ::-1]
        return images

    return draw, change
