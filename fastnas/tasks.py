"""What a network is to learn, as a value: the loss, the score and metrics, and how wide the output is.

A task is a property of the data: ``fastnas.data.from_arrays(x, y, task=multi_label())``. Search, retraining and
selection follow it. The *score* is a mean over images, so that batches and processes add up exactly; the other metrics
are torchmetrics'.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastnas.errors import invalid

WHERE = "task"
Loss = Callable[[Tensor, Tensor], Tensor]
"""From outputs and targets of a batch to their mean loss."""
MOST_CLASSES = 100  # of a confusion matrix that is kept


@dataclass(frozen=True, kw_only=True)
class Task:
    """Classification, unless a subclass says otherwise.

    Args:
        loss_function: In place of the task's own loss; from outputs, float32, and targets to a mean.
        extra_metrics: Names to functions without arguments that make a torchmetrics metric, in addition to the task's.
        class_weights: Of the loss, one for each class; none weights all alike.
    """

    loss_function: Loss | None = None
    extra_metrics: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    class_weights: tuple[float, ...] = ()

    name = "classification"
    metric = "accuracy"
    higher_is_better = True

    def check(self, targets: np.ndarray, classes: Sequence[str]) -> None:
        """Raise unless ``targets`` are those of this task."""
        if targets.dtype.kind not in "iu" or targets.ndim != 1:
            remedy = "Convert them with .astype(int) if they are classes; for other targets see fastnas.tasks."
            raise invalid(WHERE, "labels must be whole numbers, one an image", _describe(targets), remedy)
        wrong = np.flatnonzero((targets < 0) | (targets >= len(classes)))
        if len(wrong):
            got = f"{targets[wrong[0]]} for image {wrong[0]}"
            raise invalid(WHERE, f"labels must lie in [0, {len(classes)}), one for each class", got)

    def num_outputs(self, classes: Sequence[str]) -> int:
        """How many numbers the network gives for an image."""
        return len(classes)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """The mean loss of a batch.

        Args:
            outputs: Float32 ``[N, outputs]``.
            targets: Those of the data.
            smoothing: Share of the target that is spread over all classes.
        """
        if self.loss_function is not None:
            return self.loss_function(outputs, targets)
        weight = torch.tensor(self.class_weights, device=outputs.device) if self.class_weights else None
        return F.cross_entropy(outputs, targets, weight, label_smoothing=smoothing)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum of the score over a batch: here the number of images that were classified rightly."""
        return (outputs.argmax(1) == targets).sum()

    def metrics(self, num_outputs: int) -> dict[str, Any]:
        """Fresh torchmetrics metrics by their names."""
        return {name: make() for name, make in self.extra_metrics.items()}

    def to_worth(self, score: float) -> float:
        """A score as a number of which more is better, to compare by."""
        return score if self.higher_is_better else -score

    def to_reward(self, score: Tensor) -> Tensor:
        """A mean score as a reward between 0 and 1, for methods that learn from one."""
        return score if self.higher_is_better else 1 / (1 + score)

    def predict(self, outputs: Tensor) -> Tensor:
        """What the outputs say: here the probability of each class."""
        return outputs.softmax(1)


@dataclass(frozen=True, kw_only=True)
class MultiLabel(Task):
    """Any number of classes for an image."""

    name = "multi_label"
    metric = "f1"

    def check(self, targets: np.ndarray, classes: Sequence[str]) -> None:
        rule = f"targets must be zeros and ones, one for each of {len(classes)} classes"
        if targets.ndim != 2 or targets.shape[1] != len(classes):
            raise invalid(WHERE, rule, _describe(targets))
        if not np.isin(targets, (0, 1)).all():
            raise invalid(WHERE, rule, f"values from {targets.min()} to {targets.max()}")

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        if self.loss_function is not None:
            return self.loss_function(outputs, targets)
        weight = torch.tensor(self.class_weights, device=outputs.device) if self.class_weights else None
        wanted = targets.to(outputs.dtype) * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(outputs, wanted, weight)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over images of F1; 1 where an image has no class and none is predicted."""
        found, wanted = outputs > 0, targets > 0
        both, either = (found & wanted).sum(1), found.sum(1) + wanted.sum(1)
        return torch.where(either > 0, 2 * both / either.clamp(min=1), 1.0).sum()

    def metrics(self, num_outputs: int) -> dict[str, Any]:
        from torchmetrics import classification  # noqa: PLC0415  (a second that others need not wait for)

        ours = {
            "mean_average_precision": classification.MultilabelAveragePrecision(num_outputs),
            "macro_f1": classification.MultilabelF1Score(num_outputs),
        }
        return ours | super().metrics(num_outputs)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()


@dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """Numbers for an image: targets ``[N, D]`` or ``[N]``, of which ``classes`` are the names."""

    name = "regression"
    metric = "mean_absolute_error"
    higher_is_better = False

    def check(self, targets: np.ndarray, classes: Sequence[str]) -> None:
        if targets.dtype.kind not in "iuf" or targets.reshape(len(targets), -1).shape[1] != len(classes):
            raise invalid(WHERE, f"targets must be numbers, {len(classes)} an image", _describe(targets))
        wrong = np.flatnonzero(~np.isfinite(targets.reshape(len(targets), -1)).all(1))
        if len(wrong):
            raise invalid(WHERE, "targets must be finite", f"{targets[wrong[0]]} for image {wrong[0]}")

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        if smoothing:
            raise invalid(WHERE, "label_smoothing must be 0 in a regression", smoothing)
        wanted = targets.to(outputs.dtype).reshape(outputs.shape)
        return F.mse_loss(outputs, wanted) if self.loss_function is None else self.loss_function(outputs, wanted)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over images of the mean absolute error."""
        return (outputs - targets.to(outputs.dtype).reshape(outputs.shape)).abs().mean(1).sum()

    def metrics(self, num_outputs: int) -> dict[str, Any]:
        from torchmetrics import regression  # noqa: PLC0415

        several = num_outputs if num_outputs > 1 else 1
        ours = {"r2": _Reshaped(regression.R2Score()), "mean_squared_error": _Reshaped(regression.MeanSquaredError())}
        return ours | super().metrics(several)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs


