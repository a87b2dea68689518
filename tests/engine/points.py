"""Small searches in float64, ready for one step; also used by processes that tests start."""

from dataclasses import replace

import torch
from torch import nn

from fastnas.ranks import ALONE
from fastnas.spaces.cell_space import NASBENCH201
from fastnas.supernet.operations import NASBENCH201_OPERATIONS
from fastnas.training.config import SearchConfig
from tests import helpers

SPACE = replace(NASBENCH201, name="small", num_nodes=2, concat=(2,), operations=NASBENCH201_OPERATIONS)
"""Three edges instead of six: a fourth of the time where every variable is moved in turn."""
CONFIG = SearchConfig(channels=4, cells=1, epochs=6, warmup_epochs=0, batch_size=8, device="cpu")


def make_run(method, ranks=ALONE, **changes):
    config = replace(CONFIG, channels=8 if method.partial_channels > 1 else 4, **changes)
    run = helpers.make_run(method, config, SPACE, ranks=ranks)
    state = run.state
    state.supernet.double()
    for p in state.w.values():
        p.data = p.data.double()
    generator = torch.Generator().manual_seed(8)  # where no kink lies within a difference
    state.alpha = {
        name: nn.Parameter(a.detach().double() + torch.rand(a.shape, generator=generator).double() / 2)
        for name, a in state.alpha.items()
    }
    state.alpha_optimizer = torch.optim.SGD(state.alpha.values(), 1.0)
    for group in state.weight_optimizer.param_groups:
        group["lr"] = 0.1
    return run


def make_batches():
    return helpers.make_batches(torch.float64)
