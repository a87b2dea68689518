"""Eigenvalues of Hessians from products with vectors alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastnas.bilevel.named import LossOf, require_entering
from fastnas.bilevel.operator import HessianOperator
from fastnas.bilevel.problem import Average, Tensors, skip_average
from fastnas.bilevel.products import Product, average_products, forward_over_reverse
from fastnas_kernels.check import complaint, invalid


class Ritz(NamedTuple):
    """What a Lanczos iteration knows of a symmetric matrix, in ascending order of the values.

    Args:
        values: Approximate eigenvalues ``[m]``, float64.
        weights: Squared first entries of the vectors in the Krylov basis ``[m]``: a quadrature rule of the spectrum.
        residuals: ``|A x - value x|`` of each ``[m]``: how far it is from an eigenvalue at most.
        basis: The orthonormal Krylov basis ``[m, n]``.
        vectors: Those of the values in that basis, as columns ``[m, m]``, float64.
    """

    values: Tensor
    weights: Tensor
    residuals: Tensor
    basis: Tensor
    vectors: Tensor

    def vector(self, i: int) -> Tensor:
        """The approximate eigenvector ``[n]`` of ``values[i]``."""
        return self.vectors[:, i].to(self.basis) @ self.basis


def lanczos(
    matrix: Callable[[Tensor], Tensor], start: Tensor, steps: int, done: Callable[[Ritz], bool] = lambda ritz: False
) -> Ritz:
    """The Lanczos method with full reorthogonalisation (Golub and Van Loan, Matrix Computations, section 10.1).

    The Krylov basis is orthogonalised against all of its vectors twice in every step, without which rounding
    brings copies of converged eigenvalues back; the small tridiagonal matrix is solved in float64.

    Args:
        matrix: From ``x`` to ``A x``, ``[n]``, symmetric.
        start: Where from, ``[n]``, not zero.
        steps: Products at most.
        done: Asked after every product whether to end there.
    """
    basis = [start / start.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    while True:
        image = matrix(basis[-1])
        scale = float(image.norm())
        diagonal.append(float(image @ basis[-1]))
        known = torch.stack(basis)
        for _ in range(2):
            image = image - known.T @ (known @ image)
        rest = float(image.norm())
        spent = rest <= 100 * torch.finfo(image.dtype).eps * scale or len(basis) == len(start)
        ritz = _ritz(diagonal, off_diagonal, 0.0 if spent else rest, known)
        if spent or len(basis) == steps or done(ritz):
            return ritz  # if spent, the basis spans an invariant space: nothing new can be learned
        off_diagonal.append(rest)
        basis.append(image / rest)


def _ritz(diagonal: Sequence[float], off_diagonal: Sequence[float], rest: float, basis: Tensor) -> Ritz:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for i, value in enumerate(off_diagonal):
        matrix[i, i + 1] = matrix[i + 1, i] = value
    values, vectors = torch.linalg.eigh(matrix)
    return Ritz(values, vectors[0] ** 2, rest * vectors[-1].abs(), basis, vectors)


def dominant_eigenvalue(
    loss: LossOf | Sequence[LossOf],
    at: Tensors,
    steps: int = 20,
    seed: int = 0,
    *,
    tolerance: float = 1e-3,
    product: Product | None = None,
    sizes: Sequence[int] | None = None,
    state: Sequence[Tensor] = (),
    average: Average = skip_average,
) -> float:
    """The algebraically largest eigenvalue of the Hessian of ``loss``, by the Lanczos method.

    RobustDARTS reads the largest eigenvalue, not the one of largest magnitude (Zela et al., 2020, arXiv:1909.09656,
    section 4). Products with the Hessian are exact: of one loss the gradient's graph is built once and differentiated
    up to ``steps`` times; several are streamed.

    Args:
        loss: Twice differentiable function of ``at``, or several, whose mean is meant.
        at: The point, tensors of one dtype; those that do not enter the loss have no curvature.
        steps: Products with the Hessian at most; the estimate is exact once they reach the number of variables.
        seed: Decides the vector to start from.
        tolerance: Residual, as a share of the eigenvalue, that ends the iteration. The error of the eigenvalue is at
            most the residual and mostly its square over the distance to the next one; 0 takes all steps.
        product: How products are computed; unset to keep the graph of the gradient of one loss.
        sizes: Examples of each batch, by which its loss counts; ``None`` for batches of one size.
        state: Tensors that evaluating the loss moves; they are put back.
        average: The mean over processes.

    Returns:
        The eigenvalue, in units of the loss (nats) per squared unit of the variables.

    Raises:
        ValueError: If none of the tensors enters a loss, or it cannot be differentiated twice.

    Example:
        >>> at = {"alpha": torch.tensor([1.0, 2.0])}
        >>> round(dominant_eigenvalue(lambda x: (x["alpha"] ** 3).sum(), at), 3)  # of diag(6, 12)
        12.0
    """
    if steps < 1:
        raise invalid("dominant_eigenvalue", "steps must be at least 1", steps)
    if not tolerance >= 0:
        raise invalid("dominant_eigenvalue", "tolerance must not be negative", tolerance)
    one = callable(loss) or len(loss) == 1
    require_entering("dominant_eigenvalue", [loss] if callable(loss) else loss, at, state)
    keep, how = one and product is None, product or forward_over_reverse
    matrix = HessianOperator(loss, at, how, keep, state, allow_unused=True, average=average, sizes=sizes)
    ritz = lanczos(matrix.__matmul__, _normal(matrix, seed), steps, lambda r: _close(r, -1, tolerance))
    return float(ritz.values[-1])


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues and their vectors, the largest first.

    Args:
        values: ``[k]``, float64.
        vectors: As columns ``[n, k]``.
    """

    values: Tensor
    vectors: Tensor


