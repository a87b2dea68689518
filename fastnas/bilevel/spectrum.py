"""Eigenvalues of Hessians from products with vectors alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from fastnas.bilevel.problem import Tensors, detached
from fastnas_kernels.check import require


def dominant_eigenvalue(loss: Callable[[Tensors], Tensor], at: Tensors, steps: int = 10, seed: int = 0) -> float:
    """The algebraically largest eigenvalue of the Hessian of ``loss``, by the Lanczos method.

    The Krylov basis is orthogonalised against all of its vectors twice in every step, without which rounding
    brings copies of converged eigenvalues back; the small tridiagonal matrix is solved in float64. Products with
    the Hessian are exact: the gradient's graph is built once and differentiated ``steps`` times. RobustDARTS reads
    the largest eigenvalue, not the one of largest magnitude (Zela et al., 2020, arXiv:1909.09656, section 4).

    Args:
        loss: Twice differentiable function of ``at``.
        at: The point, tensors of one dtype.
        steps: Products with the Hessian at most; the estimate is exact once they reach the number of variables.
        seed: Decides the vector to start from.

    Returns:
        The eigenvalue, in units of the loss (nats) per squared unit of the variables.
    """
    require(steps >= 1, "dominant_eigenvalue", "steps must be at least 1", steps)
    point = {name: x.requires_grad_() for name, x in detached(at).items()}
    variables = list(point.values())
    gradients = torch.autograd.grad(loss(point), variables, create_graph=True, allow_unused=True)
    flat = torch.cat([_flat(g, x) for g, x in zip(gradients, variables, strict=True)])

    def product(v: Tensor) -> Tensor:
        if not flat.requires_grad:
            return torch.zeros_like(v)
        rows = torch.autograd.grad(flat, variables, v, retain_graph=True, allow_unused=True)
        return torch.cat([_flat(row, x) for row, x in zip(rows, variables, strict=True)])

    start = torch.randn(len(flat), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(flat)
    basis = [start / start.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for _ in range(min(steps, len(flat))):
        image = product(basis[-1])
        scale = float(image.norm())
        diagonal.append(float(image @ basis[-1]))
        known = torch.stack(basis)
        for _ in range(2):
            image = image - known.T @ (known @ image)
        rest = float(image.norm())
        if rest <= 100 * torch.finfo(image.dtype).eps * scale or len(basis) == len(flat):
            break  # the basis spans an invariant space: nothing new can be learned
        off_diagonal.append(rest)
        basis.append(image / rest)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for i, value in enumerate(off_diagonal[: len(diagonal) - 1]):
        matrix[i, i + 1] = matrix[i + 1, i] = value
    return float(torch.linalg.eigvalsh(matrix)[-1])


def _flat(gradient: Tensor | None, variable: Tensor) -> Tensor:
    return torch.zeros_like(variable).flatten() if gradient is None else gradient.flatten()