@dataclass(frozen=True, kw_only=True)
class Dense(Task):
    """A class for every pixel: targets ``[N, H, W]`` of whole numbers, of the images' size.

    Args:
        ignore: The label of pixels that do not count.
    """

    ignore: int = 255

    name = "dense"
    metric = "mean_iou"

    def check(self, targets: np.ndarray, classes: Sequence[str]) -> None:
        if targets.ndim != 3 or targets.dtype.kind not in "iu":
            raise invalid(WHERE, "targets must be maps [N, H, W] of whole numbers", _describe(targets))
        wrong = (targets != self.ignore) & ((targets < 0) | (targets >= len(classes)))
        if wrong.any():
            image = int(np.flatnonzero(wrong.any((1, 2)))[0])
            got = f"{targets[image][wrong[image]][0]} in image {image}"
            raise invalid(WHERE, f"targets must lie in [0, {len(classes)}), or be {self.ignore} to be ignored", got)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        if self.loss_function is not None:
            return self.loss_function(outputs, targets)
        weight = torch.tensor(self.class_weights, device=outputs.device) if self.class_weights else None
        return F.cross_entropy(outputs, targets.long(), weight, ignore_index=self.ignore, label_smoothing=smoothing)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over images of the mean intersection over union of the classes that are there or predicted."""
        classes = outputs.shape[1]
        counted = (targets != self.ignore).flatten(1)[:, None]
        found = F.one_hot(outputs.argmax(1), classes).bool().flatten(1, 2).transpose(1, 2) & counted
        wanted = F.one_hot(targets.long().clamp(0, classes - 1), classes).bool().flatten(1, 2).transpose(1, 2) & counted
        both, either = (found & wanted).sum(2), (found | wanted).sum(2)
        there = either > 0
        return ((both / either.clamp(min=1)).sum(1) / there.sum(1).clamp(min=1)).sum()

    def metrics(self, num_outputs: int) -> dict[str, Any]:
        from torchmetrics import classification  # noqa: PLC0415

        options: Any = {"num_classes": num_outputs, "ignore_index": self.ignore}
        ours = {
            "pixel_accuracy": classification.MulticlassAccuracy(**options, average="micro"),
            "jaccard_index": classification.MulticlassJaccardIndex(**options),
        }
        return ours | super().metrics(num_outputs)


class _Reshaped:
    """A metric whose targets have the shape of the predictions."""

    def __init__(self, metric: Any) -> None:
        self.metric = metric

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.metric.update(outputs.flatten(), targets.to(outputs.dtype).flatten())

    def compute(self) -> Tensor:
        return self.metric.compute()

    def to(self, device: torch.device) -> "_Reshaped":
        self.metric.to(device)
        return self


CLASSIFICATION = Task()


def classification(
    loss: Loss | None = None,
    metrics: Mapping[str, Callable[[], Any]] | None = None,
    class_weights: Sequence[float] = (),
) -> Task:
    """One class for every image; the score is the accuracy.

    Args:
        loss: From outputs ``[N, classes]`` and labels ``[N]`` to their mean loss; ``None`` for cross-entropy.
        metrics: More metrics: names to functions that make a torchmetrics metric.
        class_weights: Of the loss, one for each class.

    Example:
        >>> classification(class_weights=(1.0, 9.0)).metric
        'accuracy'
    """
    return Task(loss_function=loss, extra_metrics=dict(metrics or {}), class_weights=tuple(class_weights))


def multi_label(
    loss: Loss | None = None,
    metrics: Mapping[str, Callable[[], Any]] | None = None,
    class_weights: Sequence[float] = (),
) -> MultiLabel:
    """Any number of classes for every image, targets ``[N, classes]`` of zeros and ones; the score is F1, a mean over
    images, and the loss binary cross-entropy. See :func:`classification` for the arguments."""
    return MultiLabel(loss_function=loss, extra_metrics=dict(metrics or {}), class_weights=tuple(class_weights))


def regression(loss: Loss | None = None, metrics: Mapping[str, Callable[[], Any]] | None = None) -> Regression:
    """Numbers for every image, targets ``[N, D]``; the score is the mean absolute error, of which less is better, and
    the loss the mean square. See :func:`classification` for the arguments."""
    return Regression(loss_function=loss, extra_metrics=dict(metrics or {}))


def dense(
    loss: Loss | None = None,
    metrics: Mapping[str, Callable[[], Any]] | None = None,
    class_weights: Sequence[float] = (),
    ignore: int = 255,
) -> Dense:
    """A class for every pixel, targets ``[N, H, W]``; the score is the mean intersection over union of an image. See
    :func:`classification` for the arguments; ``ignore`` is the label of pixels that do not count."""
    weights = tuple(class_weights)
    return Dense(loss_function=loss, extra_metrics=dict(metrics or {}), class_weights=weights, ignore=ignore)


def _describe(targets: np.ndarray) -> str:
    return f"{targets.dtype}{list(targets.shape)}"
