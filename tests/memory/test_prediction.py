"""What is predicted without memory against what the same step takes on real tensors."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from fastnas.bilevel.hypergradient import Unrolled
from fastnas.bilevel.products import reverse_over_reverse
from fastnas.data import placeholder_data
from fastnas.memory.prediction import measure, measure_peaks, predict, predict_typical
from fastnas.memory.scene import Setup, build_scene, list_moments
from fastnas.memory.tracker import KEPT, SECOND, WORKSPACE, Tracker
from fastnas.methods.library import (
    METHODS,
    darts,
    darts_2nd,
    gdas,
    p_darts,
    pc_darts,
    proxyless_nas,
    robust_darts_ada,
    snas,
)
from fastnas.spaces.cell_space import S2
from fastnas.spaces.chain_space import PROXYLESS, proxyless
from fastnas.training.config import SearchConfig
from fastnas_kernels.backend import are_cells_as_on_a_gpu
from tests.engine.points import SPACE

DIGITS = placeholder_data("digits")
CELLS = replace(S2, num_nodes=1, concat=(2,))
"""Two cell types of two edges with two candidates: little to run."""
TINY = SearchConfig(channels=4, cells=1, epochs=6, batch_size=8, device="cpu")
ROUNDING = 2e-3
"""Between the two: a loss and an accuracy, which are a few bytes, and alpha's gradients."""


def setup_for(method, space=SPACE, **changes):
    config = replace(TINY, **{"channels": 8 if method.partial_channels > 1 else 4, **changes})
    return Setup(proxyless(1) if space is PROXYLESS else space, method, DIGITS, config)


CASES = {
    "darts": setup_for(darts()),
    "second order": setup_for(darts_2nd(), CELLS, cells=3),
    "one path": setup_for(gdas()),
    "two paths": setup_for(proxyless_nas(), PROXYLESS),
    "both at once": setup_for(snas()),
    "partial channels": setup_for(pc_darts(), CELLS, cells=3),
    "cells": setup_for(darts(), CELLS, cells=3),
    "bfloat16": setup_for(darts(), precision="bfloat16"),
    "edges": setup_for(darts(), CELLS, cells=3, recompute=("edges",)),
    "joined": setup_for(darts(), CELLS, cells=3, recompute=("cell", "joined", "edges", "none")),
    "dropped paths": setup_for(METHODS["robust_darts_dp"](), CELLS, cells=3),
}


LONG = ("second order", "two paths", "dropped paths", "joined")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in CASES])
def test_the_prediction_is_what_is_measured(name):
    predicted, measured = predict(CASES[name]), measure(CASES[name])
    assert predicted.phases.keys() == measured.phases.keys()
    for phase, peak in measured.phases.items():
        assert predicted.phases[phase].num_bytes == pytest.approx(peak.num_bytes, rel=ROUNDING)


@pytest.mark.slow
def test_tangents_of_bfloat16_are_bfloat16_where_operations_are_followed():
    scene = build_scene(setup_for(darts_2nd(), CELLS, cells=3, precision="bfloat16"), list_moments(CASES["darts"])[0])
    norm = next(m for m in scene.run.state.supernet.modules() if isinstance(m, nn.BatchNorm2d) and m.affine)
    with Tracker(), forward_ad.dual_level():
        x = torch.randn(2, norm.num_features, 4, 4).bfloat16()
        y = norm(forward_ad.make_dual(x, torch.ones_like(x)))
        assert forward_ad.unpack_dual(y).tangent.dtype == torch.bfloat16


def test_every_stage_is_predicted():
    phases = predict(setup_for(p_darts(), CELLS, cells=3, epochs=3)).phases
    assert set(phases) == {f"{what} step, stage {n}" for what in ("alpha", "weight") for n in (1, 2, 3)}


def test_what_a_roll_back_returns_to_is_counted():
    method = replace(robust_darts_ada(), hypergradient=darts().hypergradient)  # which is nothing to what is kept
    causes = predict(setup_for(method, CELLS, cells=3)).phases["weight step"].causes
    copies = method.control.keeps + 1
    assert causes["snapshots to return to"] >= copies * (causes["weights"] + causes["optimiser states"])


