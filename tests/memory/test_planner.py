from dataclasses import replace

import pytest
import torch

from fastnas.data import DataConfig, load_data, placeholder_data
from fastnas.memory.budget import Budget
from fastnas.memory.planner import plan
from fastnas.memory.prediction import measure, predict
from fastnas.memory.scene import Setup
from fastnas.memory.segments import measure_times, profile
from fastnas.memory.text import describe
from fastnas.methods.library import darts, p_darts, snas
from fastnas.spaces.cell_space import S2
from fastnas.training.config import SearchConfig

CELLS = replace(S2, num_nodes=1, concat=(2,))
"""Two cell types of two edges with two candidates: little to run."""
DIGITS = placeholder_data("digits", DataConfig(resolution=16))
CONFIG = SearchConfig(channels=4, cells=3, epochs=6, batch_size=32, device="cpu")
SETUP = Setup(CELLS, darts(), DIGITS, CONFIG)


def needs(**changes):
    return predict(SETUP.changed(**changes)).peak.num_bytes


def planned(size, **options):
    options = {"timed": False, "neighbours": False, **options}
    return plan(CELLS, darts(), DIGITS, CONFIG, budget=Budget("so much", size, size), **options)


@pytest.fixture(scope="module")
def sizes():
    """What keeping everything and keeping least need."""
    return needs(), needs(recompute=("edges",))


def test_what_fits_is_left_alone(sizes):
    assert planned(sizes[0]).config == CONFIG


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_promised_budget_is_kept(sizes, share):
    most, least = sizes
    size = int(least + share * (most - least))
    config = planned(size).config
    assert config == replace(CONFIG, recompute=config.recompute)
    assert measure(replace(SETUP, config=config)).peak.num_bytes <= size


@pytest.mark.slow
def test_where_nothing_fits_a_single_change_is_named_and_would_help(sizes):
    size = int(0.6 * sizes[1])
    found = planned(size)
    assert found.chosen is None
    with pytest.raises(ValueError, match=r"plan: budget must be at least .*, got so much .*--batch-size \d+"):
        _ = found.config
    batch = int(next(r for r in found.remedies if r.startswith("--batch-size")).split()[-1])
    assert needs(batch_size=batch, recompute=("edges",)) <= size < needs(batch_size=batch + 4, recompute=("edges",))
    assert any("nothing fits" in line for line in describe(found))


@pytest.mark.slow
def test_what_changes_the_search_changes_only_if_that_is_allowed(sizes):
    config = planned(int(0.6 * sizes[1]), allow=("batch",)).config
    assert config.batch_size < CONFIG.batch_size
    assert replace(config, batch_size=CONFIG.batch_size, recompute=("none",)) == CONFIG


def test_a_budget_below_the_weights_is_refused_in_one_line():
    rule = r"plan: budget must hold the weights and the states of their optimisers, .* got so much \(1.00 KiB"
    with pytest.raises(ValueError, match=rule):
        planned(1024)


@pytest.mark.slow
def test_networks_of_several_depths_are_planned_as_a_whole():
    method = p_darts()
    setup = Setup(CELLS, method, DIGITS, replace(CONFIG, epochs=3))
    size = int(0.8 * predict(setup).peak.num_bytes)
    found = plan(
        CELLS, method, DIGITS, setup.config, budget=Budget("so much", size, size), timed=False, neighbours=False
    )
    assert found.chosen is not None
    assert found.chosen.prediction.peak.num_bytes <= size


@pytest.mark.slow
def test_a_plan_shows_its_neighbours_and_what_a_step_takes(sizes):
    most, least = sizes
    found = planned((most + least) // 2, timed=True, neighbours=True)
    assert found.chosen is not None
    assert found.faster is not None
    peak = found.chosen.prediction.peak.num_bytes
    assert found.faster.prediction.peak.num_bytes > peak
    assert found.faster.seconds < found.chosen.seconds
    assert found.smaller is None or found.smaller.prediction.peak.num_bytes < peak
    text = "\n".join(describe(found))
    for part in ("alpha step", "weights", "kept for the backward pass", "the plan", "s a step: --recompute"):
        assert part in text


def test_what_units_keep_and_need_adds_up_to_the_prediction():
    found = profile(SETUP)
    assert len(found.passes) == 2
    peaks = [max(*p.needs, p.head) for p in found.passes]
    assert max(peaks) == found.prediction.peak.num_bytes
    for of_pass in found.passes:
        assert len(of_pass.after) == len(of_pass.needs) == 1 + CONFIG.cells
        assert all(of_pass.kept(unit) > 0 for unit in range(1 + CONFIG.cells))


def test_units_are_timed_within_a_step():
    times = measure_times(SETUP.changed(batch_size=4), torch.device("cpu"), repeats=1)
    assert len(times.recompute) == 1 + CONFIG.cells
    assert all(seconds > 0 for seconds in times.recompute)
    assert sum(times.recompute) < times.step


def test_steps_are_timed_where_a_schedule_ends():
    """SNAS's temperature is a line that would be negative in an epoch after the last one."""
    setup = Setup(CELLS, snas(), DIGITS, replace(CONFIG, batch_size=4, epochs=20))
    assert measure_times(setup, torch.device("cpu"), repeats=3).step > 0


def test_a_gpu_that_is_not_here_has_no_seconds(sizes, monkeypatch):
    budget = Budget("so much", 10 * sizes[0], 10 * sizes[0], "cuda")
    found = plan(CELLS, darts(), DIGITS, replace(CONFIG, batch_size=4), budget=budget, neighbours=False)
    assert found.device == ""
    assert found.chosen.seconds is None
    assert not any("s a step:" in line for line in describe(found))


def test_data_has_a_placeholder_without_being_there():
    there, placeholder = (
        load_data("digits", DataConfig(resolution=16)),
        placeholder_data("digits", DataConfig(resolution=16)),
    )
    for name in ("name", "classes", "channels", "resolution", "large"):
        mine, theirs = getattr(placeholder, name), getattr(there, name)
        assert (len(mine) == len(theirs)) if name == "classes" else mine == theirs
    imagenet = placeholder_data("imagenet:nowhere")
    assert (len(imagenet.classes), imagenet.resolution, imagenet.large) == (1000, (224, 224), True)
    assert not placeholder_data("cifar10:nowhere").large


def test_a_plan_prints_as_what_the_command_says():
    config = SearchConfig(channels=4, cells=1, batch_size=8)
    found = plan("nasbench201", "darts", "digits", config, budget="2GB", timed=False, neighbours=False)
    assert str(found).splitlines() == list(describe(found))
