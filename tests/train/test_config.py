import pytest

from fastnas.train.config import RetrainConfig, SearchConfig, torch_device


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
    ],
)
def test_a_search_without_meaning_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SearchConfig(**change)


def test_a_training_without_meaning_is_refused():
    with pytest.raises(ValueError, match=r"drop_path must lie in \[0, 1\), got 1"):
        RetrainConfig(drop_path=1.0)


def test_a_device_that_does_not_exist_is_refused():
    assert torch_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="name must be auto, cpu or cuda"):
        torch_device("abacus")
    with pytest.raises(ValueError, match="cuda:99 must exist"):
        torch_device("cuda:99")
