"""Steps whose draws stay on the device are the steps of a host that reads them, and nothing in them waits."""

import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch

from fastnas.data import Batch
from fastnas.engine import drawn
from fastnas.engine.drawn import find_reader, stays_on_device
from fastnas.engine.graphs import StepGraphs, find_obstacle
from fastnas.engine.step import search_step
from fastnas.mechanisms.draw import gumbel_all, gumbel_selected_with_scalars
from fastnas.mechanisms.schedules import Constant
from fastnas.mechanisms.update_schedule import UpdateSchedule
from fastnas.methods.library import darts, gdas
from fastnas.spaces.cell_space import DARTS, NASBENCH201
from fastnas.training.config import SearchConfig
from fastnas_kernels.gumbel import derivative as gumbel
from fastnas_kernels.mixed_op import cell
from tests import helpers
from tests.engine.capturing import Watched, simulated_capture

SPACE = replace(
    DARTS, name="small", num_nodes=2, concat=(2, 3), primitives=("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")
)
CONFIG = SearchConfig(channels=4, cells=3, epochs=6, warmup_epochs=0, batch_size=8, device="cpu")
SAMPLED = ("gdas", "parsec", "proxyless_nas", "nasp")
"""What others draw, one of these draws, too."""
EXACT = 1e-13
"""In float64, after four steps: all that differs are sums over the zeros of what was not drawn."""


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    """What decides on the device is the definition of the kernels, and values are not looked at."""
    monkeypatch.setattr(cell, "_can_be_read", lambda tensor: False)
    monkeypatch.setattr(gumbel, "_require_values", lambda *given: None)
    monkeypatch.setenv("FASTNAS_BACKEND", "reference")


def make(method, space=SPACE):
    run = helpers.make_run(method, CONFIG, space, steps=10)
    run.state.supernet.double()
    run.state.alpha_optimizer = torch.optim.SGD(run.state.alpha.values(), 0.5)  # Adam's count lies on a GPU there
    return run


def batches(step):
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(2, 8, 1, 8, 8, generator=generator, dtype=torch.float64)
    return [Batch(half, torch.randint(10, (8,), generator=generator)) for half in images]


def steps(monkeypatch, run, served, count, step=None):
    """``run`` after some steps."""
    monkeypatch.setattr(drawn, "_are_served", lambda device: served)
    for number in range(count):
        (partial(search_step, run) if step is None else step)(*batches(number))
    return run.state


@pytest.mark.parametrize("name", SAMPLED)
def test_replays_whose_draws_stay_on_the_device_are_the_steps_of_a_host_that_reads_them(monkeypatch, name):
    method, watched = helpers.quick_method(name), Watched()

    def capture(work):
        def watching():
            with watched:
                work()

        return simulated_capture(watching)

    read = steps(monkeypatch, make(method), False, 4)
    run = make(method)
    graphs = StepGraphs(run, capture)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        stays = steps(monkeypatch, run, True, 4, graphs)
    assert find_obstacle(run) is None
    assert graphs.replays == 1
    assert not watched.transfers
    assert all(torch.equal(a, stays.alpha[key]) for key, a in read.alpha.items())
    assert max((w - stays.w[key]).abs().max() for key, w in read.w.items()) <= EXACT


def test_a_step_of_a_host_that_reads_draws_is_seen_to(monkeypatch):
    run = make(gdas())
    steps(monkeypatch, run, False, 1)
    with Watched() as watched:
        search_step(run, *batches(1))
    assert any("tolist in engine/coefficients.py" in place for place in watched.transfers)
    assert "the host reads every draw" in (find_obstacle(run) or "")


def test_what_was_not_drawn_keeps_its_momentum(monkeypatch):
    run = make(helpers.quick_method("spos"))
    before = {name: w.clone() for name, w in steps(monkeypatch, run, True, 1).w.items()}
    search_step(run, *batches(1))
    momentum = {name: run.state.weight_optimizer.state[w]["momentum_buffer"] for name, w in run.state.w.items()}
    still = [name for name, w in run.state.w.items() if torch.equal(w, before[name])]
    assert any(momentum[name].any() for name in still)  # drawn in the first step, not in the second
    assert 0 < len(still) < len(before)


@pytest.mark.parametrize(
    ("method", "space", "why"),
    [
        (gdas(), NASBENCH201, "candidates that no kernel knows"),
        (gdas(form=gumbel_selected_with_scalars), SPACE, "gradient of every scalar"),
        (replace(gdas(), drop_path=Constant(0.1)), SPACE, "dropped by PyTorch"),
        (replace(gdas(), update_schedule=UpdateSchedule(joint=True)), SPACE, "of no published draw"),
    ],
)
def test_where_the_host_reads_draws_it_says_why(monkeypatch, method, space, why):
    monkeypatch.setattr(drawn, "_are_served", lambda device: True)
    run = make(method, space)
    noise = method.drop_path(run.at) > 0
    assert why in (find_reader(run.state.supernet, method, run.device, noise) or "")
    assert not run.sampler("weights").on_device


def test_where_nothing_is_turned_off_nothing_is_drawn_on_the_device(monkeypatch):
    monkeypatch.setattr(drawn, "_are_served", lambda device: True)
    assert not stays_on_device(make(darts()).state.supernet, darts(), helpers.CPU, False)
    mix = make(gdas(form=gumbel_all)).sampler("alpha")(make(gdas()).state.alpha).mix
    assert not mix.drawn
