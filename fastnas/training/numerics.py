"""Arithmetic around a network: precision, determinism, running losses, evaluation."""

import math
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastnas.data import Batch, class_weights
from fastnas.ranks import ALONE, Ranks
from fastnas.tasks import CLASSIFICATION, Classification, Task
from fastnas.training.config import TrainingSetup
from fastnas_kernels.check import complaint
from fastnas_kernels.tensors import accumulator

CHECK_EVERY = 20  # steps between looks at the losses: looking makes the host wait for the device


class Means(NamedTuple):
    """Means over some images.

    Args:
        loss: Mean loss, of a classification in nats.
        score: What the task compares networks by; for a classification the fraction classified rightly.
        confusion: Images of each class (rows) that were taken for each class (columns), int64 ``[C, C]``; ``None``
            where nothing is classified.
        metrics: Those of one's own that the task names.
    """

    loss: float
    score: float
    confusion: Tensor | None = None
    metrics: Mapping[str, float] = MappingProxyType({})

    @property
    def accuracy(self) -> float:
        """The score of a classification."""
        return self.score

    @property
    def balanced_accuracy(self) -> float | None:
        """The mean recall of the classes that have images (Brodersen et al., 2010, doi:10.1109/ICPR.2010.764);
        ``None`` where nothing is classified."""
        if self.confusion is None:
            return None
        counts = self.confusion.sum(1)
        recalls = self.confusion.diagonal()[counts > 0] / counts[counts > 0]
        return float(recalls.double().mean())


def find_class_weights(setup: TrainingSetup, labels: np.ndarray, classes: int, device: torch.device) -> Tensor | None:
    """The weights of the classes in a loss on batches as they come, ``[C]``; ``None`` where nothing is balanced."""
    if not setup.is_balanced:
        return None
    return torch.tensor(class_weights(labels, classes), dtype=torch.float32, device=device)


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Run in bfloat16 where PyTorch holds that to be safe, if ``precision`` asks for it."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


