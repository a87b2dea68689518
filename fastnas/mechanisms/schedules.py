"""Learning rates as pure functions of the epoch (axis N)."""

import math

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
