import pytest

from fastnas.ranks import torch_device
from fastnas.training.config import RetrainConfig, SearchConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "SearchConfig: epochs must be positive, got 0"),
        ({"epochs": 5, "warmup_epochs": 5}, r"warmup_epochs must lie in \[0, epochs\) = \[0, 5\), got 5.*never moves"),
        ({"train_fraction": 0.0}, r"train_fraction must lie in \(0, 1\], got 0"),
        ({"train_fraction": 1.5}, r"train_fraction must lie in \(0, 1\], got 1\.5"),
        ({"weight_share": 1.0}, r"weight_share must lie in \(0, 1\), got 1"),
        ({"alpha_beta1": 1.0}, r"alpha_beta1 must lie in \[0, 1\), got 1"),
        ({"grad_clip": -1.0}, "grad_clip must not be negative, got -1"),
        ({"weight_lr": float("nan")}, "weight_lr must be a finite number, got nan"),
        ({"batch_size": -4}, "batch_size must be positive, got -4"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"workers": -1}, "workers must not be negative, got -1"),
        ({"warmup_epochs": -1}, r"warmup_epochs must lie in \[0, epochs\)"),
    ],
)
def test_a_search_without_meaning_is_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        SearchConfig(**change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop_path": 1.0}, r"RetrainConfig: drop_path must lie in \[0, 1\), got 1"),
        ({"label_smoothing": -0.1}, r"label_smoothing must lie in \[0, 1\), got -0\.1"),
        ({"evaluate_every": 0}, "evaluate_every must be positive, got 0"),
        ({"auxiliary": -0.4}, r"auxiliary must not be negative, got -0\.4"),
        ({"cutout": -1}, "cutout must not be negative, got -1"),
    ],
)
def test_a_training_without_meaning_is_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        RetrainConfig(**change)
    assert "\n" not in str(caught.value)


def test_a_device_that_does_not_exist_is_refused():
    assert torch_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="name must be auto, cpu or cuda"):
        torch_device("abacus")
    with pytest.raises(ValueError, match="cuda:99 must exist"):
        torch_device("cuda:99")
