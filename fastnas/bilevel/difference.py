"""Products with second derivatives by differences of gradients, and how wrong they are."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastnas.bilevel.named import LossOf, filled, gradients, norm, require_names, rows_of
from fastnas.bilevel.problem import Tensors
from fastnas.bilevel.undisturbed import undisturbed
from fastnas_kernels.check import require


class Difference(NamedTuple):
    """A product by differences.

    Args:
        product: The rows.
        error: Estimate of the norm of their error, in their unit.
        radius: Length of the step to either side, in the space of the direction.
    """

    product: dict[str, Tensor]
    error: float
    radius: float


def central_difference(
    loss: LossOf,
    at: Tensors,
    v: Tensors,
    of: Collection[str] | None = None,
    *,
    radius: float | None = None,
    state: Sequence[Tensor] = (),
    allow_unused: bool = False,
) -> Difference:
    """The Hessian times ``v`` from gradients at four points, with an estimate of how wrong it is.

    ``D(h) = (g(at + h v) - g(at - h v)) / 2h`` with ``h = radius / |v|`` is returned. Its error is ``c h^2`` from what
    the loss bends and about ``eps |g| / h`` from rounding; the first is estimated by ``|D(2h) - D(h)| / 3``, which is
    also large where the two ends lie beyond different corners of a ReLU or a maximum, and no radius helps.

    Args:
        loss: Once differentiable.
        at: The point.
        v: See :func:`forward_over_reverse`.
        of: See :func:`forward_over_reverse`.
        radius: Length of the step. Unset: ``eps^(1/3) max(1, |at|)`` with the norm over the names of ``v``, which
            balances both errors where the loss changes on the scale of its variables, or of one if they are small.
        state: See :func:`forward_over_reverse`.
        allow_unused: See :func:`forward_over_reverse`.

    Raises:
        ValueError: If names or shapes do not fit, the loss is no scalar, a tensor does not enter it, or ``radius`` is
            not positive.
    """
    where, rows = "central_difference", rows_of(v, of)
    require_names(where, at, v, rows)
    require(radius is None or radius > 0, where, "radius must be positive", radius)
    length = norm(v)
    if length == 0:
        return Difference(filled(at, rows, [None] * len(rows)), 0.0, 0.0)
    eps = torch.finfo(next(iter(v.values())).dtype).eps
    own = eps ** (1 / 3) * max(1.0, norm({name: at[name] for name in v}))
    taken = own if radius is None else radius
    h = taken / length

    def gradient(shift: float) -> list[Tensor]:
        with undisturbed(state), torch.enable_grad():
            point = {name: x.detach() for name, x in at.items()}
            point |= {name: point[name] + shift * x.detach() for name, x in v.items()}
            leaves = {name: point[name].requires_grad_() for name in rows}
            found = gradients(where, loss({**point, **leaves}), leaves, allow_unused, twice=False)
        return [torch.zeros_like(at[name]) if g is None else g for name, g in zip(rows, found, strict=True)]

    def difference(half: float) -> tuple[list[Tensor], float]:
        ahead, behind = gradient(half), gradient(-half)
        slope = [(a - b) / (2 * half) for a, b in zip(ahead, behind, strict=True)]
        return slope, norm(dict(zip(rows, ahead, strict=True)))

    (near, size), (far, _) = difference(h), difference(2 * h)
    bent = norm({name: f - n for name, f, n in zip(rows, far, near, strict=True)}) / 3
    return Difference(dict(zip(rows, near, strict=True)), bent + eps * size / h, taken)
