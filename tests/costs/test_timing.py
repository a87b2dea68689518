import time

import torch

from fastnas.costs.timing import device_name, time_calls

CPU = torch.device("cpu")


def test_a_call_that_waits_longer_measures_longer_and_calls_take_turns():
    order = []

    def waiting(name, seconds):
        def call():
            order.append(name)
            time.sleep(seconds)

        return call

    short, long = time_calls([waiting("short", 0.004), waiting("long", 0.012)], 3, CPU)
    assert len(short) == len(long) == 3
    assert min(short) >= 0.004  # sleep() never returns early
    assert min(long) >= 0.012
    assert order[-6:] == ["short", "long"] * 3


def test_a_short_call_is_repeated_until_the_clock_can_tell():
    calls = [0]

    def call():
        calls[0] += 1

    (samples,) = time_calls([call], 2, CPU)
    assert calls[0] > 200  # of a fraction of a microsecond each, in 2 ms
    assert max(samples) < 1e-4


def test_calls_run_in_inference_mode_and_rounds_are_reported():
    seen, rounds = [], []
    time_calls([lambda: seen.append(torch.is_inference_mode_enabled())], 2, CPU, lambda *done: rounds.append(done))
    assert all(seen)
    assert rounds == [(1, 2), (2, 2)]


def test_the_device_has_a_name():
    assert device_name(CPU).strip()
