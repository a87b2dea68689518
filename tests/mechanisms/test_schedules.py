import pytest

from fastnas.mechanisms.schedules import cosine, exponential, linear, warmed_up
from fastnas.search import weight_learning_rate
from fastnas.train.config import RetrainConfig, SearchConfig
from fastnas.train.retrain import learning_rate


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.025), (1, 0.02497632), (25, 0.013), (49, 0.00102368)])
def test_the_search_of_darts_anneals_as_published(epoch, rate):
    assert cosine(0.025, epoch, 50, 0.001) == pytest.approx(rate, abs=5e-9)
    config = SearchConfig(weight_lr=0.025, weight_lr_final=0.001, epochs=50)
    assert weight_learning_rate(config, epoch) == pytest.approx(rate, abs=5e-9)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 0.5), (4, 0.491837), (5, 0.489796), (244, 0.002041), (245, 0.002041), (249, 0.000408)],
)
def test_the_linear_schedule_has_its_published_values(epoch, rate):
    assert linear(0.5, epoch, 250) == pytest.approx(rate, abs=5e-7)


def test_warm_up_rises_to_the_initial_rate_and_then_follows_the_schedule():
    config = RetrainConfig(lr=0.5, epochs=250, schedule="linear", lr_warmup_epochs=5)
    assert [learning_rate(config, epoch) for epoch in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert learning_rate(config, 5) == linear(0.5, 5, 250)
    assert warmed_up(0.3, 0.5, 0, 0) == 0.3


def test_the_exponential_schedule_loses_three_percent_an_epoch():
    config = RetrainConfig(lr=0.1, epochs=10, schedule="exponential")
    assert learning_rate(config, 2) == exponential(0.1, 2) == pytest.approx(0.1 * 0.97**2)


def test_a_linear_schedule_needs_more_than_five_epochs():
    with pytest.raises(ValueError, match="epochs must be more than 5 with the linear schedule, got 5"):
        RetrainConfig(schedule="linear", epochs=5)
