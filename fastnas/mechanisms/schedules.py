"""Learning rates, temperatures and other numbers as pure functions of the epoch (axis N)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from fastnas_kernels.check import require


def cosine(initial: float, epoch: int, epochs: int, final: float = 0.0) -> float:
    """Cosine annealing from ``initial`` at epoch 0 to ``final`` at ``epochs`` (Loshchilov and Hutter, 2017,
    arXiv:1608.03983, eq. 5, without restarts)."""
    return final + (initial - final) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def linear(initial: float, epoch: int, epochs: int) -> float:
    """Linear decay that spends its last five epochs on the last fifth of a step, as P-DARTS and PC-DARTS retrain
    on ImageNet (Chen et al., 2019, arXiv:1904.12760). Needs more than five epochs."""
    require(epochs > 5, "linear schedule", "epochs must be more than 5", epochs, "Use the cosine schedule.")
    remaining = epochs - epoch
    if remaining > 5:
        return initial * (remaining - 5) / (epochs - 5)
    return initial * remaining / (5 * (epochs - 5))


def exponential(initial: float, epoch: int, gamma: float = 0.97) -> float:
    """Decay by ``gamma`` an epoch, as DARTS retrains on ImageNet (Liu et al., 2019, arXiv:1806.09055)."""
    return initial * gamma**epoch


def warmed_up(rate: float, initial: float, epoch: int, warmup_epochs: int) -> float:
    """Ramp linearly to ``initial`` over the first ``warmup_epochs`` epochs, then follow ``rate``."""
    return initial * (epoch + 1) / warmup_epochs if epoch < warmup_epochs else rate


def cosine_power(
    initial: float, epoch: int, epochs: int, final: float = 0.0, *, power: float = 2.0, warmup_epochs: int = 0
) -> float:
    """Cosine power annealing: from ``initial`` to exactly ``final`` in the last epoch, the faster the larger ``power``
    (Hundt et al., 2019, arXiv:1903.09900, section 3.1, normalised over the listed epochs as in the published code).

    Args:
        initial: Largest rate.
        epoch: Epoch, from zero.
        epochs: All epochs, those of the warm-up included.
        final: Smallest rate.
        power: Base of the power, at least 1; 1 anneals by a plain cosine over the same epochs.
        warmup_epochs: The rate rises in equal steps and reaches ``initial`` in epoch ``warmup_epochs``.
    """
    require(power >= 1, "cosine power schedule", "power must be at least 1", power)
    rule = f"warmup_epochs must lie in [0, {epochs})"
    require(0 <= warmup_epochs < epochs, "cosine power schedule", rule, warmup_epochs)
    if epoch <= warmup_epochs:
        share = (epoch + 1) / (warmup_epochs + 1)
        return final + (initial - final) * share
    falling = epochs - warmup_epochs
    listed = [(1 + math.cos(math.pi * (i - warmup_epochs) / falling)) / 2 for i in range(1, epochs + 1)]
    if power > 1:
        listed = [power ** (c + 1) for c in listed]
    low, high = min(listed), max(listed)
    return final + (initial - final) * ((listed[epoch] - low) / (high - low) if high > low else 1.0)


def with_restarts(
    initial: float, epoch: int, epochs: int, final: float = 0.0, *, first: int = 10, factor: int = 2
) -> float:
    """Cosine annealing that begins anew after ``first`` epochs, and again after ``factor`` times as many each time
    (Loshchilov and Hutter, 2017, arXiv:1608.03983, eq. 5). The last period is cut off at ``epochs``."""
    require(first >= 1 and factor >= 1, "restarts", "first and factor must be at least 1", (first, factor))
    length = first
    while epoch >= length:
        epoch, length = epoch - length, factor * length
    return cosine(initial, epoch, length, final)


def bold_driver(initial: float, losses: Sequence[float], grow: float = 1.05, shrink: float = 0.5) -> float:
    """Grow the rate after every epoch that lowered the loss, and shrink it after every other one (Battiti, 1989).

    Args:
        initial: The first rate.
        losses: Mean training losses of the epochs so far.
        grow: Factor after progress.
        shrink: Factor after a step back.
    """
    steps = [grow if later < earlier else shrink for earlier, later in pairwise(losses)]
    return initial * math.prod(steps)


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


def by_cosine(rate: Rate) -> float:
    """:func:`cosine`."""
    return cosine(rate.initial, rate.at.epoch, rate.at.epochs, rate.final)


def by_line(rate: Rate) -> float:
    """:func:`linear`."""
    return linear(rate.initial, rate.at.epoch, rate.at.epochs)


def by_exponent(rate: Rate) -> float:
    """:func:`exponential`, by three per cent an epoch."""
    return exponential(rate.initial, rate.at.epoch)


def by_restarts(rate: Rate) -> float:
    """:func:`with_restarts`, the first after ten epochs."""
    return with_restarts(rate.initial, rate.at.epoch, rate.at.epochs, rate.final)


def by_losses(rate: Rate) -> float:
    """:func:`bold_driver`."""
    return bold_driver(rate.initial, rate.losses)


@dataclass(frozen=True)
class CosinePower:
    """:func:`cosine_power`.

    Args:
        power: Base of the power.
        warmup: Epochs of warm-up in a search of ``horizon`` epochs; a shorter or longer search has as large a share.
        horizon: The epochs that ``warmup`` was chosen for.
    """

    power: float = 2.0
    warmup: int = 0
    horizon: int = 1

    def __call__(self, rate: Rate) -> float:
        warmup = round(self.warmup * rate.at.epochs / self.horizon)
        return cosine_power(
            rate.initial, rate.at.epoch, rate.at.epochs, rate.final, power=self.power, warmup_epochs=warmup
        )


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
            return cosine(self.first * rate.initial, at.epoch, own)
        return cosine(rate.initial, at.epoch - own, at.epochs - own, rate.final)


LEARNING_RATES: Mapping[str, LearningRate] = {
    "cosine": by_cosine,
    "cosine_power": CosinePower(),
    "linear": by_line,
    "exponential": by_exponent,
    "restarts": by_restarts,
    "bold_driver": by_losses,
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
    """

    initial: tuple[float, ...]
    decay: float = 0.2
    horizon: int = 25

    def __call__(self, at: Progress) -> float:
        initial = self.initial[min(at.stage, len(self.initial) - 1)]
        if at.epoch < at.warmup:
            return initial * (at.epochs - at.epoch - 1) / at.epochs
        return initial * math.exp(-self.decay * (at.epoch - at.warmup) * self.horizon / at.epochs)