def eigenpairs(
    matrix: HessianOperator,
    k: int = 1,
    *,
    largest: bool = True,
    steps: int = 100,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> Eigenpairs:
    """The ``k`` algebraically largest eigenvalues of a Hessian, or smallest, with their vectors.

    Args:
        matrix: The Hessian.
        k: How many; an eigenvalue that occurs several times is found once.
        largest: Which end of the spectrum.
        steps: Products at most.
        tolerance: Residual of each pair as a share of the largest magnitude found.
        seed: Decides the vector to start from.

    Raises:
        ValueError: If ``k`` is less than 1 or more than the matrix has.
        FloatingPointError: If they are not found within ``steps`` products.
    """
    where, n = "eigenpairs", matrix.shape[0]
    if not 1 <= k <= n:
        raise invalid(where, f"k must lie between 1 and {n}", k)
    ends = [-1 - i if largest else i for i in range(k)]

    def done(ritz: Ritz) -> bool:
        scale = float(ritz.values.abs().max())
        return len(ritz.values) >= k and all(float(ritz.residuals[i]) <= tolerance * scale for i in ends)

    ritz = lanczos(matrix.__matmul__, _normal(matrix, seed), steps, done)
    if not done(ritz):
        worst = float(ritz.residuals[ends].max()) if len(ritz.values) >= k else float("inf")
        rule = f"{k} residuals must fall below {tolerance:g} of the largest eigenvalue within {steps} products"
        got = f"{worst / float(ritz.values.abs().max()):.3g} after {len(ritz.values)}"
        raise FloatingPointError(complaint(where, rule, got, "Allow more steps or a larger tolerance."))
    return Eigenpairs(ritz.values[ends], torch.stack([ritz.vector(i) for i in ends], dim=1))


class Estimate(NamedTuple):
    """A number that was estimated, and its standard error."""

    value: float
    error: float


def trace(matrix: HessianOperator, probes: int = 32, seed: int = 0) -> Estimate:
    """The sum of the eigenvalues: the mean of ``x A x`` over random signs ``x`` (Hutchinson, 1990, doi
    10.1080/03610919008812866).

    Args:
        matrix: The Hessian.
        probes: Products.
        seed: Decides the signs.

    Raises:
        ValueError: If there are fewer than two probes, which give no error estimate.

    Example:
        >>> matrix = HessianOperator(lambda at: (at[0] ** 2).sum(), [torch.ones(3)])
        >>> round(trace(matrix).value, 3)
        6.0
    """
    if probes < 2:
        raise invalid("trace", "probes must be at least 2", probes)
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(probes):
        signs = torch.randint(2, (matrix.shape[0],), generator=generator).to(matrix.like) * 2 - 1
        values.append(float(signs @ (matrix @ signs)))
    found = torch.tensor(values, dtype=torch.float64)
    return Estimate(float(found.mean()), float(found.std() / probes**0.5))


class Density(NamedTuple):
    """A spectrum as weighted points; the weights add up to one."""

    values: Tensor
    weights: Tensor

    def at(self, grid: Tensor, width: float) -> Tensor:
        """The density ``[g]`` on a grid ``[g]``, every point smeared to a normal one of deviation ``width``."""
        normal = torch.distributions.Normal(self.values, width)
        return normal.log_prob(grid.to(self.values)[:, None]).exp() @ self.weights


def spectral_density(matrix: HessianOperator, probes: int = 8, steps: int = 30, seed: int = 0) -> Density:
    """The distribution of all eigenvalues, by stochastic Lanczos quadrature (Ghorbani et al., 2019, arXiv:1901.10159).

    Args:
        matrix: The Hessian.
        probes: Random vectors to start from.
        steps: Products for each.
        seed: Decides the vectors.
    """
    if probes < 1 or steps < 1:
        raise invalid("spectral_density", "probes and steps must be at least 1", (probes, steps))
    found = [lanczos(matrix.__matmul__, _normal(matrix, seed + probe), steps) for probe in range(probes)]
    return Density(torch.cat([r.values for r in found]), torch.cat([r.weights for r in found]) / probes)


class Interval(NamedTuple):
    """A value and the interval in which it lies with some confidence."""

    value: float
    low: float
    high: float


def dominant_interval(
    losses: Sequence[LossOf],
    at: Tensors,
    *,
    confidence: float = 0.95,
    steps: int = 20,
    seed: int = 0,
    product: Product = forward_over_reverse,
    sizes: Sequence[int] | None = None,
) -> Interval:
    """The largest eigenvalue of the Hessian of the mean over batches, and how sure it is given so many batches.

    With ``u`` its eigenvector, the eigenvalue is the mean of ``u H_b u`` over the batches b, and to first order moves
    with the mean of these numbers: Student's interval for it is that of the eigenvalue. It leaves out that ``u`` was
    fitted to the same batches, by which the eigenvalue of a small sample is on average too large.

    Args:
        losses: A loss for each batch, at least two.
        at: The point.
        confidence: Probability with which the interval holds the value of endlessly many batches.
        steps: Products at most, each with all batches.
        seed: Decides the vector to start from.
        product: How products are computed.
        sizes: Examples of each batch, by which its loss counts; ``None`` for batches of one size.

    Raises:
        ValueError: If none of the tensors enters a loss, there are fewer than two batches or the confidence is no
            probability.
    """
    where = "dominant_interval"
    if len(losses) < 2:
        raise invalid(where, "losses must be at least 2", len(losses), "One batch has no spread.")
    if not 0 < confidence < 1:
        raise invalid(where, "confidence must lie between 0 and 1", confidence)
    from scipy.stats import t  # noqa: PLC0415  (scikit-learn brings it, nothing else here needs it)

    require_entering(where, losses, at, ())
    matrix = HessianOperator(losses, at, product, allow_unused=True, sizes=sizes)
    ritz = lanczos(matrix.__matmul__, _normal(matrix, seed), steps, lambda r: _close(r, -1, 1e-3))
    u = ritz.vector(-1)
    named = matrix.unflat(u)
    each = [
        float(u @ matrix.flat(average_products([loss], at, named, product=product, allow_unused=True)))
        for loss in losses
    ]
    found = torch.tensor(each, dtype=torch.float64)
    share = torch.tensor(sizes if sizes is not None else [1] * len(losses), dtype=torch.float64)
    share = share / share.sum()
    spread = float((share * (found - share @ found) ** 2).sum() * len(losses) / (len(losses) - 1)) ** 0.5
    half = float(t.ppf((1 + confidence) / 2, len(losses) - 1)) * spread * float(share.norm())
    value = float(ritz.values[-1])
    return Interval(value, value - half, value + half)


def _close(ritz: Ritz, i: int, tolerance: float) -> bool:
    return float(ritz.residuals[i]) <= tolerance * abs(float(ritz.values[i]))


def _normal(matrix: HessianOperator, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(matrix.shape[0], generator=generator, dtype=torch.float64).to(matrix.like)
