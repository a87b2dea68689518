"""How far the ladder of selection reaches."""

from dataclasses import dataclass

from fastnas.errors import invalid
from fastnas.files import STRICT

MOST = 10**7  # of anything


@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """Selection by evaluation: many architectures are scored on the supernet, few are trained for a short while, and
    half of these go on at every rung.

    Args:
        proposals: Architectures to score on the supernet.
        entrants: Best of these to train; the argmax of the coefficients is always among them. 1 trains none.
        steps: Steps of the first rung; every further rung doubles the steps that an architecture has had. Below some
            500 a training ranks hardly better than chance.
        images: Held-out images for every score.
    """

    __pydantic_config__ = STRICT

    proposals: int = 64
    entrants: int = 8
    steps: int = 500
    images: int = 2048

    def __post_init__(self) -> None:
        for name in ("proposals", "entrants", "steps", "images"):
            value = getattr(self, name)
            if value < 1:
                raise invalid("LadderConfig", f"{name} must be at least 1", value)
            if value > MOST:
                raise invalid("LadderConfig", f"{name} must be at most {MOST}", value)

    @property
    def rungs(self) -> list[tuple[int, int]]:
        """``(architectures, steps that each has had at the end)`` of every rung, until one is left."""
        rungs, left, steps = [], self.entrants, self.steps
        while left > 1:
            rungs.append((left, steps))
            left, steps = (left + 1) // 2, 2 * steps
        return rungs

    @property
    def total_steps(self) -> int:
        """Training steps of all rungs together."""
        before, total = 0, 0
        for architectures, steps in self.rungs:
            total += architectures * (steps - before)
            before = steps
        return total
