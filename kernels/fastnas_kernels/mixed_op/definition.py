"""A cell's definition in plain PyTorch behind the arguments of the kernels, and its derivatives of any order.

Shape suffixes: I input states, N H W images and pixels, S channels of a state, D channels of all nodes.
"""

from collections.abc import Callable, Sequence
from itertools import compress

import torch
from torch import Tensor

from fastnas_kernels.mixed_op.plan import CellPlan
from fastnas_kernels.mixed_op.reference import reference_cell
from fastnas_kernels.precision import accumulator


def nodes_of(
    plan: CellPlan, statistics: Tensor | None, inputs_INHWS: Tensor, mix: Tensor, edge_mix: Tensor, *weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The nodes ``[N, H', W', D]`` and their statistics, calculated in the precision of the kernels."""
    exact = accumulator(inputs_INHWS.dtype)
    states = [state.permute(0, 3, 1, 2).to(exact) for state in inputs_INHWS]
    filters = [weight.to(exact) for weight in weights]
    edges = edge_mix if plan.k > 1 else None
    nodes, noted = reference_cell(states, filters, mix, edges, plan, statistics)
    return nodes.permute(0, 2, 3, 1).to(inputs_INHWS.dtype), noted


def spread(found: Sequence, needed: Sequence[bool]) -> list:
    """Each in the place of one that is needed, ``None`` in the others."""
    rest = iter(found)
    return [next(rest) if need else None for need in needed]


def gradients_of(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    x: Sequence[Tensor],
    needed: Sequence[bool],
    *cotangents: Tensor | None,
) -> list[Tensor]:
    """What ``cotangents`` of the results of ``function`` pull back to those of ``x`` that are needed, itself
    differentiable; zeros where nothing arrives. ``None`` stands for a cotangent of zeros."""

    def of_needed(*chosen: Tensor) -> tuple[Tensor, ...]:
        rest = iter(chosen)
        found = function(*(next(rest) if need else v for v, need in zip(x, needed, strict=True)))
        found = found if isinstance(found, tuple) else (found,)
        return tuple(compress(found, (c is not None for c in cotangents)))

    chosen, given = list(compress(x, needed)), tuple(c for c in cotangents if c is not None)
    wrapped = any(torch._C._functorch.is_functorch_wrapped_tensor(v) for v in (*chosen, *given))  # type: ignore[attr-defined]
    if torch.is_grad_enabled() and not wrapped:  # hooks on what graphs keep do not go with the transforms of torch.func
        own = [v.view_as(v) for v in chosen]  # a state may depend on a weight, whose gradient is that of the cell alone
        return list(
            torch.autograd.grad(
                of_needed(*own), own, given, create_graph=True, allow_unused=True, materialize_grads=True
            )
        )
    _, pull = torch.func.vjp(of_needed, *chosen)  # type: ignore[misc]
    return list(pull(given))


def tangent_of(
    function: Callable[..., Tensor | tuple[Tensor, ...]], x: Sequence[Tensor], u: Sequence[Tensor | None]
) -> tuple:
    """The results of ``function`` at ``x`` and their derivatives along ``u``, in which ``None`` stands for zeros.

    Twice backward is once forward: the gradient is linear in what it is given, and the derivative of a linear function
    is the function. Dual numbers within dual numbers would need nested forward mode instead.
    """
    along = tuple(torch.zeros_like(v) if t is None else t for v, t in zip(x, u, strict=True))
    results, pull = torch.func.vjp(function, *x)  # type: ignore[misc]
    zeros = tuple(map(torch.zeros_like, results)) if isinstance(results, tuple) else torch.zeros_like(results)
    _, push = torch.func.vjp(pull, zeros)  # type: ignore[misc]
    return results, push(along)[0]
