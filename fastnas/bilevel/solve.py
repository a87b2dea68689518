"""Solve linear systems of symmetric matrices that are known by their products alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastnas_kernels.check import complaint, invalid

Solve = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
"""From ``x -> A x`` and ``b``, both ``[n]``, to the solution of ``A x = b``."""


@dataclass(frozen=True)
class ConjugateGradients:
    """Solve by conjugate gradients (Hestenes and Stiefel, 1952, doi 10.6028/jres.049.044).

    Args:
        tolerance: Length of the residual that ends the iteration, as a share of that of ``b``; ``math.inf`` beside
            ``steps`` takes what there is after so many products.
        steps: Products at most.

    Raises:
        FloatingPointError: When called, if the matrix is not positive definite or the residual stays too long.
    """

    tolerance: float = 1e-4
    steps: int = 100

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise invalid("ConjugateGradients", "tolerance must be positive", self.tolerance)
        if self.steps < 1:
            raise invalid("ConjugateGradients", "steps must be at least 1", self.steps)

    def __call__(self, matrix: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
        x, residual = torch.zeros_like(b), b.clone()
        direction, size, target = residual, float(b @ b), float(b.norm())
        enough = 0.0 if math.isinf(self.tolerance) else self.tolerance * target
        for _ in range(self.steps):
            if math.sqrt(size) <= enough or size == 0:
                return x
            image = matrix(direction)
            curvature = float(direction @ image) / float(direction @ direction)
            if not curvature > 0:  # also a NaN
                rule = "the matrix must be positive definite"
                remedy = "Give Implicit a larger damping."
                raise FloatingPointError(complaint("ConjugateGradients", rule, f"curvature {curvature:.3g}", remedy))
            rate = size / (curvature * float(direction @ direction))
            x, residual = x + rate * direction, residual - rate * image
            before, size = size, float(residual @ residual)
            direction = residual + (size / before) * direction
        if math.isinf(self.tolerance) or math.sqrt(size) <= enough:
            return x
        rule = f"the residual must fall below {self.tolerance:g} of b within {self.steps} products"
        remedy = "Allow more steps, a larger tolerance, or give Implicit a larger damping."
        raise FloatingPointError(complaint("ConjugateGradients", rule, f"{math.sqrt(size) / target:.3g}", remedy))


@dataclass(frozen=True)
class Neumann:
    """Approximate ``A^-1 b`` by ``rate sum_{k < steps} (I - rate A)^k b`` (Lorraine et al., 2020, arXiv:1911.02590,
    algorithm 3): what so many steps of gradient descent forget of the start.

    Args:
        rate: Must be below 2 over the largest eigenvalue.
        steps: Terms.

    Raises:
        FloatingPointError: When called, if a term is longer than the one before it. For a symmetric matrix that
            happens exactly where the series diverges.
    """

    rate: float
    steps: int = 20

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise invalid("Neumann", "rate must be positive", self.rate)
        if self.steps < 1:
            raise invalid("Neumann", "steps must be at least 1", self.steps)

    def __call__(self, matrix: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
        term, total = b, b.clone()
        slack = 1 + 100 * torch.finfo(b.dtype).eps
        for _ in range(self.steps - 1):
            image = matrix(term)
            after = term - self.rate * image
            if not float(after.norm()) <= slack * float(term.norm()):  # also a NaN
                curvature = float(term @ image) / float(term @ term)
                got = f"rate {self.rate:g} and a curvature of {curvature:.3g}"
                remedy = "Lower the rate." if curvature > 0 else "Give Implicit a larger damping."
                rule = "the series must not diverge: rate times every eigenvalue must lie in (0, 2)"
                raise FloatingPointError(complaint("Neumann", rule, got, remedy))
            term, total = after, total + after
        return self.rate * total
