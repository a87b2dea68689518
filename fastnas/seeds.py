"""Randomness enters fastnas as integers: one seed, and from it one independent stream for each consumer."""

import zlib
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch

_MKL = ("sqrt", "sin", "cos", "exp", "expm1", "log", "log1p", "log2", "log10", "tan", "tanh", "asin", "acos", "atan",
        "sinh", "cosh", "erf", "erfc", "erfinv", "ceil", "floor", "round", "trunc")  # fmt: skip


def _settle_mkl() -> None:
    """Let MKL choose its code for every function before two threads ask for it.

    MKL 2024.2, which is in PyTorch's packages, chooses when a function is first called. If several threads make that
    call at once, one of them may run code of half the digits, once a process (pytorch/pytorch issue 188792): a proof in
    float64 then fails, and a run does not repeat.
    """
    for dtype in (torch.float32, torch.float64):
        one = torch.ones(1, dtype=dtype)
        for name in _MKL:
            getattr(torch, name)(one)


_settle_mkl()


def stream(seed: int, consumer: str, *position: int) -> int:
    """The seed of one consumer of randomness at one position of its stream.

    Streams of different consumers, and of different positions, are independent, so that a search with one
    consumer more or less (a perturbation of radius 0, say) is bit-identical for all the others.

    Args:
        seed: The seed of the run, non-negative.
        consumer: Who draws, for example ``"weights"`` or ``"augmentation"``.
        position: Where in its stream, for example ``(epoch, index)``.

    Returns:
        A seed in ``[0, 2**63)``.
    """
    entropy = [seed, zlib.crc32(consumer.encode()), *position]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def torch_seed(seed: int) -> Generator[None, None, None]:
    """Seed torch's generator of the CPU inside the block and leave it as it was found."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
