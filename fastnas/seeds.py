"""Randomness enters fastnas as integers: one seed, and from it one independent stream for each consumer."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


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
def torch_seed(seed: int) -> Iterator[None]:
    """Seed torch's generator of the CPU inside the block and leave it as it was found."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
