"""How long calls take, measured fairly."""

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import torch

_SAMPLE_SECONDS = 2e-3  # a sample repeats a shorter call until this has passed, so that the clock's steps do not count


def time_calls(
    calls: Sequence[Callable[[], object]],
    repeats: int,
    device: torch.device,
    on_round: Callable[[int, int], None] | None = None,
) -> list[list[float]]:
    """Seconds that each call takes, ``repeats`` times.

    The calls take turns, ``repeats`` rounds of all of them: a disturbance that lasts a while, or a clock frequency
    that drifts, meets all alike. Before the rounds each call runs until it is warm.

    Args:
        calls: What to time, in inference mode; kernels that a call starts are waited for.
        repeats: Samples of each.
        device: Where the calls run.
        on_round: Called after every round with the number of rounds done and their total.
    """
    samples: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        times = [_calls_in_a_sample(call, device) for call in calls]
        for done in range(repeats):
            for call, n, of_call in zip(calls, times, samples, strict=True):
                of_call.append(_sample(call, n, device))
            if on_round is not None:
                on_round(done + 1, repeats)
    return samples


def _sample(call: Callable[[], object], times: int, device: torch.device) -> float:
    _wait(device)
    started = perf_counter()
    for _ in range(times):
        call()
    _wait(device)
    return (perf_counter() - started) / times


def _calls_in_a_sample(call: Callable[[], object], device: torch.device) -> int:
    _sample(call, 2, device)  # the first calls choose algorithms and fill caches
    return max(1, round(_SAMPLE_SECONDS / max(_sample(call, 3, device), 1e-9)))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """What the vendor calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
