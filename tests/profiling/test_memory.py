"""The plumbing for a GPU whose allocator is asked, on a machine that has none."""

from dataclasses import replace
from types import SimpleNamespace

import memory as script
import memory_random
import pytest
import torch

from fastnas.data import placeholder_data
from fastnas.memory.prediction import measure
from fastnas.memory.scene import Setup
from fastnas.memory.tracker import Tracker
from fastnas.methods.library import darts, p_darts
from fastnas.spaces.cell_space import NASBENCH201
from fastnas.training.config import SearchConfig
from measuring import memory, memory_cases
from measuring.device import HostDevice, Memory

TINY = SearchConfig(channels=4, cells=1, epochs=6, batch_size=8, device="cpu")
SETUP = Setup(NASBENCH201, darts(), placeholder_data("digits"), TINY)


class Counting:
    """The CPU, of which the tracker of storages knows what an allocator of its own would know."""

    torch_device = torch.device("cpu")

    def __init__(self):
        self.tracker = Tracker()

    def memory(self, forward, backward):
        before = self.tracker.num_bytes
        self.tracker.forget_peak()
        with self.tracker:
            result = forward()
            held = self.tracker.num_bytes - before
            backward(result)
        return Memory(held, self.tracker.peak.num_bytes - before)


def test_a_device_that_counts_finds_the_peak_of_the_largest_phase():
    # 2 %: where the scene is made, the tracker also counts the tensors on meta by which candidates are ordered
    assert memory.step_peak(Counting(), SETUP) == pytest.approx(measure(SETUP).peak.num_bytes, rel=0.02)


def test_every_stage_is_looked_at(monkeypatch):
    looked = []
    monkeypatch.setattr(memory, "_peak_at", lambda device, setup, moment: looked.append(moment.stage) or moment.stage)
    assert memory.step_peak(Counting(), Setup(NASBENCH201, p_darts(), placeholder_data("digits"), TINY)) == 2
    assert set(looked) == {0, 1, 2}


def test_a_device_that_does_not_count_is_refused():
    with pytest.raises(ValueError, match=r"memory: a device must count its memory, got cpu"):
        memory.step_peak(HostDevice(), SETUP)


def test_on_a_gpu_the_error_has_a_sign_and_what_was_too_low_is_counted(monkeypatch):
    found = iter([memory_cases.Compared(109, 100), memory_cases.Compared(99, 100), memory_cases.Compared(100, 100)])
    monkeypatch.setattr(script, "torch_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(script, "compared", lambda setup, device: next(found))
    section = script.accuracy(script.Options(first=3))
    assert [row[-1] for row in section.rows] == ["+9.0000%", "-1.0000%", "+0.0000%"]
    assert section.notes[-1].endswith("1 predictions were too low.")
    assert section.ok


def test_exceeded_budgets_are_counted(monkeypatch):
    peaks = iter([10**12, 1, 1, 1, 1])
    chosen = SimpleNamespace(chosen=True, config=SETUP.config)
    prediction = SimpleNamespace(peak=SimpleNamespace(num_bytes=10**6))
    monkeypatch.setattr(script, "predict", lambda setup, granularity: prediction)
    monkeypatch.setattr(script, "plan", lambda *arguments, **options: chosen)
    monkeypatch.setattr(script, "compared", lambda setup, device: memory_cases.Compared(0, next(peaks)))
    section = script.budgets(script.Options())
    assert section.notes == ["MB; 1 budgets exceeded."]
    assert not section.ok


QUICK = (28, 34)
"""Configurations in the default suite; all fifty take minutes."""


@pytest.mark.parametrize("seed", [pytest.param(s, marks=() if s in QUICK else pytest.mark.slow) for s in range(50)])
def test_the_peak_of_a_random_configuration_is_what_was_predicted(seed):
    title, setup = memory_cases.random_case(seed)
    predicted, measured = memory_cases.compared(setup, torch.device("cpu"))
    assert predicted == pytest.approx(measured, rel=0.01), title


def make_record(seed):
    sizes = {"predicted": 995 + seed, "measured": 1000, "predicted_above": 100, "resident_above": 200 + seed}
    return {"seed": seed, "title": "tiny", **sizes, "seconds": 0.1}


def test_random_configurations_go_on_where_they_stopped(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(memory_random, "measure_case", lambda seed: asked.append(seed) or make_record(seed))
    options = memory_random.Options(count=2, records=tmp_path / "r.jsonl")
    assert memory_random.main(options) == 0
    assert memory_random.main(replace(options, count=3, minutes=1e9, out=tmp_path / "r.md")) == 0
    assert asked == [0, 1, 2]
    page = (tmp_path / "r.md").read_text()
    assert "3 configurations of 3: median error 0.4000%, largest 0.5000%; 3 predictions were too low." in page
    assert "| +0.0 |" in page


@pytest.mark.slow
def test_the_operating_system_agrees_with_the_prediction_of_a_random_configuration():
    record = memory_random.measure_case(0)
    excess = record["resident_above"] - record["predicted_above"]
    assert -0.1 * record["predicted_above"] < excess < 512 * 2**20  # what a plan for ram leaves
