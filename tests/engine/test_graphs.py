"""Steps as graphs: what can be captured and why the rest cannot, on the CPU, by lists of operations."""

import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch

from fastnas.data import Batch
from fastnas.engine.graphs import StepGraphs, find_obstacle
from fastnas.engine.step import search_step
from fastnas.mechanisms.schedules import Constant
from fastnas.methods.library import METHODS, darts, pc_darts
from fastnas.methods.method import Term
from fastnas_kernels.gumbel import derivative as gumbel
from fastnas_kernels.mixed_op import cell
from tests.engine.capturing import Watched, simulated_capture
from tests.engine.points import make_run
from tests.helpers import quick_method


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    """Values that only a CPU looks at are not looked at."""
    monkeypatch.setattr(cell, "_can_be_read", lambda tensor: False)
    monkeypatch.setattr(gumbel, "_require_values", lambda *given: None)
    monkeypatch.setenv("FASTNAS_BACKEND", "reference")


REPLAYED = ("darts", "darts_2nd", "asap", "dso_nas", "pc_darts", "gaea", "darts_minus", "single_darts")
"""What differs from them in rates, controls and derivations alone steps alike."""


def batches(step):
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(2, 8, 1, 8, 8, generator=generator, dtype=torch.float64)
    return [Batch(half, torch.randint(10, (8,), generator=generator)) for half in images]


def obstacles(run):
    """What keeps a step from being captured: transfers, and where the second step differs from the third."""
    seen = []
    for step in range(3):
        pair = batches(step)
        with Watched() as watched:
            search_step(run, *pair)
        seen.append(watched)
    found = set(seen[1].transfers | seen[2].transfers)
    if seen[1].operations != seen[2].operations:
        found.add("operations differ between two steps")
    return found


def make(method):
    """A search at a size that is quick, ten steps an epoch."""
    return replace(make_run(method), steps=10)


def take(step, count):
    """So many steps, on the same batches every time."""
    for number in range(count):
        step(*batches(number))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_captured_or_says_why_not(name):
    run = make(quick_method(name))
    found = obstacles(run)
    assert bool(found) == (find_obstacle(run) is not None), found


@pytest.mark.parametrize("rate", ["drop_path", "skip_dropout"])
def test_what_is_dropped_at_random_is_not_captured(rate):
    run = make(replace(darts(), **{rate: Constant(0.2)}))
    assert find_obstacle(run)
    assert any("a generator" in found for found in obstacles(run))


@pytest.mark.parametrize("name", REPLAYED)
def test_replays_are_the_steps_bit_for_bit(name):
    """The products of second order differ in the last bit where memory is aligned otherwise."""
    plain, captured = (make(quick_method(name)) for _ in range(2))
    graphs = StepGraphs(captured, simulated_capture)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        take(partial(search_step, plain), 5)
        take(graphs, 5)
    assert graphs.replays == 2
    apart = 1e-14 if name == "darts_2nd" else 0
    for part in ("w", "alpha"):
        ours, theirs = getattr(plain.state, part), getattr(captured.state, part)
        assert all((ours[key] - theirs[key]).abs().max() <= apart for key in ours)
    a, b = plain.state.losses, captured.state.losses
    assert (a.correct, a.seen, len(a.outer)) == (b.correct, b.seen, len(b.outer))
    assert all((x - y).abs() <= 10 * apart for x, y in zip(a.inner + a.outer, b.inner + b.outer, strict=True))


def test_a_number_of_the_host_is_found_before_anything_relies_on_a_replay():
    seeds = iter(range(1000))

    def penalty(mix):
        scale = next(seeds) % 7
        return sum((x.square() * scale).sum() for x in mix.values())

    run = make(replace(darts(), penalties=(Term(penalty, Constant(1.0)),)))
    graphs = StepGraphs(run, simulated_capture)
    with pytest.warns(RuntimeWarning, match="decided by the host"):
        take(graphs, 4)
    assert (graphs.works, graphs.replays, run.state.step) == (False, 0, 4)


def test_what_cannot_be_captured_runs_without_and_loses_nothing():
    def fails(work):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    plain, run = (make(darts()) for _ in range(2))
    graphs = StepGraphs(run, fails)
    with pytest.warns(RuntimeWarning, match="not permitted when stream is capturing. It runs without"):
        take(graphs, 3)
    take(partial(search_step, plain), 3)
    assert all(torch.equal(plain.state.w[name], w) for name, w in run.state.w.items())
    assert len(run.state.losses.inner) == 3


def test_every_epoch_is_captured_anew():
    run = replace(make_run(pc_darts()), steps=4)
    graphs, captured = StepGraphs(run, lambda work: captured.append(work) or simulated_capture(work)), []
    take(graphs, 8)
    assert len(captured) == 2
    assert graphs.replays == 1 + 3
