"""Sums over processes as differentiable functions, exact to any order.

Each process computes a loss on its own part of a batch. What is asked for is the derivative of the mean of these
losses, of first or of second order. Two functions are enough for all of them: the identity, whose gradient is averaged
(for what every process holds alike), and the sum, whose gradient is summed (for what depends on all parts). Each is
linear and the other end of its own derivative is again one of the two, so they may be differentiated any number of
times, in reverse and in forward mode.

All processes must call them in the same order, which they do where they build the same graph.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from fastnas_kernels.check import complaint


def reduced(tensors: Sequence[Tensor], divisor: int = 1) -> list[Tensor]:
    """The sums over all processes divided by ``divisor``, bit-equal in all of them; one transfer for each dtype.

    Raises:
        ConnectionError: If another process is gone.
    """
    found: dict[int, Tensor] = {}
    for dtype in dict.fromkeys(x.dtype for x in tensors):
        places = [i for i, x in enumerate(tensors) if x.dtype == dtype]
        flat = torch.cat([tensors[i].detach().reshape(-1) for i in places])
        try:
            dist.all_reduce(flat)
        except RuntimeError as error:
            raise ConnectionError(complaint("collectives", "all processes must be there", error)) from None
        parts = flat.div_(divisor).split([tensors[i].numel() for i in places])
        found |= {i: part.view(tensors[i].shape) for i, part in zip(places, parts, strict=True)}
    return [found[i] for i in range(len(tensors))]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(divisor: int, *xs: Tensor) -> tuple[Tensor, ...]:
        return tuple(reduced(xs, divisor))

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.divisor = inputs[0]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *gs: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, *_where_given(_Sum, ctx.divisor, gs))

    @staticmethod
    def jvp(ctx, _: None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(_where_given(_Sum, ctx.divisor, tangents))


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(divisor: int, *xs: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for x in xs)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.divisor = inputs[0]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *gs: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, *_where_given(_Sum, ctx.divisor, gs))

    @staticmethod
    def jvp(ctx, _: None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if t is None else t.view_as(t) for t in tangents)


def _where_given(function: type[torch.autograd.Function], divisor: int, xs: Sequence[Tensor | None]) -> list:
    """``function`` of those of ``xs`` that are there, in their places: all processes lack the same."""
    given = [x for x in xs if x is not None]
    results = iter(function.apply(divisor, *given) if given else ())
    return [None if x is None else next(results) for x in xs]


def shared(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors themselves, which every process holds alike; their gradients are the means over the processes.

    Those that need no gradient pass by.
    """
    needed = [x for x in tensors if x.requires_grad]
    if not needed:
        return list(tensors)
    averaged = iter(_Shared.apply(dist.get_world_size(), *needed))  # type: ignore[arg-type]
    return [next(averaged) if x.requires_grad else x for x in tensors]


def summed(tensor: Tensor, divisor: int = 1) -> Tensor:
    """The sum over the processes of a tensor that each computes from its own part, divided by ``divisor``.

    Its gradient is summed over the processes likewise: each holds a part of what the tensor is used for.
    """
    return _Sum.apply(divisor, tensor)[0]  # type: ignore[index]


class _Averaged(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return reduced([x], dist.get_world_size())[0]

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return g

    @staticmethod
    def jvp(ctx, t: Tensor) -> Tensor:
        return _Sum.apply(dist.get_world_size(), t)[0]  # type: ignore[index]


def averaged_loss(loss: Tensor) -> Tensor:
    """The mean over the processes of a loss that each computes on its own part of a batch.

    In reverse mode its gradient is that of this process's loss: the mean over the processes is taken where the
    gradient arrives, once, by :func:`shared`. In forward mode nothing arrives, and the tangent is averaged here.
    """
    return _Averaged.apply(loss)  # type: ignore[return-value]
