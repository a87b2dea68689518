"""A search that is told its minutes, and the rate of alpha."""

import json
from dataclasses import replace
from time import perf_counter

import pytest

from fastnas.data import load_data
from fastnas.engine import search
from fastnas.engine.budget import (
    StepTimes,
    find_alpha_rate,
    fit_minutes,
    fit_searches,
    plan_searches,
    time_steps,
    with_rates,
)
from fastnas.engine.run import search_halves
from fastnas.methods.later import single_darts
from fastnas.methods.library import darts, gdas, p_darts, proxyless_nas, snas
from fastnas.spaces import NASBENCH201
from fastnas.supernet.supernets import NasBench201Supernet
from fastnas.training.config import SearchConfig
from tests.engine.points import SPACE

DIGITS = load_data("digits")
CONFIG = SearchConfig(channels=4, cells=1, batch_size=32, device="cpu", minutes=1.0)
FAST = StepTimes(weight=0.01, alpha=0.02, evaluation=0.005)


def seconds_of(config, times):
    halves = search_halves(DIGITS, config)
    steps, recorded = len(halves.weights) // config.batch_size, -(-config.evaluation_images // config.batch_size)
    waits = config.warmup_epochs
    moves = config.epochs - waits
    of_epochs = config.epochs * (steps * times.weight + recorded * times.evaluation)
    return of_epochs + moves * steps * times.alpha


@pytest.mark.parametrize("minutes", [0.1, 0.2, 1, 10])
def test_the_search_fits_into_its_minutes(minutes):
    fitted = fit_minutes(FAST, darts(), DIGITS, replace(CONFIG, minutes=minutes))
    assert fitted.minutes is None
    assert fitted.epochs >= 12
    assert seconds_of(fitted, FAST) == pytest.approx(60 * minutes, rel=0.1)


def test_a_short_search_takes_fewer_images_and_not_fewer_epochs():
    short = fit_minutes(FAST, darts(), DIGITS, replace(CONFIG, minutes=0.05))
    assert short.epochs == 12
    assert sum(short.fractions) < 1
    assert fit_minutes(FAST, darts(), DIGITS, replace(CONFIG, minutes=10)).fractions is None


def test_stages_share_the_epochs():
    assert fit_minutes(FAST, p_darts(), DIGITS, replace(CONFIG, minutes=0.3)).epochs == 36


def test_too_little_time_is_refused():
    with pytest.raises(ValueError, match="minutes must allow 12 epochs of a batch of 32"):
        fit_minutes(FAST, darts(), DIGITS, replace(CONFIG, minutes=0.001))


@pytest.mark.parametrize(("steps", "rate"), [(39_000, 3e-4), (8_832, 3e-3), (2_000, 0.03), (10, 0.03), (10**6, 3e-4)])
def test_the_rate_of_alpha_follows_its_steps(steps, rate):
    assert find_alpha_rate(steps) == pytest.approx(rate, rel=1e-4)


def test_a_rate_that_is_given_stays():
    assert with_rates(replace(CONFIG, alpha_lr=0.5), darts(), 100).alpha_lr == 0.5


def test_steps_in_which_alpha_waits_do_not_count():
    config = replace(CONFIG, epochs=40, warmup_epochs=10)
    assert with_rates(config, darts(), 500).alpha_lr == find_alpha_rate(15_000)
    assert with_rates(config, proxyless_nas(alpha_every=5), 500).alpha_lr == find_alpha_rate(3_000)


@pytest.mark.parametrize("method", [darts, gdas, snas, p_darts], ids=lambda method: method.__name__)
def test_every_kind_of_step_is_timed(method, monkeypatch):
    monkeypatch.setattr("fastnas.engine.budget.TIMED", 1)
    times = time_steps(SPACE, method(), DIGITS, replace(CONFIG, channels=2, batch_size=8))
    assert times.weight > 0
    assert times.evaluation > 0
    assert times.alpha >= 0


def test_a_plan_is_kept_and_goes_on_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("fastnas.engine.budget.time_steps", lambda *_: StepTimes(0.2, 0.2, 0.05))
    config = replace(CONFIG, minutes=0.1, channels=2, batch_size=16, evaluation_images=16)
    first = search(NASBENCH201, darts(), DIGITS, config, folder=tmp_path)
    plan = json.loads((tmp_path / "budget.json").read_text())["search"]
    assert len(first.history) == plan["epochs"]
    monkeypatch.setattr("fastnas.engine.budget.time_steps", lambda *_: pytest.fail("it is planned"))
    again = search(NASBENCH201, darts(), DIGITS, config, folder=tmp_path)
    assert again.history == first.history
    fixed, _ = plan_searches(NASBENCH201, darts(), DIGITS, config, tmp_path)
    other = search(NASBENCH201, darts(), DIGITS, fixed)
    assert [one["alpha"] for one in other.history] == [one["alpha"] for one in first.history]


