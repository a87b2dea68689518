"""How good is the second-order gradient of alpha that DARTS approximates by a difference, and what does it cost?

Trains a supernet on the digits for some steps of first-order DARTS, and then compares, on one pair of batches, the
first-order gradient and central differences of several step lengths with the exact gradient of the unrolled objective:
cosine, relative error, and seconds (median of interleaved runs).
"""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import torch
import tyro
from torch import Tensor

from fastnas.bilevel.hypergradient import Hypergradient, UnrolledByDifferences, first_order, unrolled
from fastnas.methods import darts
from fastnas.search import Run, alpha_problem, fresh_state, search_step, stage_supernet
from fastnas.space.cell_space import space_named
from fastnas.train.config import SearchConfig
from fastnas.train.data import evaluation_batches, load_data

RADII = (0.1, 0.01, 0.001)
PAIRS = 8  # batches that each half cycles through


@dataclass(frozen=True, kw_only=True)
class SecondOrder:
    """What to measure.

    Args:
        space: darts or nasbench201.
        channels: Channels of the first cells.
        cells: Depth.
        batch_size: Images.
        steps: Steps of training before the comparison.
        repeats: Timed runs of each gradient.
    """

    space: str = "darts"
    channels: int = 8
    cells: int = 4
    batch_size: int = 64
    steps: int = 10
    repeats: int = 3


def main(options: SecondOrder) -> None:
    """Train, compare, print."""
    config = SearchConfig(
        channels=options.channels, cells=options.cells, weight_lr=0.025, device="cpu", warmup_epochs=0
    )
    data, method, cpu = load_data("digits"), darts(), torch.device("cpu")
    supernet = stage_supernet(space_named(options.space), method, data, config, 0)
    state = fresh_state(supernet, method, config, cpu)
    order = np.random.default_rng(0).permutation(len(data.train.labels))
    run = Run(method, data, config, cpu, (order, order), 10**6, state)
    batches = list(evaluation_batches(data, data.train, order, batch_size=options.batch_size, workers=0))[: 2 * PAIRS]
    for step in range(options.steps):
        search_step(run, batches[step % PAIRS], batches[PAIRS + step % PAIRS])
    problem = alpha_problem(run, batches[0], batches[-1])

    def gradient(hypergradient: Hypergradient) -> Callable[[], Tensor]:
        return lambda: torch.cat([g.flatten() for g in hypergradient(problem, state.w, state.alpha)[1].values()])

    contenders = {"exact": gradient(unrolled), "first order": gradient(first_order)}
    contenders |= {f"difference of radius {radius}": gradient(UnrolledByDifferences(radius)) for radius in RADII}
    seconds = {name: [] for name in contenders}
    found = {}
    for _ in range(options.repeats):
        for name, compute in contenders.items():
            started = perf_counter()
            found[name] = compute()
            seconds[name].append(perf_counter() - started)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    print(f"{options}\ntorch {torch.__version__}, {torch.get_num_threads()} threads, commit {commit.strip()}\n")
    print("| gradient of alpha | cosine to the exact one | relative error | seconds |\n| --- | --- | --- | --- |")
    exact = found["exact"]
    for name, g in found.items():
        cosine, error = torch.cosine_similarity(g, exact, dim=0), (g - exact).norm() / exact.norm()
        print(f"| {name} | {cosine:.3f} | {error:.3f} | {median(seconds[name]):.2f} |")


if __name__ == "__main__":
    main(tyro.cli(SecondOrder, description=__doc__))
