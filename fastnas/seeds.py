"""Randomness enters fastnas as integers: one seed, and from it one independent stream for each consumer."""

import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import overload

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


class EpochSeeds:
    """The seeds of all steps of an epoch, where a graph of a step finds them: a table on the device for each consumer.

    Args:
        steps: Of the epoch.
        device: Where draws are made.
    """

    def __init__(self, steps: range, device: torch.device) -> None:
        self.steps, self.row = steps, torch.zeros(1, dtype=torch.int64, device=device)
        self.numbers: dict[Path, list[int]] = {}
        self.tables: dict[Path, torch.Tensor] = {}

    def start(self, step: int) -> None:
        """From here on seeds are those of ``step``: a fill on the device, and no transfer."""
        self.row.fill_(step - self.steps.start)

    def stream(self, seed: int, consumer: str) -> "StepSeed":
        """``stream(seed, consumer, step)`` for the step that is made."""
        path = ((consumer, (seed,)),)
        self.numbers.setdefault(path, [stream(seed, consumer, step) for step in self.steps])
        return StepSeed(self, path)


@dataclass(frozen=True)
class StepSeed:
    """A seed that the step decides: what stands in a graph in place of an integer."""

    epoch: EpochSeeds
    path: "Path"

    def stream(self, consumer: str, *position: int) -> "StepSeed":
        """:func:`stream` of it."""
        path, numbers = (*self.path, (consumer, position)), self.epoch.numbers
        if path not in numbers:
            numbers[path] = [stream(number, consumer, *position) for number in numbers[self.path]]
        return StepSeed(self.epoch, path)

    @property
    def on_device(self) -> torch.Tensor:
        """The seed of the step, 0-d; its table is made when it is first asked for."""
        tables, row = self.epoch.tables, self.epoch.row
        if self.path not in tables:
            tables[self.path] = torch.tensor(self.epoch.numbers[self.path]).to(row.device)
        return tables[self.path].index_select(0, row).squeeze(0)


Seed = int | StepSeed
Path = tuple[tuple[str, tuple[int, ...]], ...]
"""Consumers and positions of nested streams."""


@overload
def stream(seed: int, consumer: str, *position: int) -> int: ...


@overload
def stream(seed: StepSeed, consumer: str, *position: int) -> StepSeed: ...


def stream(seed: Seed, consumer: str, *position: int) -> Seed:
    """The seed of one consumer of randomness at one position of its stream.

    Streams of different consumers, and of different positions, are independent, so that a search with one
    consumer more or less (a perturbation of radius 0, say) is bit-identical for all the others.

    Args:
        seed: The seed of the run, non-negative.
        consumer: Who draws, for example ``"weights"`` or ``"augmentation"``.
        position: Where in its stream, for example ``(epoch, index)``.

    Returns:
        A seed in ``[0, 2**63)``, or what stands for one in a graph where ``seed`` does.
    """
    if isinstance(seed, StepSeed):
        return seed.stream(consumer, *position)
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
