"""Early stopping and roll-back: pure functions of the records of a search's epochs.

A control is called with the space and the records so far, one an epoch as in ``metrics.jsonl``, and returns what to
do before the next epoch, or ``None`` to go on. It keeps nothing: what it decides after a resume is what it decided
before. By ``reads`` it says what a search must measure for it, by ``keeps`` how far it may go back, by ``stops``
whether it may end the search; a plain function reads nothing, does not go back, and stops.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

from fastnas.spaces.formats import parse_genotype
from fastnas.spaces.space import Space
from fastnas_kernels.check import invalid

Records = Sequence[Mapping[str, Any]]
EIGENVALUE = "eigenvalue"
"""What a control reads that needs the dominant eigenvalue of the Hessian of alpha."""
SKIPS = "skip connections"
"""What a control reads that counts skip connections."""


class Stop(NamedTuple):
    """End the search with the architecture of ``epoch``."""

    epoch: int
    reason: str


class RollBack(NamedTuple):
    """Return to the end of ``epoch`` and go on from there with ``weight_decay``."""

    epoch: int
    weight_decay: float
    reason: str


Control = Callable[[Space, Records], Stop | RollBack | None]


@dataclass(frozen=True)
class SkipCount:
    """Stop when the derived normal cell holds ``limit`` skip connections: DARTS+, criterion 1 (Liang et al., 2019,
    arXiv:1909.06035, section 3.2).

    Args:
        limit: Skip connections that end the search (paper: 2).
        previous: Return the architecture of the epoch before the one that triggered.
    """

    limit: int = 2
    previous: bool = False
    reads: ClassVar[frozenset[str]] = frozenset({SKIPS})

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise invalid("SkipCount", "limit must be at least 1", self.limit)

    def __call__(self, space: Space, records: Records) -> Stop | None:
        if not records or not records[-1]["alpha_moves"]:
            return None
        count = parse_genotype(records[-1]["genotype"], space).normal.count("skip_connect")
        if count < self.limit:
            return None
        epoch = len(records) - 1
        return Stop(max(epoch - self.previous, 0), f"{count} skip connections in the normal cell")


@dataclass(frozen=True)
class RankStable:
    """Stop when the order of the learnable candidates stayed the same on every edge for ``epochs`` comparisons in a
    row: DARTS+, criterion 2 (Liang et al., 2019, arXiv:1909.06035, section 3.2).

    Epochs in which alpha waits are no evidence and do not count.

    Args:
        epochs: Consecutive comparisons of an epoch with the one before (paper: 10).
        leader_only: Compare the best learnable candidate of each edge instead of the whole order.
    """

    epochs: int = 10
    leader_only: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise invalid("RankStable", "epochs must be at least 1", self.epochs)

    def __call__(self, space: Space, records: Records) -> Stop | None:
        window = records[-self.epochs - 1 :]
        if len(window) <= self.epochs or not all(record["alpha_moves"] for record in window):
            return None
        learnable = [k for k, primitive in enumerate(space.primitives) if "conv" in primitive]
        orders = [self._orders(record, learnable) for record in window]
        if any(earlier != later for earlier, later in pairwise(orders)):
            return None
        return Stop(len(records) - 1, f"the ranking stood for {self.epochs} epochs")

    def _orders(self, record: Mapping[str, Any], learnable: Sequence[int]) -> list[list[int]]:
        rows = [row for alpha in record["alpha"].values() for row in alpha]
        orders = [sorted(learnable, key=lambda k, row=row: -row[k]) for row in rows]
        return [order[:1] for order in orders] if self.leader_only else orders


def all_decided(space: Space, records: Records) -> Stop | None:
    """Stop when at most one candidate is alive on every edge: ASAP (Noy et al., 2019, arXiv:1904.04123)."""
    if not records or any(count > 1 for counts in records[-1]["alive"].values() for count in counts):
        return None
    return Stop(len(records) - 1, "every edge is decided")


@dataclass(frozen=True)
class EigenvalueRule:
    """Fires when the smoothed dominant eigenvalue of the alpha Hessian has grown too fast: RobustDARTS (Zela et al.,
    2020, arXiv:1909.09656, section 4.3).

    The mean of the last ``window`` measurements is compared with the mean ``lag`` measurements before it; the
    architecture returned is ``lookback`` epochs older than the one that fired.

    Args:
        growth: Ratio of the two means beyond which the rule fires.
        window: Measurements in a mean.
        lag: Measurements between the two means.
        lookback: Epochs between the epoch that fires and the one to return.
        first: The rule holds its peace before the epoch to return is at least this.
        at_least: Measurements below which there is no mean; between it and ``window`` the mean is of all there are.
        asks_last: Whether it may fire in the last epoch of the search.
        shift: Added to every measurement: the weight decay of alpha, where the loss is measured with it.
    """

    growth: float
    window: int
    lag: int
    lookback: int
    first: int = 0
    at_least: int = 1
    asks_last: bool = True
    shift: float = 0.0

    def __post_init__(self) -> None:
        for name in ("growth", "window", "lag"):
            if not getattr(self, name) > 0:
                raise invalid("EigenvalueRule", f"{name} must be positive", getattr(self, name))

    def __call__(self, measured: Sequence[tuple[int, float]]) -> int | None:
        """The epoch to return to, from ``(epoch, eigenvalue)`` pairs in order, or ``None``."""
        measured = [(epoch, value + self.shift) for epoch, value in measured]
        means = [self._mean(measured[: n + 1]) for n in range(len(measured))]
        if not measured or len(means) <= self.lag:
            return None
        now, before = means[-1], means[-1 - self.lag]
        target = measured[-1][0] - self.lookback
        if now is None or before is None or before <= 0 or target < self.first:
            return None
        return target if now > self.growth * before else None

    def decide(self, records: Records) -> int | None:
        """The epoch to return to after the last of ``records``, or ``None``."""
        if not records or records[-1].get("eigenvalue") is None:
            return None
        last = len(records) == records[-1].get("epochs")
        return None if last and not self.asks_last else self(measurements(records))

    def _mean(self, measured: Sequence[tuple[int, float]]) -> float | None:
        values = [value for _, value in measured[-self.window :]]
        return sum(values) / len(values) if len(values) >= self.at_least else None


def eigenvalue_rule_of_the_paper(k: int = 5) -> EigenvalueRule:
    """Stop if the mean over the ``k`` epochs around epoch i - k was below 0.75 of that around epoch i, and return the
    architecture of epoch i - k; measured in every epoch. The mean around i is known ``k // 2`` epochs after it."""
    return EigenvalueRule(growth=1 / 0.75, window=k, lag=k, lookback=k + k // 2, at_least=k)


def eigenvalue_rule_of_the_code() -> EigenvalueRule:
    """The published code: measured in every second epoch, growth by 1.3 within four measurements, return twelve
    epochs back and not before epoch 10; never in the last epoch; of the loss with alpha's weight decay, which adds 1e-3
    to the eigenvalue."""
    return EigenvalueRule(growth=1.3, window=5, lag=4, lookback=12, first=10, at_least=3, asks_last=False, shift=1e-3)


def measurements(records: Records) -> list[tuple[int, float]]:
    """``(epoch, eigenvalue)`` of the epochs in which it was measured."""
    return [(i, record["eigenvalue"]) for i, record in enumerate(records) if record.get("eigenvalue") is not None]


@dataclass(frozen=True)
class EigenvalueStop:
    """Stop by an :class:`EigenvalueRule`: RobustDARTS-ES.

    Args:
        rule: When it fires.
    """

    rule: EigenvalueRule = field(default_factory=eigenvalue_rule_of_the_paper)
    reads: ClassVar[frozenset[str]] = frozenset({EIGENVALUE})

    def __call__(self, space: Space, records: Records) -> Stop | None:
        epoch = self.rule.decide(records)
        return None if epoch is None else Stop(epoch, "the dominant eigenvalue grew")


@dataclass(frozen=True)
class EigenvalueRollBack:
    """Go back and regularise the weights more when an :class:`EigenvalueRule` fires: RobustDARTS-ADA (Zela et al.,
    2020, arXiv:1909.09656, section 5.3). Once the weight decay has reached its limit the search runs to its end.

    After going back it decides on the measurements up to the epoch that it returned to. The published code keeps those
    of the abandoned epochs by accident, and decides on them too.

    Args:
        rule: When it fires, and how far to go back.
        factor: What the weight decay is multiplied by (scripts: 10).
        limit: Largest weight decay (scripts: 0.03).
    """

    rule: EigenvalueRule = field(default_factory=eigenvalue_rule_of_the_code)
    factor: float = 10.0
    limit: float = 0.03
    reads: ClassVar[frozenset[str]] = frozenset({EIGENVALUE})
    stops: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.factor > 1:
            raise invalid("EigenvalueRollBack", "factor must be more than 1", self.factor)

    @property
    def keeps(self) -> int:
        """Epochs back that it may ask to return to."""
        return self.rule.lookback

    def __call__(self, space: Space, records: Records) -> RollBack | None:
        epoch = self.rule.decide(records)
        if epoch is None or records[-1]["weight_decay"] >= self.limit:
            return None
        decay = min(self.factor * records[-1]["weight_decay"], self.limit)
        return RollBack(epoch, decay, "the dominant eigenvalue grew")


@dataclass(frozen=True)
class FirstOf:
    """Do what the first of several controls to speak says.

    Args:
        controls: In order of precedence.
    """

    controls: tuple[Control, ...]

    @property
    def reads(self) -> frozenset[str]:
        """What any of them reads."""
        return frozenset().union(*(getattr(control, "reads", ()) for control in self.controls))

    @property
    def stops(self) -> bool:
        """Whether any of them does."""
        return any(getattr(control, "stops", True) for control in self.controls)

    @property
    def keeps(self) -> int:
        """Epochs back that any of them may ask to return to."""
        return max(getattr(control, "keeps", 0) for control in self.controls)

    def __call__(self, space: Space, records: Records) -> Stop | RollBack | None:
        verdicts = (control(space, records) for control in self.controls)
        return next((verdict for verdict in verdicts if verdict is not None), None)
