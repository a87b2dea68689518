import pytest

from fastnas.engine import find_weight_rate
from fastnas.mechanisms.schedules import (
    LEARNING_RATES,
    Annealing,
    Constant,
    CosinePower,
    Progress,
    Ramp,
    Rate,
    Restarts,
    SkipDropout,
    TwoCosines,
    bold_driver,
    cosine,
    exponential,
    linear,
    warm_up,
)
from fastnas.training.config import RetrainConfig, SearchConfig, learning_rate


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.025), (1, 0.02497632), (25, 0.013), (49, 0.00102368)])
def test_the_search_of_darts_anneals_as_published(epoch, rate):
    assert cosine(Rate(0.025, 0.001, Progress(epoch, 50))) == pytest.approx(rate, abs=5e-9)
    config = SearchConfig(weight_lr=0.025, weight_lr_final=0.001, epochs=50)
    assert find_weight_rate(config, epoch) == pytest.approx(rate, abs=5e-9)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 0.5), (4, 0.491837), (5, 0.489796), (244, 0.002041), (245, 0.002041), (249, 0.000408)],
)
def test_the_linear_schedule_has_its_published_values(epoch, rate):
    assert linear(Rate(0.5, 0.0, Progress(epoch, 250))) == pytest.approx(rate, abs=5e-7)


def test_warm_up_rises_to_the_initial_rate_and_then_follows_the_schedule():
    config = RetrainConfig(lr=0.5, epochs=250, schedule="linear", lr_warmup_epochs=5)
    assert [learning_rate(config, epoch) for epoch in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert learning_rate(config, 5) == linear(Rate(0.5, 0.0, Progress(5, 250)))
    assert warm_up(0.3, 0.5, 0, 0) == 0.3


def test_the_exponential_schedule_loses_three_percent_an_epoch():
    config = RetrainConfig(lr=0.1, epochs=10, schedule="exponential")
    assert learning_rate(config, 2) == exponential(Rate(0.1, 0.0, Progress(2, 10))) == pytest.approx(0.1 * 0.97**2)


def test_a_linear_schedule_needs_more_than_five_epochs():
    with pytest.raises(ValueError, match="epochs must be at least 6 with the linear schedule, got 5"):
        RetrainConfig(schedule="linear", epochs=5)


def powers(initial, final, epochs, power, warmup=0):
    schedule = CosinePower(power, warmup, epochs)
    return [schedule(Rate(initial, final, Progress(e, epochs))) for e in range(epochs)]


def test_cosine_power_annealing_has_its_published_values():
    assert powers(1, 0, 4, 2) == pytest.approx([1, 0.51331014, 0.13240036, 0], abs=5e-9)
    assert powers(1, 0, 4, 1) == pytest.approx([1, 0.58578644, 0.17157288, 0], abs=5e-9)
    expected = [0.1, 0.084816, 0.065599, 0.047412, 0.033024, 0.022944, 0.016467, 0.012619]
    assert powers(0.1, 0.01, 10, 10)[:8] == pytest.approx(expected, abs=5e-7)
    warmed = powers(0.025, 1e-4, 50, 2, warmup=5)
    assert warmed[:6] == pytest.approx([0.00425, 0.0084, 0.01255, 0.0167, 0.02085, 0.025], abs=1e-9)
    assert warmed[6:8] == pytest.approx([0.024832, 0.024624], abs=5e-7)
    assert warmed[-1] == pytest.approx(1e-4, abs=1e-12)
    with pytest.raises(ValueError, match=r"power must be at least 1, got 0\.5"):
        CosinePower(power=0.5)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 0.05), (20, 0.025), (39, 7.70684e-05), (40, 0.025), (41, 0.02499572), (100, 0.0125), (159, 4.28332e-06)],
)
def test_proxyless_warms_up_by_a_cosine_of_its_own(epoch, rate):
    at = Progress(epoch, 160, round(41 / 160 * 160))
    assert TwoCosines()(Rate(0.025, 0.0, at)) == pytest.approx(rate, abs=5e-9)


