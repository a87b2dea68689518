import time

import pytest
import torch

from fastnas.costs.measurement import name_device, sampling_error, time_rounds

CPU = torch.device("cpu")


def time_calls(calls, repeats):
    return next(samples for samples in time_rounds(calls, CPU) if len(samples[0]) == repeats)


def test_a_call_that_waits_longer_measures_longer_and_calls_take_turns():
    order = []

    def waiting(name, seconds):
        def call():
            order.append(name)
            time.sleep(seconds)

        return call

    short, long = time_calls([waiting("short", 0.004), waiting("long", 0.012)], 3)
    assert len(short) == len(long) == 3
    assert min(short) >= 0.004  # sleep() never returns early
    assert min(long) >= 0.012
    assert order[-6:] == ["short", "long"] * 3


def test_a_short_call_is_repeated_until_the_clock_can_tell():
    calls = [0]

    def call():
        calls[0] += 1

    (samples,) = time_calls([call], 2)
    assert calls[0] > 200  # of a fraction of a microsecond each, in 2 ms
    assert max(samples) < 1e-4


def test_calls_run_in_inference_mode_and_what_asks_for_them_does_not():
    seen = []
    for _ in time_rounds([lambda: seen.append(torch.is_inference_mode_enabled())], CPU):
        assert not torch.is_inference_mode_enabled()
        break
    assert all(seen)


def test_the_sampling_error_is_that_of_a_median():
    generator = torch.Generator().manual_seed(0)
    samples = 10 + torch.randn(400, 25, generator=generator)
    of_medians = 100 * float(samples.quantile(0.5, dim=1).std()) / 10
    assert sampling_error(samples.tolist()) == pytest.approx(of_medians, rel=0.2)


def test_the_device_has_a_name():
    assert name_device(CPU).strip()
