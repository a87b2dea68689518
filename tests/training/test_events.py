"""What trackers of experiments see of a run."""

import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fastnas
from fastnas.experiment.progress import Display, plain_console, watch
from fastnas.ranks import ALONE
from fastnas.spaces import NASBENCH201
from fastnas.training.config import SearchConfig
from fastnas.training.events import numbers

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "trackers.md"
LABELS = np.arange(48) % 2
IMAGES = (np.random.default_rng(0).integers(0, 100, (48, 1, 8, 8)) + 100 * LABELS[:, None, None, None]).astype(np.uint8)
CONFIG = SearchConfig(channels=2, cells=1, epochs=2, warmup_epochs=0, batch_size=16, device="cpu")


class FakeOptuna:
    class TrialPruned(Exception):
        pass

    def __init__(self):
        self.reported, self.pruned, self.values = [], 0, []

    def create_study(self, direction):
        assert direction == "maximize"
        return self

    def suggest_float(self, name, low, high, log):
        return low

    def report(self, value, step):
        self.reported.append((value, step))

    def should_prune(self):
        return len(self.reported) == 1  # the first trial after its first epoch

    def optimize(self, objective, n_trials):
        for _ in range(n_trials):
            try:
                self.values.append(objective(self))
            except self.TrialPruned:
                self.pruned += 1


@pytest.fixture
def shown(monkeypatch):
    """Runs a snippet of the page beside a module that stands for the tracker."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)

    def run(name, module):
        monkeypatch.setitem(sys.modules, name, module)
        (block,) = [block for block in blocks if f"import {name}\n" in block]
        scope = {"fastnas": fastnas, "asdict": asdict, "replace": replace, "config": CONFIG, "data": (IMAGES, LABELS)}
        exec(compile(block, str(PAGE), "exec"), scope)

    return run


def test_weights_and_biases_gets_settings_and_numbers(shown):
    logged, begun = [], []
    run = SimpleNamespace(log=logged.append)
    shown("wandb", SimpleNamespace(init=lambda **given: begun.append(given) or run))
    assert begun[0]["config"]["epochs"] == 2
    assert [record["epoch"] for record in logged] == [0, 1]
    assert all(isinstance(value, int | float) for record in logged for value in record.values())
    assert "entropy/normal" in logged[0]


def test_mlflow_gets_settings_and_numbers(shown):
    logged, settings = [], []
    log = lambda values, step: logged.append((values, step))  # noqa: E731
    shown("mlflow", SimpleNamespace(log_params=settings.append, log_metrics=log))
    assert settings[0]["channels"] == 2
    assert [step for _, step in logged] == [0, 1]
    assert 0 <= logged[0][0]["outer_accuracy"] <= 1


def test_optuna_prunes_a_search_through_on_epoch(shown):
    optuna = FakeOptuna()
    shown("optuna", optuna)
    assert (optuna.pruned, len(optuna.values)) == (1, 1)
    assert [step for _, step in optuna.reported] == [0, 0, 1]


def test_tensorboard_gets_settings_coefficients_alpha_and_cells(tmp_path):
    settings = {"method": "darts", "config": asdict(CONFIG)}
    show = lambda title: Display(title, plain_console())  # noqa: E731
    with watch("search", "search", tmp_path, show, ALONE, settings, NASBENCH201) as callbacks:
        fastnas.search("nasbench201", "darts", (IMAGES, LABELS), CONFIG, **callbacks)
    found = EventAccumulator(str(tmp_path / "events"), size_guidance={"images": 0})
    found.Reload()
    tags = found.Tags()
    assert {"search/outer_accuracy", "search/entropy/normal"} <= {*tags["scalars"]}
    assert {*tags["images"]} == {"search/coefficients/normal", "search/cells"}
    assert tags["histograms"] == ["search/alpha/normal"]
    assert len(found.Images("search/coefficients/normal")) == 2
    content = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"config/alpha_weight_decay" in content
    assert b"darts" in content


def test_numbers_leave_out_texts_and_lists():
    assert numbers({"loss": 1.0, "genotype": "x", "alpha": {"normal": [[0.0]]}, "entropy": {"normal": 2.0}}) == {
        "loss": 1.0,
        "entropy/normal": 2.0,
    }
