"""The order of the updates of weights and alpha."""

from dataclasses import dataclass

from fastnas_kernels.check import invalid


@dataclass(frozen=True, kw_only=True)
class UpdateSchedule:
    """Which update follows which, and on which images each is made.

    Args:
        joint: One loss on all training images gives alpha and the weights their gradients at once; otherwise each
            has half of the images and an update of its own.
        weights_first: The weights move before alpha in every step.
        alpha_every: Steps of the weights for one of alpha.
        alpha_moves: Whether alpha moves at all; otherwise something else has to choose the architecture.
    """

    joint: bool = False
    weights_first: bool = False
    alpha_every: int = 1
    alpha_moves: bool = True

    def __post_init__(self) -> None:
        if self.alpha_every < 1:
            raise invalid("UpdateSchedule", "alpha_every must be at least 1", self.alpha_every)
        if self.joint and not self.alpha_moves:
            raise invalid("UpdateSchedule", "joint updates move alpha", "alpha_moves=False")
        if self.joint and (self.weights_first or self.alpha_every > 1):
            rule = "joint updates have no order: leave weights_first and alpha_every out"
            got = f"weights_first={self.weights_first}, alpha_every={self.alpha_every}"
            raise invalid("UpdateSchedule", rule, got)
