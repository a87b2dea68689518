"""Gradients of the outer loss for the outer variables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Loss = Callable[[Tensors, Tensors], Tensor]


@dataclass(frozen=True)
class Bilevel:
    """min over ``alpha`` of ``outer(w*(alpha), alpha)``, where ``w*(alpha)`` minimises ``inner(w, alpha)``.

    Args:
        inner: Loss on the half that trains weights, from ``(w, alpha)``.
        outer: Loss on the half that trains alpha, from ``(w, alpha)``.
    """

    inner: Loss
    outer: Loss


Hypergradient = Callable[[Bilevel, Tensors, Tensors], tuple[Tensor, dict[str, Tensor]]]
"""From a problem, ``w`` and ``alpha`` to the outer loss and its gradient for every entry of ``alpha``."""


def first_order(problem: Bilevel, w: Tensors, alpha: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
    """Treat ``w`` as constant: the ``xi = 0`` case of DARTS (Liu et al., 2019, arXiv:1806.09055, section 2.3).

    The weights enter detached, so no gradient is computed or prepared for them.
    """
    loss = problem.outer({name: p.detach() for name, p in w.items()}, alpha)
    gradients = torch.autograd.grad(loss, list(alpha.values()), allow_unused=True)
    return loss.detach(), {
        name: torch.zeros_like(a) if g is None else g for (name, a), g in zip(alpha.items(), gradients, strict=True)
    }
