"""Is a cell with sampled rows, one candidate an edge, faster after `fastnas.accelerate` than its own forward?

The cell skips candidates whose coefficient is zero, as codes that sample do, and gets other rows at every step. Prints
the median of forward and backward on one core, in seconds that the processor worked.
"""

from copy import deepcopy
from dataclasses import dataclass
from statistics import median
from time import process_time

import torch
import tyro
from torch import Tensor, nn

import fastnas

EDGES, CANDIDATES = 14, 8


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """The cells to time.

    Args:
        channels: Of every state.
        runs: Steps, each with rows of its own.
    """

    channels: int = 16
    runs: int = 12


class Edge(nn.Module):
    """Only candidates whose coefficient is not zero run."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.paths = fastnas.MixedOp(channels, 1)._ops

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(w * path(x) for w, path in zip(weights, self.paths, strict=True) if w != 0)  # type: ignore[return-value]


class Cell(nn.Module):
    """Four nodes, each of which reads all earlier states."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 1) for _ in range(2))
        self.edges = nn.ModuleList(Edge(channels) for _ in range(EDGES))

    def forward(self, s0: Tensor, s1: Tensor, table: Tensor) -> Tensor:
        states, row = [self.first(s0), self.second(s1)], 0
        for _ in range(4):
            terms = [self.edges[row + i](state, table[row + i]) for i, state in enumerate(states)]
            row += len(states)
            states.append(sum(terms))  # type: ignore[arg-type]
        return torch.cat(states[2:], 1)


def rows(number: int) -> Tensor:
    """One-hot rows; the candidate that contributes nothing is none of them."""
    generator = torch.Generator().manual_seed(number)
    chosen = torch.randint(1, CANDIDATES, (EDGES, 1), generator=generator)
    return torch.zeros(EDGES, CANDIDATES).scatter_(1, chosen, 1.0).requires_grad_()


def seconds(cell: nn.Module, x: Tensor, table: Tensor) -> float:
    """Of one forward and backward pass."""
    started = process_time()
    torch.autograd.grad(cell(x, x, table).square().sum(), [table, *cell.parameters()], allow_unused=True)
    return process_time() - started


def main(settings: Sampled) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    own = Cell(settings.channels)
    fast = deepcopy(own)
    report = fastnas.accelerate(fast)
    print(f"{report}\n\n| images | own forward, ms | accelerated, ms | faster |\n| --- | ---: | ---: | ---: |")
    for batch, size in ((8, 32), (4, 16), (2, 8)):
        x = torch.randn(batch, settings.channels, size, size)
        times = [[seconds(cell, x, rows(run)) for cell in (own, fast)] for run in range(settings.runs + 1)][1:]
        before, after = (median(column) for column in zip(*times, strict=True))
        print(
            f"| {batch} of {size}x{size} | {1e3 * before:.1f} | {1e3 * after:.1f} | {before / after:.2f} |", flush=True
        )


if __name__ == "__main__":
    main(tyro.cli(Sampled))