@contextmanager
def deterministic() -> Generator[None, None, None]:
    """Choose the same convolution algorithm in every run inside the block."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


@dataclass
class Losses:
    """Sums over the steps of an epoch, left on the device until somebody looks.

    Args:
        inner: Losses of the weight steps, one an entry.
        outer: Losses of the alpha steps.
        correct: Rightly classified images of each weight step, or other statistics of the task's score.
        seen: Images of all weight steps.
    """

    inner: list[Tensor] = field(default_factory=list)
    outer: list[Tensor] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)
    seen: int = 0

    def add_inner(self, loss: Tensor, statistics: Tensor, num_images: int) -> None:
        self.inner.append(loss)
        self.correct.append(statistics)
        self.seen += num_images

    def add_outer(self, loss: Tensor) -> None:
        self.outer.append(loss)

    def check_now_and_then(self, where: str, step: int) -> None:
        """:meth:`check`, every :data:`CHECK_EVERY` steps."""
        if step % CHECK_EVERY == 0:
            self.check(where, step)

    def check(self, where: str, step: int) -> None:
        """Raise ``FloatingPointError`` if a loss of this epoch is not finite; ``step`` is the number of steps done."""
        for term, losses, knob in (("alpha", self.outer, "--alpha-lr"), ("weight", self.inner, "the learning rate")):
            finite = [bool(torch.isfinite(loss)) for loss in losses[-CHECK_EVERY:]]
            if not all(finite):
                at = step - len(finite) + finite.index(False)
                rule = f"the loss of the {term} step must be finite"
                remedy = f"Most likely {knob} is too high: lower it, or clip the gradient."
                raise FloatingPointError(complaint(where, rule, f"nan or inf at step {at}", remedy))

    def take_means(self, ranks: Ranks = ALONE, task: Task = CLASSIFICATION) -> Means:
        """Mean loss and score of the weight steps of all processes; forgets everything."""
        loss = sum(float(x) for x in self.inner) / len(self.inner)
        total, seen = _add_up(torch.stack(self.correct).sum(0), self.seen, ranks)
        means = Means(ranks.totals(loss)[0] / ranks.size, float(task.score(total, seen)))
        self.inner, self.outer, self.correct, self.seen = [], [], [], 0
        return means


@torch.no_grad()
def evaluate(
    network: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    device: torch.device,
    precision: str = "float32",
    ranks: Ranks = ALONE,
    weights: Tensor | None = None,
    task: Task = CLASSIFICATION,
) -> Means:
    """Mean loss and score of ``network`` over the ``batches`` of all processes.

    Args:
        network: From images ``[N, C, H, W]`` to logits.
        batches: Of this process.
        device: Where to run.
        precision: Arithmetic of the network.
        ranks: The processes that share the images.
        weights: Of the classes in the loss, ``[C]``; the accuracy has none.
        task: What the outputs mean.

    Raises:
        FloatingPointError: If the loss is not finite: the weights must not be saved over good ones.
    """
    if not isinstance(task, Classification) or task.own_loss is not None or task.metrics:
        return _evaluate_task(network, batches, device, precision, ranks, weights, task)
    loss, seen, confusion = 0.0, 0, None
    for batch in batches:
        images, labels = batch.images.to(device), batch.labels.to(device)
        with autocast(device, precision):
            logits = network(images)
        wide = logits.to(accumulator(logits.dtype))
        loss += float(F.cross_entropy(wide, labels, None if weights is None else weights.to(wide), reduction="sum"))
        seen += len(labels)
        confusion = _count(confusion, labels, logits)
    classes = (0, 0) if confusion is None else (len(confusion), 1)  # a process may have had no batch
    loss, seen, total, having = ranks.totals(loss, seen, *classes)
    require_finite_loss(loss)
    confusion = _sum(confusion, int(total / having), ranks)
    return Means(loss / seen, int(confusion.diagonal().sum()) / seen, confusion)


def _evaluate_task(
    network: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    device: torch.device,
    precision: str,
    ranks: Ranks,
    weights: Tensor | None,
    task: Task,
) -> Means:
    loss, seen, total, confusion = 0.0, 0, torch.zeros(()), None
    for metric in task.metrics.values():
        metric.reset()
    for batch in batches:
        images, targets = batch.images.to(device), batch.labels.to(device)
        with autocast(device, precision):
            outputs = network(images)
        wide = outputs.to(accumulator(outputs.dtype))
        loss += float(task.loss(wide, targets, weights)) * len(targets)
        seen += len(targets)
        total = total.to(device) + task.statistics(wide, targets)
        if isinstance(task, Classification):
            confusion = _count(confusion, targets, wide)
        for metric in task.metrics.values():
            metric.update(task.predict(wide).cpu(), targets.cpu())
    statistics, count = _add_up(total, seen, ranks)
    mean = ranks.totals(loss)[0] / count
    require_finite_loss(mean)
    metrics = {name: float(metric.compute()) for name, metric in task.metrics.items()}
    confusion = None if confusion is None else _sum(confusion, len(confusion), ranks)
    return Means(mean, float(task.score(statistics, count)), confusion, metrics)


def _add_up(statistics: Tensor, images: int, ranks: Ranks) -> tuple[Tensor, int]:
    """The statistics over all processes, and the number of images behind them."""
    if ranks.size == 1:
        return statistics, images
    count, *numbers = ranks.totals(images, *statistics.flatten().tolist())
    return torch.tensor(numbers, dtype=torch.float64).view(statistics.shape), int(count)


def require_finite_loss(loss: float) -> None:
    """Raise ``FloatingPointError`` unless the loss of an evaluation is finite."""
    if not math.isfinite(loss):
        remedy = "Most likely the learning rate is too high: lower it, or clip the gradient."
        raise FloatingPointError(complaint("evaluation", "the loss after the epoch must be finite", loss, remedy))


def _count(confusion: Tensor | None, labels: Tensor, logits: Tensor) -> Tensor:
    classes = logits.shape[1]
    if confusion is None:
        confusion = torch.zeros(classes, classes, dtype=torch.int64, device=labels.device)
    cells = labels * classes + logits.argmax(1)
    confusion.view(-1).index_add_(0, cells, torch.ones_like(cells))
    return confusion


def _sum(confusion: Tensor | None, classes: int, ranks: Ranks) -> Tensor:
    """The counts of all processes."""
    ours = torch.zeros(classes, classes, dtype=torch.int64) if confusion is None else confusion.cpu()
    if ranks.size == 1:
        return ours
    return torch.tensor(ranks.totals(*ours.flatten().tolist())).long().view(classes, classes)
