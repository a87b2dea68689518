"""Evaluate a function as often as needed, and leave no trace of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def undisturbed(state: Sequence[Tensor] = ()) -> Iterator[None]:
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
