"""Which methods a search on a GPU captures in graphs, and what a step of each transfers.

    python -m tests.engine.captured

A step runs on the CPU by the definition of the kernels, in a small space of DARTS's candidates, and what it asks of the
host is counted: values that are read, and tensors that are made of the host's numbers. What the count of Adam reads
stays out: on a GPU it lies on the device.
"""

import os
from collections import Counter

import torch

from fastnas.data import Batch
from fastnas.engine import drawn
from fastnas.engine.graphs import find_obstacle
from fastnas.engine.step import search_step
from fastnas.methods.library import METHODS
from fastnas.seeds import EpochSeeds
from fastnas_audit.interpreter import replaced
from fastnas_kernels.gumbel import derivative as gumbel
from fastnas_kernels.mixed_op import cell
from tests import helpers
from tests.engine.capturing import Watched
from tests.engine.test_drawn import CONFIG, SPACE


def transfers(name: str, on_device: bool) -> tuple[Counter, str | None]:
    """Of the second step, by their places, and why it is not captured."""
    with replaced(drawn, _are_served=lambda device: on_device):
        run = helpers.make_run(helpers.quick_method(name), CONFIG, SPACE, steps=10)
        run.state.alpha_optimizer = torch.optim.SGD(run.state.alpha.values(), 0.1)
        why = find_obstacle(run)
        run.state.seeds = EpochSeeds(range(10), run.device) if why is None else None
        for step in range(2):
            images = torch.rand(2, 8, 1, 8, 8, generator=torch.Generator().manual_seed(step))
            with Watched() as watched:
                if run.state.seeds is not None:
                    run.state.seeds.start(step)
                search_step(run, *(Batch(half, torch.arange(8)) for half in images))
    return watched.transfers, why


def main() -> None:
    os.environ["FASTNAS_BACKEND"] = "reference"
    with replaced(cell, _can_be_read=lambda tensor: False), replaced(gumbel, _require_values=lambda *given: None):
        print("| method | transfers a step, draws read | draws on the device | a graph, or why not |")
        print("| --- | ---: | ---: | --- |")
        for name in METHODS:
            before, _ = transfers(name, False)
            after, why = transfers(name, True)
            print(f"| {name} | {before.total()} | {after.total()} | {why or 'captured'} |", flush=True)


if __name__ == "__main__":
    main()
