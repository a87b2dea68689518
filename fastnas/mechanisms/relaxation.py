"""Relaxations: from architecture logits to the coefficients that mix candidates and edges.

A relaxation is called with the logits, which candidates are still alive (``None`` for all) and a temperature, and
gives exactly zero to candidates that are not alive. What the engine and the oracle may take for granted it says by
attributes; a plain function says nothing, and is only called.

Shape suffixes: E edges of a cell, K candidates of an edge.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Relaxation = Callable[[Tensor, Tensor | None, float], Tensor]
"""From ``(alpha [E, K], alive [E, K] of bool or None, tau)`` to coefficients ``[E, K]``."""


def probabilities(alpha_EK: Tensor, tau: float = 1.0, alive_EK: Tensor | None = None) -> Tensor:
    """``exp(alpha / tau)`` over its sum along each row, written out; zero for what is not alive."""
    weight_EK = ((alpha_EK - alpha_EK.amax(-1, keepdim=True)) / tau).exp()
    weight_EK = weight_EK if alive_EK is None else weight_EK * alive_EK
    return weight_EK / weight_EK.sum(-1, keepdim=True)


@dataclass(frozen=True)
class Softmax:
    """Softmax over the living candidates of each edge (Liu et al., 2019, arXiv:1806.09055, eq. 2), tempered by
    ``tau`` (Noy et al., 2019, arXiv:1904.04123). The only one alive has coefficient 1 and gradient 0.

    Example:
        >>> softmax(torch.tensor([[1.0, 1.0, 3.0]]), torch.tensor([[True, True, False]])).tolist()
        [[0.5, 0.5, 0.0]]
    """

    on_simplex: ClassVar[bool] = True
    """Whether the coefficients of an edge sum to one."""

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None = None, tau: float = 1.0) -> Tensor:
        return _logits(alpha_EK, alive_EK, tau).softmax(-1)

    def written_out(self, alpha_EK: Tensor, alive_EK: Tensor, tau: float) -> Tensor:
        """The coefficients by the formula alone: what the oracle compares with."""
        return probabilities(alpha_EK, tau, alive_EK)


softmax = Softmax()


@dataclass(frozen=True)
class MirrorSoftmax:
    """A softmax at which alpha gets the gradient of its coefficients, as if these were the variables.

    To descend on alpha by plain gradient descent is then exponentiated gradient on the coefficients, ``theta * exp(-lr
    dL/dtheta)`` over its sum (Li et al., 2021, arXiv:2004.07802, section 3.1).
    """

    on_simplex: ClassVar[bool] = True

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None = None, tau: float = 1.0) -> Tensor:
        nothing_EK = alpha_EK - alpha_EK.detach()
        nothing_EK = nothing_EK if alive_EK is None else nothing_EK * alive_EK
        return softmax(alpha_EK.detach(), alive_EK, tau) + nothing_EK

    def written_out(self, alpha_EK: Tensor, alive_EK: Tensor, tau: float) -> Tensor:
        """As :meth:`Softmax.written_out`."""
        return probabilities(alpha_EK, tau, alive_EK)

    @property
    def surrogate(self) -> Relaxation:
        """What alpha is differentiated through in place of the coefficients."""
        return raw


mirror_softmax = MirrorSoftmax()


@dataclass(frozen=True)
class Sigmoid:
    """Independent gates, so that candidates cooperate instead of compete (Chu et al., 2020, arXiv:1911.12126).

    Example:
        >>> sigmoid(torch.zeros(1, 2)).tolist()
        [[0.5, 0.5]]
    """

    on_simplex: ClassVar[bool] = False

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None = None, tau: float = 1.0) -> Tensor:
        return _logits(alpha_EK, alive_EK, tau).sigmoid()

    def written_out(self, alpha_EK: Tensor, alive_EK: Tensor, tau: float) -> Tensor:
        """As :meth:`Softmax.written_out`."""
        return alive_EK / (1 + (-alpha_EK / tau).exp())


sigmoid = Sigmoid()


@dataclass(frozen=True)
class Raw:
    """The variables themselves: in a box for NASP (Yao et al., 2020, arXiv:1905.13577), free scalings for DSO-NAS
    (Zhang et al., 2018, arXiv:1811.01567). Ignores ``tau``."""

    on_simplex: ClassVar[bool] = False

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None = None, tau: float = 1.0) -> Tensor:
        return alpha_EK if alive_EK is None else alpha_EK * alive_EK

    def written_out(self, alpha_EK: Tensor, alive_EK: Tensor, tau: float) -> Tensor:
        """As :meth:`Softmax.written_out`."""
        return alpha_EK * alive_EK


raw = Raw()


@dataclass(frozen=True)
class MaxW:
    """``1 - max_j p_j + p_k``: the leading candidate has coefficient 1 whatever the others have (Hundt et al., 2019,
    arXiv:1903.09900, section 3).

    Args:
        detach_max: Hold the maximum constant. The published code says that it does and does not, so that the
            gradient of the leader is minus the sum of the others'; that is the default.

    Example:
        >>> MaxW()(torch.zeros(1, 4)).tolist()
        [[1.0, 1.0, 1.0, 1.0]]
    """

    detach_max: bool = False
    on_simplex: ClassVar[bool] = False

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None = None, tau: float = 1.0) -> Tensor:
        p_EK = softmax(alpha_EK, alive_EK, tau)
        largest_E1 = p_EK.amax(-1, keepdim=True) if self.detach_max else _largest(p_EK)
        mix_EK = 1 - (largest_E1.detach() if self.detach_max else largest_E1) + p_EK
        return mix_EK if alive_EK is None else mix_EK * alive_EK

    def written_out(self, alpha_EK: Tensor, alive_EK: Tensor, tau: float) -> Tensor:
        """As :meth:`Softmax.written_out`."""
        p_EK = probabilities(alpha_EK, tau, alive_EK)
        return (1 - p_EK.amax(-1, keepdim=True) + p_EK) * alive_EK

    @property
    def surrogate(self) -> Relaxation | None:
        """What alpha is differentiated through in place of the coefficients, if it is anything else."""
        return softmax if self.detach_max else None


def _largest(p_EK: Tensor) -> Tensor:
    """The maximum of each row, whose gradient goes to one entry also where several are equal."""
    return p_EK.gather(-1, p_EK.argmax(-1, keepdim=True))


def _logits(alpha_EK: Tensor, alive_EK: Tensor | None, tau: float) -> Tensor:
    logits_EK = alpha_EK if tau == 1 else alpha_EK / tau
    return logits_EK if alive_EK is None else logits_EK.masked_fill(~alive_EK, -torch.inf)


def edge_softmax(beta_E: Tensor, rows: Sequence[range]) -> Tensor:
    """Softmax over the edges into each node: PC-DARTS's edge normalisation (Xu et al., 2020, arXiv:1907.05737, eq. 4).

    Args:
        beta_E: Edge logits of one cell type, ``[E]``.
        rows: The rows of each node's incoming edges, node by node; together they are all of ``range(E)``.

    Returns:
        Edge coefficients ``[E]`` that sum to one at every node.

    Example:
        >>> edge_softmax(torch.zeros(5), [range(0, 2), range(2, 5)])
        tensor([0.5000, 0.5000, 0.3333, 0.3333, 0.3333])
    """
    return torch.cat([beta_E[row.start : row.stop].softmax(0) for row in rows])


def entropy(mix_EK: Tensor) -> Tensor:
    """Mean over the edges of the entropy of their coefficients, in nats: ``log K`` at the start, 0 when decided.

    Coefficients that do not sum to one are divided by their sum first, negative ones counting as zero.

    Example:
        >>> round(float(entropy(torch.full((14, 8), 1 / 8))), 4)  # log 8
        2.0794
    """
    share_EK = mix_EK.clamp(min=0)
    total_E1 = share_EK.sum(-1, keepdim=True)
    return torch.special.entr(share_EK / total_E1.clamp(min=torch.finfo(mix_EK.dtype).tiny)).sum(-1).mean()
