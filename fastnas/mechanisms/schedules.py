"""Learning rates, temperatures and other numbers as pure functions of the epoch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from fastnas.errors import invalid


class Progress(NamedTuple):
    """Where a search stands in the stage that it is in.

    Args:
        epoch: Epoch within the stage, from zero.
        epochs: Epochs of the stage.
        warmup: Leading epochs of the stage in which alpha waits.
        stage: Number of the stage, from zero.
    """

    epoch: int
    epochs: int
    warmup: int = 0
    stage: int = 0


class Rate(NamedTuple):
    """What a learning rate may depend on.

    Args:
        initial: Largest rate.
        final: Rate at the end, for schedules that have one.
        at: Where the search stands.
        losses: Mean training losses of the epochs so far.
    """

    initial: float
    final: float
    at: Progress
    losses: Sequence[float] = ()


LearningRate = Callable[[Rate], float]


def cosine(rate: Rate) -> float:
    """Cosine annealing from the initial rate at epoch 0 to the final one at the last (Loshchilov and Hutter, 2017,
    arXiv:1608.03983, eq. 5, without restarts).

    Example:
        >>> cosine(Rate(0.1, 0.0, Progress(epoch=25, epochs=50)))
        0.05
    """
    return _half_cosine(rate.initial, rate.final, rate.at.epoch, rate.at.epochs)


def constant(rate: Rate) -> float:
    """The initial rate in every epoch, as DSO-NAS searches: its first step down is at epoch 120 of 120 (Zhang et al.,
    2018, arXiv:1811.01567)."""
    return rate.initial


SLOW_END = 5
"""Epochs at the end of :func:`linear`."""


def linear(rate: Rate) -> float:
    """Linear decay that spends its last five epochs on the last fifth of a step, as P-DARTS and PC-DARTS retrain
    on ImageNet (Chen et al., 2019, arXiv:1904.12760). Needs more than five epochs.

    Example:
        >>> linear(Rate(0.5, 0.0, Progress(epoch=130, epochs=250)))
        0.23469387755102042
    """
    epochs, left = rate.at.epochs, rate.at.epochs - rate.at.epoch
    if epochs <= SLOW_END:
        raise invalid("linear schedule", f"epochs must be more than {SLOW_END}", epochs, "Use the cosine schedule.")
    fast = epochs - SLOW_END
    return rate.initial * (left - SLOW_END) / fast if left > SLOW_END else rate.initial * left / (SLOW_END * fast)


def exponential(rate: Rate) -> float:
    """Decay by three per cent an epoch, as DARTS retrains on ImageNet (Liu et al., 2019, arXiv:1806.09055)."""
    return rate.initial * 0.97**rate.at.epoch


@dataclass(frozen=True)
class Restarts:
    """Cosine annealing that begins anew after ``first`` epochs, and again after ``factor`` times as many each time
    (Loshchilov and Hutter, 2017, arXiv:1608.03983, eq. 5). The last period is cut off with the search.

    Args:
        first: Epochs of the first period.
        factor: Length of a period over that of the one before.

    Example:
        >>> [round(Restarts(first=2)(Rate(1.0, 0.0, Progress(epoch, 6))), 2) for epoch in range(6)]
        [1.0, 0.5, 1.0, 0.85, 0.5, 0.15]
    """

    first: int = 10
    factor: int = 2

    def __post_init__(self) -> None:
        if self.first < 1 or self.factor < 1:
            raise invalid("restarts", "first and factor must be at least 1", (self.first, self.factor))

    def __call__(self, rate: Rate) -> float:
        epoch, length = rate.at.epoch, self.first
        while epoch >= length:
            epoch, length = epoch - length, self.factor * length
        return _half_cosine(rate.initial, rate.final, epoch, length)


def bold_driver(rate: Rate) -> float:
    """Grow the rate by 5 % after every epoch that lowered the loss, and halve it after every other one (Battiti,
    1989).

    Example:
        >>> round(bold_driver(Rate(0.1, 0.0, Progress(2, 10), losses=(2.0, 1.5, 1.6))), 4)
        0.0525
    """
    steps = [1.05 if later < earlier else 0.5 for earlier, later in pairwise(rate.losses)]
    return rate.initial * math.prod(steps)


@dataclass(frozen=True)
class CosinePower:
    """Cosine power annealing: from the initial rate to exactly the final one in the last epoch, the faster the larger
    ``power`` (Hundt et al., 2019, arXiv:1903.09900, section 3.1, normalised over the listed epochs as in the published
    code).

    Args:
        power: Base of the power, at least 1; 1 anneals by a plain cosine over the same epochs.
        warmup: Epochs of warm-up in a search of ``horizon`` epochs; a shorter or longer search has as large a share.
            The rate rises in equal steps and is largest in the epoch after them.
        horizon: The epochs that ``warmup`` was chosen for.
    """

    power: float = 2.0
    warmup: int = 0
    horizon: int = 1

    def __post_init__(self) -> None:
        if not self.power >= 1:
            raise invalid("cosine power schedule", "power must be at least 1", self.power)
        if not 0 <= self.warmup < self.horizon:
            raise invalid("cosine power schedule", f"warmup must lie in [0, {self.horizon})", self.warmup)

    def __call__(self, rate: Rate) -> float:
        epoch, epochs, span = rate.at.epoch, rate.at.epochs, rate.initial - rate.final
        warmup = round(self.warmup * epochs / self.horizon)
        if epoch <= warmup:
            return rate.final + span * ((epoch + 1) / (warmup + 1))
        listed = [(1 + math.cos(math.pi * (i - warmup) / (epochs - warmup))) / 2 for i in range(1, epochs + 1)]
        if self.power > 1:
            listed = [self.power ** (c + 1) for c in listed]
        low, high = min(listed), max(listed)
        return rate.final + span * ((listed[epoch] - low) / (high - low) if high > low else 1.0)


@dataclass(frozen=True)
class TwoCosines:
    """A cosine of its own for the warm-up of the weights, and then another for the search: ProxylessNAS (Cai et al.,
    2019, arXiv:1812.00332, in the published code: 40 epochs from 0.05 to 0, then 120 from 0.025).

    Args:
        first: Rate that the warm-up begins with, in units of the search's (published: 2).
        share: Part of the epochs in which alpha waits that belongs to the warm-up; in the published code alpha waits
            for one epoch of the search, too (40 of 41).
    """

    first: float = 2.0
    share: float = 40 / 41

    def __call__(self, rate: Rate) -> float:
        at, own = rate.at, round(self.share * rate.at.warmup)
        if at.epoch < own:
            return _half_cosine(self.first * rate.initial, 0.0, at.epoch, own)
        return _half_cosine(rate.initial, rate.final, at.epoch - own, at.epochs - own)


def warm_up(rate: float, initial: float, epoch: int, epochs: int) -> float:
    """Rise linearly to ``initial`` over the first ``epochs``, then follow ``rate``."""
    return initial * (epoch + 1) / epochs if epoch < epochs else rate


def _half_cosine(initial: float, final: float, epoch: int, epochs: int) -> float:
    return final + (initial - final) * (1 + math.cos(math.pi * epoch / epochs)) / 2


LEARNING_RATES: Mapping[str, LearningRate] = {
    "cosine": cosine,
    "cosine_power": CosinePower(),
    "constant": constant,
    "linear": linear,
    "exponential": exponential,
    "restarts": Restarts(),
    "bold_driver": bold_driver,
}
"""The learning rates by the names that configurations know."""


Schedule = Callable[[Progress], float]


@dataclass(frozen=True)
class Constant:
    """The same value in every epoch."""

    value: float

    def __call__(self, at: Progress) -> float:
        return self.value


@dataclass(frozen=True)
class Ramp:
    """A straight line from ``start`` to ``end`` over the epochs.

    Args:
        start: Value at epoch ``-before``.
        end: Value at epoch ``epochs - 1 + after``.
        before: 0 to begin at ``start`` in the first epoch, 1 to have left it already.
        after: 0 to reach ``end`` in the last epoch, 1 to stop one step short of it.

    Example:
        >>> Ramp(0.0, 0.2)(Progress(epoch=49, epochs=50))
        0.2
    """

    start: float
    end: float
    before: int = 0
    after: int = 0

    def __call__(self, at: Progress) -> float:
        steps = at.epochs - 1 + self.before + self.after
        return self.start + (self.end - self.start) * (at.epoch + self.before) / max(steps, 1)


@dataclass(frozen=True)
class Annealing:
    """``initial * gamma ** epoch``, stretched so that a search of any length goes equally far.

    Args:
        initial: Value at epoch zero.
        gamma: Factor an epoch in a search of ``horizon`` epochs.
        horizon: The epochs that ``gamma`` was chosen for.

    Example:
        >>> round(Annealing(1.6, 0.95, horizon=50)(Progress(epoch=10, epochs=50)), 4)
        0.958
    """

    initial: float
    gamma: float
    horizon: int

    def __call__(self, at: Progress) -> float:
        return self.initial * self.gamma ** (at.epoch * self.horizon / at.epochs)


@dataclass(frozen=True)
class SkipDropout:
    """The rate at which P-DARTS drops skip connections (Chen et al., 2019, arXiv:1904.12760, section 3.3).

    In the published code it falls linearly while alpha waits, returns to its initial value when alpha begins to
    move, and decays exponentially from there.

    Args:
        initial: The rate that each stage begins with.
        decay: Exponent an epoch in a stage of ``horizon`` epochs.
        horizon: The epochs that ``decay`` was chosen for.

    Example:
        >>> rate = SkipDropout((0.0, 0.4, 0.7))
        >>> [round(rate(Progress(epoch, 25, warmup=10, stage=1)), 3) for epoch in (0, 9, 10, 24)]
        [0.384, 0.24, 0.4, 0.024]
    """

    initial: tuple[float, ...]
    decay: float = 0.2
    horizon: int = 25

    def __call__(self, at: Progress) -> float:
        initial = self.initial[min(at.stage, len(self.initial) - 1)]
        if at.epoch < at.warmup:
            return initial * (at.epochs - at.epoch - 1) / at.epochs
        return initial * math.exp(-self.decay * (at.epoch - at.warmup) * self.horizon / at.epochs)
