"""Arithmetic around a network: precision, determinism, running losses, evaluation."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastnas.data import Batch
from fastnas.ranks import ALONE, Ranks
from fastnas_kernels.check import complaint

CHECK_EVERY = 20  # steps between looks at the losses: looking makes the host wait for the device


class Means(NamedTuple):
    """Mean loss (nats) and accuracy (fraction) over some images."""

    loss: float
    accuracy: float


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
) -> Means:
    """Mean cross-entropy and accuracy of ``network`` over the ``batches`` of all processes.

    Raises:
        FloatingPointError: If the loss is not finite: the weights must not be saved over good ones.
    """
    loss, correct, seen = 0.0, 0, 0
    for batch in batches:
        images, labels = batch.images.to(device), batch.labels.to(device)
        with autocast(device, precision):
            logits = network(images)
        loss += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
        correct += int((logits.argmax(1) == labels).sum())
        seen += len(labels)
    loss, correct, seen = ranks.totals(loss, correct, seen)
    if not math.isfinite(loss):
        remedy = "Most likely the learning rate is too high: lower it, or clip the gradient."
        raise FloatingPointError(complaint("evaluation", "the loss after the epoch must be finite", loss, remedy))
    return Means(loss / seen, correct / seen)
