"""What every hypergradient is asked about: two losses, how the inner one is descended on, and what may be random."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, distributed

from fastnas_kernels.check import invalid

Tensors = Mapping[str, Tensor]
Loss = Callable[[Tensors, Tensors, int], Tensor]
"""From ``(w, alpha, draw)`` to a loss; the integer chooses one of independent samples, and the same one each time."""


@dataclass(frozen=True)
class SgdStep:
    """The step that stochastic gradient descent would make, as a differentiable function of the gradient.

    Args:
        lr: Learning rate.
        momentum: Momentum.
        weight_decay: L2 penalty on every weight.
        nesterov: Look ahead along the momentum.
        buffers: The optimiser's momentum of each weight; a weight without one counts as zero.
    """

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    buffers: Tensors = field(default_factory=dict)

    def __call__(self, w: Tensors, gradients: Tensors) -> dict[str, Tensor]:
        """The weights after one step of ``torch.optim.SGD`` without clipping, ``w`` itself left alone."""
        return {name: p - self.lr * self._direction(name, p, gradients[name]) for name, p in w.items()}

    def next(self, w: Tensors, gradients: Tensors) -> "SgdStep":
        """The step after this one, of the same batch or another, with the momentum that this one leaves behind."""
        if self.momentum == 0:
            return self
        return replace(self, buffers={name: self._velocity(name, p, gradients[name])[1] for name, p in w.items()})

    def _direction(self, name: str, p: Tensor, gradient: Tensor) -> Tensor:
        gradient, velocity = self._velocity(name, p, gradient)
        return gradient + self.momentum * velocity if self.nesterov else velocity

    def _velocity(self, name: str, p: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gradient = gradient + self.weight_decay * p
        return gradient, self.momentum * self.buffers[name] + gradient if name in self.buffers else gradient


Average = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""From the tensors of this process to the means over all processes; called by all of them in the same order."""


def skip_average(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One process: nothing to average."""
    return dict(tensors)


@dataclass(frozen=True)
class OverProcesses:
    """The mean over the processes of a group, all tensors in one message.

    Every quantity that a hypergradient averages is linear in the loss: a gradient, a product with a Hessian. Averaged
    where it is first known, before anything nonlinear is done with it (a step, a solve, a norm), it gives every process
    what one process with all batches would have. The mean of losses is meant: batch normalisation by the statistics of
    each process's own images is another function than that of all images at once, in one process as in several.

    Args:
        group: Of ``torch.distributed``; ``None`` for all processes.
    """

    group: distributed.ProcessGroup | None = None

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        remedy = "Call torch.distributed.init_process_group first."
        if not distributed.is_initialized():
            raise invalid("OverProcesses", "the process group must be initialised", "none", remedy)
        if not tensors:
            return {}
        flat = torch.cat([x.detach().flatten() for x in tensors.values()])
        distributed.all_reduce(flat, group=self.group)
        parts = (flat / distributed.get_world_size(self.group)).split([x.numel() for x in tensors.values()])
        return {name: part.view(x.shape) for part, (name, x) in zip(parts, tensors.items(), strict=True)}


@dataclass(frozen=True)
class Bilevel:
    """min over ``alpha`` of ``outer(w*(alpha), alpha)``, where ``w*(alpha)`` minimises ``inner(w, alpha)``.

    Args:
        inner: Loss on the half that trains weights, from ``(w, alpha, draw)``.
        outer: Loss on the half that trains alpha, from ``(w, alpha, draw)``.
        inner_step: The step that the weights are about to make; what an unrolled hypergradient looks through.
        log_probability: Of a draw, from ``(alpha, draw)``, a scalar; ``None`` where nothing discrete is drawn.
        outer_size: Examples that the mean in ``outer`` is taken over.
        reward: The outer loss of a draw and its reward, from ``(w, alpha, draw)``; ``None`` where losses alone count.
        state: Tensors that evaluating a loss moves, such as statistics of batch normalisation; every hypergradient
            puts them back.
        average: The mean over processes, each of which has losses of its own; see :class:`OverProcesses`.
    """

    inner: Loss
    outer: Loss
    inner_step: SgdStep = SgdStep(0.0)
    log_probability: Callable[[Tensors, int], Tensor] | None = None
    outer_size: int = 1
    reward: Callable[[Tensors, Tensors, int], tuple[Tensor, Tensor]] | None = None
    state: Sequence[Tensor] = ()
    average: Average = skip_average


def detach_all(tensors: Tensors) -> dict[str, Tensor]:
    """The same values as constants."""
    return {name: x.detach() for name, x in tensors.items()}


def differentiate(loss: Tensor, variables: Tensors, *, create_graph: bool = False) -> dict[str, Tensor]:
    """The gradient of ``loss`` for each of ``variables``, zero for those that it does not depend on."""
    if not loss.requires_grad:  # nothing that was asked about took part, for example where only ``none`` was drawn
        return {name: torch.zeros_like(x) for name, x in variables.items()}
    grads = torch.autograd.grad(loss, list(variables.values()), allow_unused=True, create_graph=create_graph)
    pairs = zip(variables.items(), grads, strict=True)
    return {name: torch.zeros_like(x) if grad is None else grad for (name, x), grad in pairs}


@contextmanager
def restore_state(state: Sequence[Tensor] = ()) -> Generator[None, None, None]:
    """Put the random state, and ``state``, back to what they were, bit for bit, also if something raises.

    What begins inside begins from the same random numbers, so a loss with dropout that is evaluated twice, each time
    in a block of its own, is one function.

    Args:
        state: Tensors that an evaluation moves, for example ``tuple(network.buffers())``, the statistics of its
            batch normalisation.
    """
    before = [x.detach().clone() for x in state]
    devices = [x.device for x in state if x.device.type == "cuda"]
    devices += [torch.device("cuda", torch.cuda.current_device())] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(sorted({d.index for d in devices})):
        try:
            yield
        finally:
            with torch.no_grad():
                for x, old in zip(state, before, strict=True):
                    x.copy_(old)
