"""Who moves when (axis F)."""

from dataclasses import dataclass

from fastnas_kernels.check import require


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The order of the steps, and what they are taken on.

    Args:
        joint: One loss on all training images gives alpha and the weights their gradients at once; otherwise each
            has half of the images and a step of its own.
        weights_first: The weights move before alpha in every step.
        alpha_every: Steps of the weights for one of alpha.
    """

    joint: bool = False
    weights_first: bool = False
    alpha_every: int = 1

    def __post_init__(self) -> None:
        require(self.alpha_every >= 1, "Protocol", "alpha_every must be at least 1", self.alpha_every)
        alone = not (self.joint and (self.weights_first or self.alpha_every > 1))
        rule = "joint must stand without weights_first and alpha_every, which order steps that it makes at once"
        require(alone, "Protocol", rule, f"weights_first={self.weights_first}, alpha_every={self.alpha_every}")