def test_causes_add_up_and_only_second_order_has_a_second_graph():
    twice = replace(darts_2nd(), hypergradient=Unrolled(product=reverse_over_reverse))
    first, second = (predict(setup_for(m, CELLS, cells=3)).phases["alpha step"] for m in (darts(), twice))
    for peak in (first, second):
        assert sum(peak.causes.values()) == peak.num_bytes
        assert peak.causes[KEPT] > 0
    assert SECOND in second.causes
    assert SECOND not in first.causes


@pytest.mark.slow
def test_what_a_method_draws_never_takes_more_than_predicted():
    setup = setup_for(gdas())
    predicted = predict(setup).peak.num_bytes
    peaks = []
    for seed in range(6):
        scene = build_scene(setup.changed(seed=seed), list_moments(setup)[0])
        for logits in scene.run.state.alpha.values():
            logits.data.zero_()
        peaks.append(max(peak.num_bytes for peak in measure_peaks(scene).values()))
    assert max(peaks) <= predicted
    assert min(peaks) < predicted  # they differ, so that the bound is one


def test_nothing_is_allocated_for_a_batch_that_no_machine_holds():
    setup = Setup(CELLS, darts(), placeholder_data("imagenet:nowhere"), replace(TINY, cells=3, channels=16))
    predicted = predict(setup.changed(batch_size=100_000)).peak.num_bytes
    assert predicted > 10**11  # a hundred gigabytes


def test_bytes_grow_almost_linearly_with_the_batch():
    needs = [predict(setup_for(darts(), CELLS, batch_size=b, cells=3)).peak.num_bytes for b in (8, 16, 24)]
    assert needs[2] - needs[1] == pytest.approx(needs[1] - needs[0], rel=0.01)


def test_a_prediction_leaves_the_generator_of_the_process_alone():
    before = torch.get_rng_state()
    predict(setup_for(darts(), CELLS, cells=3))
    assert torch.equal(before, torch.get_rng_state())


def test_a_gpu_is_planned_as_its_kernels_run_whatever_serves_here(monkeypatch):
    def peak(granularity):
        setup = setup_for(darts(), CELLS, cells=3, batch_size=64, precision="bfloat16")
        return predict(setup, granularity).peak

    here, on_gpu = peak(1), peak(512)
    assert on_gpu.causes[KEPT] < here.causes[KEPT]  # PyTorch keeps the outputs of all candidates
    monkeypatch.setenv("FASTNAS_BACKEND", "reference")
    assert peak(512) == on_gpu
    assert not are_cells_as_on_a_gpu()


def test_second_derivatives_on_a_gpu_keep_states_and_their_tangents_alone():
    """As they do here, where they are compiled; and what one state's branches take is gone before the next one's."""
    setup = setup_for(darts_2nd(), CELLS, cells=3, batch_size=64)
    here, on_gpu = (predict(setup, granularity).phases["alpha step"] for granularity in (1, 512))
    assert on_gpu.causes[KEPT] < 1.1 * here.causes[KEPT]
    assert on_gpu.causes[WORKSPACE] < 1.1 * here.causes[WORKSPACE]
    assert SECOND not in on_gpu.causes


@pytest.mark.parametrize(("name", "is_apart"), [("cells", False), ("one path", True)])
def test_logits_are_far_apart_only_where_a_draw_must_be_sure(name, is_apart):
    setup = CASES[name]
    logits = build_scene(setup, list_moments(setup)[0]).run.state.alpha["alpha.normal"]
    assert (logits.abs().max() > 10) == is_apart


def test_what_typical_draws_need_lies_below_the_bound():
    setup = setup_for(gdas())
    typical = predict_typical(setup, draws=3)
    assert 0 < typical < predict(setup).peak.num_bytes
    drawn = [replace(setup, typical=True).changed(seed=seed) for seed in range(3)]
    assert typical == pytest.approx(sorted(measure(one).peak.num_bytes for one in drawn)[1], rel=ROUNDING)
    assert predict_typical(setup_for(darts())) is None


def test_height_and_width_are_planned_apart():
    sides = {sides: replace(DIGITS, resolution=sides) for sides in ((8, 24), (24, 8), (8, 8))}
    peaks = {}
    for resolution, data in sides.items():
        setup = Setup(SPACE, darts(), data, TINY)
        peaks[resolution] = predict(setup).peak.num_bytes
        assert peaks[resolution] == pytest.approx(measure(setup).peak.num_bytes, rel=ROUNDING)
    assert peaks[8, 24] == peaks[24, 8] > 1.5 * peaks[8, 8]
