"""Products of second derivatives with vectors, exact and by differences, without a matrix and without a trace.

Every product takes a loss of named tensors, the point ``at``, and a direction ``v`` with some of the names of ``at``.
It returns the rows ``of`` of the Hessian times ``v``: with ``v`` and ``of`` on the weights the product in the weights,
with ``v`` on the weights and ``of`` on alpha the mixed one, ``(d2 loss / d alpha d w) v``. Nothing is moved in place,
no ``.grad`` is touched, and the random state stays as it was.

Which one when, by the measurements of ``profiling/second_order.py``: :func:`forward_over_reverse`, the fastest, which
keeps no graph of the backward pass and computes rows for nothing but ``of``; :func:`reverse_over_reverse` where an
operation has no forward mode, or where memory counts and the direction is on the weights; :func:`make_product` for
many at one point, where each costs one backward pass through the graph of the gradient;
:func:`central_difference` where a loss cannot be differentiated twice, and as a check.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastnas.bilevel.named import (
    LossOf,
    copy_when_saved,
    fill_missing,
    gradients,
    norm,
    refuse_inplace,
    require_names,
    select_rows,
)
from fastnas.bilevel.problem import Tensors, restore_state
from fastnas_kernels.check import invalid
from fastnas_kernels.tensors import accumulator


class Product(Protocol):
    """The Hessian of ``loss`` at ``at``, rows ``of``, times ``v``."""

    def __call__(
        self,
        loss: LossOf,
        at: Tensors,
        v: Tensors,
        of: Collection[str] | None = None,
        *,
        state: Sequence[Tensor] = (),
        allow_unused: bool = False,
    ) -> dict[str, Tensor]: ...


def forward_over_reverse(
    loss: LossOf,
    at: Tensors,
    v: Tensors,
    of: Collection[str] | None = None,
    *,
    state: Sequence[Tensor] = (),
    allow_unused: bool = False,
) -> dict[str, Tensor]:
    """The Hessian times ``v`` as the derivative of the gradient along ``v``: dual numbers through the backward pass
    (Pearlmutter, 1994, Fast exact multiplication by the Hessian, doi 10.1162/neco.1994.6.1.147).

    Args:
        loss: Twice differentiable; its operations must know forward mode.
        at: The point.
        v: The direction: tensors for some of the names of ``at``, of their shapes.
        of: Names of the rows; those of ``v`` if not given.
        state: Tensors that evaluating the loss moves, such as ``tuple(network.buffers())``; they are put back.
        allow_unused: A row of zeros instead of an error for a tensor that does not enter the loss.

    Returns:
        A tensor for every name in ``of``, in units of the loss over those of the row and of the direction, times those
        of ``v``.

    Raises:
        ValueError: If names or shapes do not fit, the loss is no scalar, a tensor does not enter it, or an operation
            of it cannot be differentiated twice.

    Example:
        >>> loss = lambda at: (at["w"] ** 3).sum()
        >>> forward_over_reverse(loss, {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 1.0])})
        {'w': tensor([ 6., 12.])}
    """
    where, rows = "forward_over_reverse", select_rows(v, of)
    require_names(where, at, v, rows)
    remedy = "Use reverse_over_reverse, or central_difference, as product=by_differences."
    with restore_state(state), refuse_inplace(where, remedy), torch.enable_grad(), forward_ad.dual_level():
        point = {name: x.detach().requires_grad_(name in rows) for name, x in at.items()}
        point |= {name: forward_ad.make_dual(point[name], x.detach().to(at[name])) for name, x in v.items()}
        found = gradients(where, loss(point), {name: point[name] for name in rows}, allow_unused)
        tangents = [None if g is None else forward_ad.unpack_dual(g).tangent for g in found]
        return fill_missing(at, rows, [None if t is None else t.detach() for t in tangents])


def reverse_over_reverse(
    loss: LossOf,
    at: Tensors,
    v: Tensors,
    of: Collection[str] | None = None,
    *,
    state: Sequence[Tensor] = (),
    allow_unused: bool = False,
) -> dict[str, Tensor]:
    """The Hessian times ``v`` as the gradient of the inner product of the gradient with ``v``.

    Arguments, result and errors are those of :func:`forward_over_reverse`. Holds the graph of the backward pass.

    Example:
        >>> loss = lambda at: (at["w"] ** 3).sum()
        >>> reverse_over_reverse(loss, {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 1.0])})
        {'w': tensor([ 6., 12.])}
    """
    where = "reverse_over_reverse"
    require_names(where, at, v, select_rows(v, of))
    return _graph(where, loss, at, tuple(v), select_rows(v, of), state, allow_unused)(v, keep=False)


def make_product(
    loss: LossOf,
    at: Tensors,
    along: Collection[str] | None = None,
    of: Collection[str] | None = None,
    *,
    state: Sequence[Tensor] = (),
    allow_unused: bool = False,
) -> Callable[[Tensors], dict[str, Tensor]]:
    """The Hessian at one point, from directions to products, by the graph of its gradient, which it keeps."""
    where, names = "make_product", tuple(at if along is None else along)
    rows = tuple(names if of is None else of)
    require_names(where, at, {name: at[name] for name in names if name in at}, (*rows, *names))
    product = _graph(where, loss, at, names, rows, state, allow_unused)

    def checked(v: Tensors) -> dict[str, Tensor]:
        if set(v) != set(names):
            raise invalid(where, f"v must have the names {sorted(names)}", sorted(v))
        require_names(where, at, v, ())
        return product(v, keep=True)

    return checked


def gauss_newton(
    outputs: LossOf,
    loss: Callable[[Tensor], Tensor],
    at: Tensors,
    v: Tensors,
    of: Collection[str] | None = None,
    *,
    state: Sequence[Tensor] = (),
    allow_unused: bool = False,
) -> dict[str, Tensor]:
    """The generalised Gauss-Newton matrix ``J^T (d2 loss / d outputs^2) J`` times ``v``: the Hessian without the
    curvature of the network, positive semidefinite where ``loss`` is convex (Schraudolph, 2002, doi
    10.1162/08997660260028683).

    Args:
        outputs: From named tensors to what the loss is taken of, such as logits ``[N, classes]``.
        loss: From outputs to a scalar.
        at: The point.
        v: See :func:`forward_over_reverse`.
        of: See :func:`forward_over_reverse`.
        state: See :func:`forward_over_reverse`.
        allow_unused: See :func:`forward_over_reverse`.

    Raises:
        ValueError: See :func:`forward_over_reverse`.
    """
    where, rows = "gauss_newton", select_rows(v, of)
    require_names(where, at, v, rows)
    with restore_state(state), refuse_inplace(where, "Use a Hessian product."), torch.enable_grad():
        with forward_ad.dual_level():
            point = {name: x.detach().requires_grad_(name in rows) for name, x in at.items()}
            leaves = {name: point[name] for name in rows}
            point |= {name: forward_ad.make_dual(point[name], x.detach().to(at[name])) for name, x in v.items()}
            primal, tangent = forward_ad.unpack_dual(outputs(point))
        if tangent is None:
            return fill_missing(at, rows, [None] * len(rows))
        result = primal.detach()
        bent = reverse_over_reverse(lambda o: loss(o["outputs"]), {"outputs": result}, {"outputs": tangent.detach()})
        weighted = (primal * bent["outputs"]).sum()
        return fill_missing(at, rows, gradients(where, weighted, leaves, allow_unused))


def average_products(
    losses: Iterable[LossOf],
    at: Tensors,
    v: Tensors,
    of: Collection[str] | None = None,
    *,
    product: Product = forward_over_reverse,
    sizes: Sequence[int] | None = None,
    state: Sequence[Tensor] = (),
    allow_unused: bool = False,
) -> dict[str, Tensor]:
    """The product with the Hessian of the mean of ``losses``, one after the other: memory does not grow with their
    number.

    Args:
        losses: A loss for each batch; drawn one at a time.
        at: The point.
        v: See :func:`forward_over_reverse`.
        of: See :func:`forward_over_reverse`.
        product: How each is computed.
        sizes: Examples of each batch, by which its loss counts; ``None`` for batches of one size.
        state: See :func:`forward_over_reverse`.
        allow_unused: See :func:`forward_over_reverse`.

    Raises:
        ValueError: If there is no loss; and see :func:`forward_over_reverse`.
    """
    total: dict[str, Tensor] = {}
    count = 0
    for number, loss in enumerate(losses):
        size = 1 if sizes is None else sizes[number]
        rows = product(loss, at, v, of, state=state, allow_unused=allow_unused)
        wide = {name: size * x.to(accumulator(x.dtype)) for name, x in rows.items()}
        total = {name: total[name] + x for name, x in wide.items()} if total else wide
        count += size
    if count <= 0:
        raise invalid("average_products", "losses must not be empty", "none")
    return {name: (x / count).to(at[name].dtype) for name, x in total.items()}


def _graph(
    where: str,
    loss: LossOf,
    at: Tensors,
    along: Sequence[str],
    rows: Sequence[str],
    state: Sequence[Tensor],
    allow_unused: bool,
) -> Callable[..., dict[str, Tensor]]:
    """The product from the graph of the gradient for ``along``."""
    remedy = "Use central_difference, as product=by_differences."
    with restore_state(state), copy_when_saved(state), refuse_inplace(where, remedy), torch.enable_grad():
        point = {name: x.detach().requires_grad_(name in along or name in rows) for name, x in at.items()}
        value = loss(point)
        firsts = gradients(where, value, {name: point[name] for name in along}, allow_unused, create_graph=True)
        known = {name: g for name, g in zip(along, firsts, strict=True) if g is not None and g.requires_grad}
        leaves = [point[name] for name in rows]

    def product(v: Tensors, keep: bool) -> dict[str, Tensor]:
        if not known:
            return fill_missing(at, rows, [None] * len(rows))
        directions = [v[name].detach().to(g) for name, g in known.items()]
        with refuse_inplace(where, remedy):
            found = torch.autograd.grad(list(known.values()), leaves, directions, retain_graph=keep, allow_unused=True)
        return fill_missing(at, rows, found)

    return product


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
    where, rows = "central_difference", select_rows(v, of)
    require_names(where, at, v, rows)
    if radius is not None and not radius > 0:
        raise invalid(where, "radius must be positive", radius)
    length = norm(v)
    if length == 0:
        return Difference(fill_missing(at, rows, [None] * len(rows)), 0.0, 0.0)
    eps = torch.finfo(next(iter(v.values())).dtype).eps
    own = eps ** (1 / 3) * max(1.0, norm({name: at[name] for name in v}))
    taken = own if radius is None else radius
    h = taken / length

    def gradient(shift: float) -> list[Tensor]:
        with restore_state(state), torch.enable_grad():
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


def by_differences(
    loss: LossOf,
    at: Tensors,
    v: Tensors,
    of: Collection[str] | None = None,
    *,
    state: Sequence[Tensor] = (),
    allow_unused: bool = False,
) -> dict[str, Tensor]:
    """The product of :func:`central_difference`, for ``product=`` where a loss can be differentiated once only.

    Arguments, result and errors are those of :func:`forward_over_reverse`.
    """
    return central_difference(loss, at, v, of, state=state, allow_unused=allow_unused).product