def test_a_search_tells_its_learning_rate_how_long_alpha_waits():
    config = SearchConfig(epochs=160, weight_lr=0.025)
    assert find_weight_rate(config, 20, TwoCosines(), warmup=41) == pytest.approx(0.025)
    assert find_weight_rate(config, 0, TwoCosines()) == 0.025  # no warm-up, one cosine


def test_restarts_begin_anew_after_ten_thirty_and_seventy_epochs():
    rates = [Restarts()(Rate(0.05, 1e-4, Progress(e, 630))) for e in range(630)]
    assert [e for e, rate in enumerate(rates) if rate == 0.05] == [0, 10, 30, 70, 150, 310]
    assert rates[20] == pytest.approx((0.05 + 1e-4) / 2)


def test_the_bold_driver_grows_with_progress_and_halves_without():
    at = Progress(0, 5)
    assert bold_driver(Rate(0.1, 0.0, at)) == bold_driver(Rate(0.1, 0.0, at, [2.0])) == 0.1
    assert bold_driver(Rate(0.1, 0.0, at, [2.0, 1.0, 1.5])) == pytest.approx(0.1 * 1.05 * 0.5)


def test_every_learning_rate_begins_at_its_largest_and_a_configuration_may_choose_it():
    for name, rate in LEARNING_RATES.items():
        assert rate(Rate(0.1, 0.0, Progress(0, 20))) == pytest.approx(0.1)
        config = SearchConfig(weight_lr=0.1, epochs=20, weight_schedule=name)
        assert find_weight_rate(config, 7, losses=[2, 1]) == rate(Rate(0.1, 0.0, Progress(7, 20), [2, 1]))
    sharp = CosinePower(warmup=5, horizon=50)
    assert sharp(Rate(0.025, 1e-4, Progress(2, 50))) == pytest.approx(0.01255)
    assert sharp(Rate(0.025, 1e-4, Progress(0, 10))) == pytest.approx(1e-4 + 0.0249 / 2)  # one epoch of ten


@pytest.mark.parametrize(
    ("schedule", "epochs", "values"),
    [
        (Ramp(10.0, 0.1), 250, {0: 10.0, 249: 0.1}),  # GDAS
        (Ramp(1.0, 0.03, before=1), 150, {0: 0.993533, 149: 0.03}),  # SNAS
        (Ramp(0.03, 0.3, after=1), 50, {0: 0.03, 1: 0.0354, 25: 0.165, 49: 0.2946}),  # SmoothDARTS
        (Ramp(0.0, 0.2), 50, {0: 0.0, 49: 0.2}),  # RobustDARTS
        (Annealing(1.6, 0.95, 50), 50, {0: 1.6, 9: 1.0084, 10: 0.957979, 20: 0.5736, 30: 0.3434, 49: 0.1296}),  # ASAP
        (Annealing(1.6, 0.95, 50), 10, {2: 0.957979}),
        (Constant(0.3), 5, {0: 0.3, 4: 0.3}),
        (Ramp(10.0, 0.1), 1, {0: 10.0}),
    ],
)
def test_temperatures_radii_and_rates_have_their_published_values(schedule, epochs, values):
    assert {e: schedule(Progress(e, epochs)) for e in values} == pytest.approx(values, abs=5e-5)


@pytest.mark.parametrize(
    ("initial", "values"),
    [(0.4, {0: 0.384, 9: 0.24, 10: 0.4, 11: 0.32749, 24: 0.02432}), (0.7, {0: 0.672, 9: 0.42, 10: 0.7, 24: 0.04257})],
)
def test_p_darts_drops_skips_as_published_and_jumps_back_when_alpha_begins(initial, values):
    schedule = SkipDropout((0.0, initial))
    assert {e: schedule(Progress(e, 25, 10, 1)) for e in values} == pytest.approx(values, abs=5e-6)
    assert schedule(Progress(3, 25, 10, 0)) == 0
    assert schedule(Progress(0, 25, 10, 2)) == pytest.approx(initial * 0.96)  # a stage without a rate of its own
