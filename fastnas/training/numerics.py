"""Arithmetic around a network: precision, determinism, running losses, evaluation."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastnas.data import Batch, class_weights
from fastnas.ranks import ALONE, Ranks
from fastnas.training.config import TrainingSetup
from fastnas_kernels.check import complaint
from fastnas_kernels.tensors import accumulator

CHECK_EVERY = 20  # steps between looks at the losses: looking makes the host wait for the device


class Means(NamedTuple):
    """Means over some images.

    Args:
        loss: Mean loss in nats.
        accuracy: Fraction of the images that were classified rightly.
        confusion: Images of each class (rows) that were taken for each class (columns), int64 ``[C, C]``.
    """

    loss: float
    accuracy: float
    confusion: Tensor | None = None

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have images (Brodersen et al., 2010, doi:10.1109/ICPR.2010.764)."""
        assert self.confusion is not None, "only an evaluation knows it"
        counts = self.confusion.sum(1)
        recalls = self.confusion.diagonal()[counts > 0] / counts[counts > 0]
        return float(recalls.double().mean())


def find_class_weights(setup: TrainingSetup, labels: np.ndarray, classes: int, device: torch.device) -> Tensor | None:
    """The weights of the classes in a loss on batches as they come, ``[C]``; ``None`` where nothing is balanced."""
    if not setup.is_balanced:
        return None
    return torch.tensor(class_weights(labels, classes), dtype=torch.float32, device=device)


def mean_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """The mean cross-entropy of a batch, in nats, at least in float32.

    Args:
        logits: ``[N, C]``.
        labels: Classes, int64 ``[N]``.
        weights: Of the classes, ``[C]``; their sum over the images is not divided by, so that the losses of parts of a
            batch average to that of the batch.
        label_smoothing: Share of the target that is spread over all classes.
    """
    wide = logits.to(accumulator(logits.dtype))
    if weights is None:
        return F.cross_entropy(wide, labels, label_smoothing=label_smoothing)
    weights = weights.to(wide)
    total = F.cross_entropy(wide, labels, weights, reduction="sum", label_smoothing=label_smoothing)
    return total / len(labels)


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Run in bfloat16 where PyTorch holds that to be safe, if ``precision`` asks for it."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


@contextmanager
def deterministic() -> Iterator[None]:
    """Choose the same convolution algorithm in every run inside the block."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


@dataclass
class Losses:
    """Sums over the steps of an epoch, left on the device until somebody looks.

    Args:
        inner: Losses of the weight steps, one an entry.
        outer: Losses of the alpha steps.
        correct: Rightly classified images of each weight step.
        seen: Images of all weight steps.
    """

    inner: list[Tensor] = field(default_factory=list)
    outer: list[Tensor] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)
    seen: int = 0

    def add_inner(self, loss: Tensor, num_correct: Tensor, num_images: int) -> None:
        self.inner.append(loss)
        self.correct.append(num_correct)
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

    def take_means(self, ranks: Ranks = ALONE) -> Means:
        """Mean loss and accuracy of the weight steps of all processes; forgets everything."""
        loss = sum(float(x) for x in self.inner) / len(self.inner)
        correct = sum(int(x) for x in self.correct)
        means = Means(*(x / ranks.size for x in ranks.totals(loss, correct / self.seen)))
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
) -> Means:
    """Mean cross-entropy and accuracy of ``network`` over the ``batches`` of all processes.

    Args:
        network: From images ``[N, C, H, W]`` to logits.
        batches: Of this process.
        device: Where to run.
        precision: Arithmetic of the network.
        ranks: The processes that share the images.
        weights: Of the classes in the loss, ``[C]``; the accuracy has none.

    Raises:
        FloatingPointError: If the loss is not finite: the weights must not be saved over good ones.
    """
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
    if not math.isfinite(loss):
        remedy = "Most likely the learning rate is too high: lower it, or clip the gradient."
        raise FloatingPointError(complaint("evaluation", "the loss after the epoch must be finite", loss, remedy))
    confusion = _sum(confusion, int(total / having), ranks)
    return Means(loss / seen, int(confusion.diagonal().sum()) / seen, confusion)


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
