"""What tests of several rooms share: quick methods, a small search ready for one step, and a sudden end."""

import json
from dataclasses import replace

import torch

from fastnas.data import Batch, load_data
from fastnas.engine.run import Run, build_stage, make_state
from fastnas.methods.library import METHODS
from fastnas.ranks import ALONE
from fastnas.spaces.cell_space import NASBENCH201
from fastnas.supernet.mix import Mix

CPU = torch.device("cpu")
DIGITS = load_data("digits")


class Killed(BaseException):
    """What ends a process, as a signal would."""


def without_seconds(history):
    """Records as text, so that not even the type of a number differs, without what no two runs share."""
    return json.dumps([{key: value for key, value in record.items() if key != "seconds"} for record in history])


def make_run(method, config, space=NASBENCH201, steps=4, ranks=ALONE):
    """A search of digits before its first step."""
    state = make_state(build_stage(space, method, DIGITS, config, 0), method, config, CPU)
    return Run(method, DIGITS, config, CPU, (torch.arange(2).numpy(),) * 2, steps, state, ranks)


def make_batches(dtype=torch.float32):
    """A batch for the weights and one for alpha."""
    images = torch.rand(2, 8, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return [Batch(half, torch.arange(8)) for half in images]


def quick_method(name, draws=2):
    """The method as it comes, but with fewer samples, and alpha in every step."""
    method = METHODS[name]()
    if name == "parsec":
        few = replace(method.hypergradient, draws=draws)
        method = replace(method, hypergradient=few, weight_average=few)
    if name == "proxyless_nas_r":
        method = replace(method, hypergradient=replace(method.hypergradient, draws=draws))
    if name.startswith("proxyless_nas"):
        method = replace(method, update_schedule=replace(method.update_schedule, alpha_every=1))
    if name == "spos":
        method = replace(method, choice=replace(method.choice, population=4, generations=2))
    return method


def uniform_mix(space, device=None):
    """Every candidate of every edge with the same coefficient: where a search begins."""

    def even(cell_type):
        alive = torch.tensor(space.alive(cell_type), dtype=torch.get_default_dtype(), device=device)
        return alive / alive.sum(-1, keepdim=True)

    return Mix({cell_type: even(cell_type) for cell_type in space.cell_types}, {})


def only_candidates(space, logits):
    """``logits`` with minus infinity where alpha's entry stands for no candidate of its edge.

    A softmax of them, at any temperature and with any Gumbel noise, gives such an entry the coefficient 0, and the
    gradient 0. Logits of spaces in which all edges have all primitives are returned as they are.
    """
    if space.rectangular:
        return logits

    def masked(name, x):
        kind, _, cell_type = name.partition(".")
        if kind != "alpha":
            return x
        return x.masked_fill(~torch.tensor(space.alive(cell_type), device=x.device), -torch.inf)

    return {name: masked(name, x) for name, x in logits.items()}
