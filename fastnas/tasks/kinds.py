"""The tasks of the library: classes, labels, numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastnas.errors import invalid
from fastnas.tasks.task import Task, as_array, check_columns
from fastnas_kernels.tensors import accumulator

MOST_CLASSES = 100_000


def name_classes(last: int) -> list[str]:
    """The numbers from 0 to ``last`` as names."""
    if last >= MOST_CLASSES:
        remedy = "Number the classes from 0 on."
        raise invalid("data", f"labels of classes must be less than {MOST_CLASSES}", str(last)[:20], remedy)
    return [str(number) for number in range(max(last, 0) + 1)]


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """One class for each image."""

    name: ClassVar[str] = "classification"
    score_name: ClassVar[str] = "accuracy"

    def take_targets(self, targets: Any) -> np.ndarray:
        y = as_array(targets)
        return y.astype(np.int64) if y.dtype.kind in "iu" else y  # others are refused where classes are known

    def name_outputs(self, targets: np.ndarray) -> list[str]:
        return name_classes(int(targets.max()) if targets.dtype.kind in "iu" and targets.size else 0)

    def check(self, targets: np.ndarray, names: Sequence[str]) -> None:
        if targets.dtype.kind not in "iu" or targets.ndim != 1:
            got, remedy = f"{targets.dtype}{list(targets.shape)}", "Convert them with .astype(int) if they are classes."
            remedy += " For labels or numbers name a task, as task=fastnas.tasks.multi_label() or regression()."
            raise invalid("data", "labels must be whole numbers, one an image", got, remedy)
        wrong = np.flatnonzero((targets < 0) | (targets >= len(names)))
        if len(wrong):
            got = f"{targets[wrong[0]]} for image {wrong[0]}"
            raise invalid("data", f"labels must lie in [0, {len(names)}), one for each class", got)

    def loss(
        self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0
    ) -> Tensor:
        """The mean cross-entropy of a batch, in nats.

        Args:
            outputs: Logits ``[N, C]``.
            targets: Classes, int64 ``[N]``.
            weights: Of the classes, ``[C]``; their sum over the images is not divided by, so that the losses of parts
                of a batch average to that of the batch.
            label_smoothing: Share of the target that is spread over all classes.
        """
        if self.own_loss is None and weights is not None:
            wide = outputs.to(accumulator(outputs.dtype))
            total = F.cross_entropy(wide, targets, weights.to(wide), reduction="sum", label_smoothing=label_smoothing)
            return total / len(targets)
        return super().loss(outputs, targets, None, label_smoothing)

    def batch_loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).sum()

    def score(self, statistics: Tensor, images: int) -> Tensor:
        return statistics.double() / images  # for records; a reward takes it as float32

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    def example_targets(self, count: int, outputs: int, device: torch.device) -> Tensor:
        return torch.arange(count, device=device) % outputs


@dataclass(frozen=True, kw_only=True)
class MultiLabel(Task):
    """Any number of labels for each image.

    Args:
        threshold: Probability from which a label counts as given.
    """

    threshold: float = 0.5

    name: ClassVar[str] = "multi_label"
    score_name: ClassVar[str] = "f1"

    def take_targets(self, targets: Any) -> np.ndarray:
        y = as_array(targets)
        if y.ndim != 2 or y.dtype.kind not in "biuf" or not np.isin(y, (0, 1)).all():
            got = f"{y.dtype}{list(y.shape)}" if y.ndim != 2 else "other numbers"
            raise invalid("data", "targets of multi_label must be 0 or 1, [N, labels]", got)
        return y.astype(np.float32)

    def name_outputs(self, targets: np.ndarray) -> list[str]:
        return [str(i) for i in range(targets.shape[1])]

    def check(self, targets: np.ndarray, names: Sequence[str]) -> None:
        check_columns(targets, names)

    def batch_loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        soft = targets * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(outputs, soft.to(outputs))

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Rightly given, given and true labels, ``[3, L]``."""
        given, true = self.predict(outputs) > self.threshold, targets > 0.5
        return torch.stack([(given & true).sum(0), given.sum(0), true.sum(0)])

    def score(self, statistics: Tensor, images: int) -> Tensor:
        """The mean of F1 over the labels that some image has or was given."""
        right, given, true = statistics.double()
        there = (given + true) > 0
        return (2 * right[there] / (given + true)[there]).sum() / there.sum().clamp_min(1)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def example_targets(self, count: int, outputs: int, device: torch.device) -> Tensor:
        return (torch.arange(count * outputs, device=device) % 2).float().view(count, outputs)


@dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """Numbers for each image. Networks are trained on standardised numbers, and predict in the unit of the targets.

    Args:
        mean: Of the training targets, a number an output; :meth:`fit` finds them.
        std: Likewise, the standard deviation.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    name: ClassVar[str] = "regression"
    score_name: ClassVar[str] = "rmse"

    def take_targets(self, targets: Any) -> np.ndarray:
        y = as_array(targets)
        y = y[:, None] if y.ndim == 1 else y
        if y.ndim != 2 or y.dtype.kind not in "biuf":
            raise invalid("data", "targets of regression must be numbers, [N] or [N, D]", f"{y.dtype}{list(y.shape)}")
        if not np.isfinite(y).all():
            raise invalid("data", "targets of regression must be finite", f"{y[~np.isfinite(y)][0]}")
        return y.astype(np.float32)

    def name_outputs(self, targets: np.ndarray) -> list[str]:
        return ["value"] if targets.shape[1] == 1 else [f"value {i}" for i in range(targets.shape[1])]

    def check(self, targets: np.ndarray, names: Sequence[str]) -> None:
        check_columns(targets, names)

    def fit(self, targets: np.ndarray) -> Self:
        mean, std = targets.astype(np.float64).mean(0), targets.astype(np.float64).std(0)
        if (std == 0).any():
            raise invalid("data", "targets of regression must differ", f"{mean[std == 0][0]:g} everywhere")
        return replace(self, mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(x, dtype=like.dtype, device=like.device) for x in (self.mean, self.std))
        return mean, std

    def batch_loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        return F.mse_loss(outputs, targets)

    def loss(
        self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0
    ) -> Tensor:
        """The mean squared error of standardised numbers, or the own loss of them."""
        targets = targets.to(accumulator(outputs.dtype))
        mean, std = self._moments(targets)
        return super().loss(outputs, (targets - mean) / std)

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared errors in the unit of the targets, ``[D]``."""
        return (self.predict(outputs) - targets).double().square().sum(0)

    def score(self, statistics: Tensor, images: int) -> Tensor:
        """The root of the mean squared error, over images and outputs."""
        return (statistics.sum() / (images * len(statistics))).sqrt()

    def predict(self, outputs: Tensor) -> Tensor:
        wide = outputs.to(accumulator(outputs.dtype))
        mean, std = self._moments(wide)
        return wide * std + mean

    def example_targets(self, count: int, outputs: int, device: torch.device) -> Tensor:
        return torch.zeros(count, outputs, device=device)


@dataclass(frozen=True, kw_only=True)
class Dense(Task):
    """A class for each place of a map.

    Args:
        ignore_index: The number of places that do not count.
        size: Of the targets; :meth:`fit` finds it.
    """

    ignore_index: int = 255
    size: tuple[int, ...] = ()

    name: ClassVar[str] = "dense"
    score_name: ClassVar[str] = "miou"

    def take_targets(self, targets: Any) -> np.ndarray:
        y = as_array(targets)
        if y.ndim < 2 or y.dtype.kind not in "biu":
            rule = "targets of dense must be whole numbers [N, H, W], a class for each place"
            raise invalid("data", rule, f"{y.dtype}{list(y.shape)}")
        fits = y.size and int(y.min()) >= 0 and int(y.max()) <= 255
        return y.astype(np.uint8 if fits else np.int64)  # masks of bytes take an eighth of the memory

    def name_outputs(self, targets: np.ndarray) -> list[str]:
        counted = targets[targets != self.ignore_index]
        return name_classes(int(counted.max()) if counted.size else 0)

    def check(self, targets: np.ndarray, names: Sequence[str]) -> None:
        wrong = (targets != self.ignore_index) & ((targets < 0) | (targets >= len(names)))
        if wrong.any():
            image = int(np.flatnonzero(wrong.reshape(len(wrong), -1).any(1))[0])
            rule = f"targets must lie in [0, {len(names)}), one for each class, or be {self.ignore_index}, ignore_index"
            raise invalid("data", rule, f"{targets[image][wrong[image]][0]} in the map of image {image}")

    def fit(self, targets: np.ndarray) -> Self:
        return replace(self, size=tuple(targets.shape[1:]))

    def loss(
        self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0
    ) -> Tensor:
        """The mean cross-entropy of the places that count, or the own loss of all."""
        return super().loss(outputs, targets.long(), None, label_smoothing)

    def batch_loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        total = F.cross_entropy(
            outputs, targets, ignore_index=self.ignore_index, reduction="sum", label_smoothing=label_smoothing
        )
        return total / (targets != self.ignore_index).sum().clamp_min(1)

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Places rightly given, given, and true of each class, ``[3, C]``."""
        classes, true = outputs.shape[1], targets.long()
        given = outputs.argmax(1)
        counts = true != self.ignore_index

        def count(which: Tensor, values: Tensor) -> Tensor:
            places = torch.where(which, values, classes).flatten()
            return torch.zeros(classes + 1, dtype=torch.int64, device=outputs.device).index_add_(
                0, places, torch.ones_like(places)
            )[:classes]

        return torch.stack([count(counts & (given == true), true), count(counts, given), count(counts, true)])

    def score(self, statistics: Tensor, images: int) -> Tensor:
        """The mean of intersection over union, of the classes that some place has or was given."""
        right, given, true = statistics.double()
        union = given + true - right
        there = union > 0
        return (right[there] / union[there]).sum() / there.sum().clamp_min(1)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    def example_targets(self, count: int, outputs: int, device: torch.device) -> Tensor:
        numbers = torch.arange(count * math.prod(self.size), device=device) % outputs
        return numbers.view(count, *self.size)