@pytest.mark.slow
def test_the_clock_agrees():
    started = perf_counter()
    search(NASBENCH201, darts(), DIGITS, replace(CONFIG, minutes=0.2))
    assert perf_counter() - started == pytest.approx(12, rel=0.3)  # beside whatever else this machine does


def test_a_supernet_of_ones_own_has_no_minutes():
    with pytest.raises(ValueError, match="minutes needs a space"):
        search(NasBench201Supernet(10, 4, 1, image_channels=1), darts(), DIGITS, CONFIG)


@pytest.mark.parametrize("name", ["minutes", "alpha_lr", "evaluation_images"])
def test_numbers_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        SearchConfig(**{name: 0})


def test_records_are_measured_on_fewer_images():
    few = SearchConfig(channels=2, cells=1, epochs=1, batch_size=32, device="cpu", evaluation_images=32)
    one = search(NASBENCH201, darts(), DIGITS, few)
    every = search(NASBENCH201, darts(), DIGITS, replace(few, evaluation_images=None))
    assert one.history[0]["alpha"] == every.history[0]["alpha"]
    assert one.history[0]["outer_loss"] != every.history[0]["outer_loss"]


def test_time_for_many_steps_is_divided_between_searches():
    def searches(minutes, make=darts):
        return fit_searches(StepTimes(0.01, 0.0, 0.0), make(), DIGITS, replace(CONFIG, minutes=minutes))

    # a step of 0.01 s, an eighth of the epochs without alpha: a minute has 6,000 steps
    assert [searches(minutes) for minutes in (0.1, 0.4, 0.7, 1.0, 60)] == [1, 1, 2, 3, 16]
    # alpha moves in every fifth step of three quarters of the epochs
    assert [searches(minutes, proxyless_nas) for minutes in (1.0, 3.0, 6.0)] == [1, 1, 3]


def test_searches_share_the_minutes_and_the_plan_says_how_many(tmp_path, monkeypatch):
    monkeypatch.setattr("fastnas.engine.budget.time_steps", lambda *_: StepTimes(0.01, 0.0, 0.0))
    config = replace(CONFIG, minutes=1.0)
    one, _ = plan_searches(NASBENCH201, darts(), DIGITS, config, None, 1)
    each, searches = plan_searches(NASBENCH201, darts(), DIGITS, config, tmp_path, None)
    assert searches == 3
    assert abs(3 * each.epochs - one.epochs) <= 3
    monkeypatch.setattr("fastnas.engine.budget.time_steps", lambda *_: pytest.fail("it is planned"))
    assert plan_searches(NASBENCH201, darts(), DIGITS, config, tmp_path, None) == (each, 3)
    without = replace(CONFIG, minutes=None)
    assert plan_searches(NASBENCH201, darts(), DIGITS, without, None, None) == (without, 1)
    assert plan_searches(NASBENCH201, darts(), DIGITS, without, None, 2) == (without, 2)


def test_alpha_has_another_rate_where_minutes_are_divided_between_several_searches(tmp_path, monkeypatch):
    monkeypatch.setattr("fastnas.engine.budget.time_steps", lambda *_: StepTimes(0.01, 0.0, 0.0))

    def rate(searches, method, folder=None, **settings):
        config = replace(CONFIG, **{"minutes": 2.0, **settings})
        config, number = plan_searches(NASBENCH201, method(), DIGITS, config, folder, searches)
        return number > 1, config.alpha_lr

    assert [rate(None, single_darts), rate(None, darts)] == [(True, 3e-4), (True, None)]
    # As many as one asks for may have any number of steps
    assert [rate(n, single_darts, minutes=m) for n in (1, 2) for m in (2.0, None)] == [
        (n > 1, None) for n in (1, 1, 2, 2)
    ]
    assert rate(None, single_darts, alpha_lr=0.5) == (True, 0.5)
    small = replace(CONFIG, minutes=None, channels=2, batch_size=16, epochs=1, train_fraction=0.1)
    search(NASBENCH201, single_darts(), DIGITS, small, folder=tmp_path)  # begun before there were two rates
    assert rate(None, single_darts, tmp_path) == (True, 0.03)
