"""Measure a latency table: candidates alone and whole networks in turn, until the table's own error is small."""

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter

import numpy as np
import torch
from torch import nn

from fastnas.costs.latency import (
    WHERE,
    Entry,
    LatencyTable,
    Network,
    leave_one_out_error,
    linear_fit,
    load_table,
    require_better_than_mean,
    require_writable,
    save_table,
)
from fastnas.costs.tables import NetworkSize, derived_cost, list_distinct_candidates, tabulate
from fastnas.errors import invalid
from fastnas.ranks import wait_for
from fastnas.seeds import stream
from fastnas.spaces.formats import genotype_to_text
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.sampling import random_genotype
from fastnas.spaces.space import Space

OnRound = Callable[[str], None]
"""Called after every round with what is being measured and how far it is."""
Call = Callable[[], object]
_SAMPLE_SECONDS = 2e-3  # a sample repeats a shorter call until this has passed, so that the clock's steps do not count
_SETTLED = 0.2  # sampling error, as a share of the table's error, below which more rounds would change nothing


def measure(
    space: Space,
    size: NetworkSize,
    device: torch.device,
    path: Path,
    *,
    measured_before: bool = False,
    repeats: int = 5,
    minutes: float = 5.0,
    error: float = 5.0,
    fit: int = 10,
    genotypes: int = 20,
    seed: int = 0,
    force: bool = False,
    on_round: OnRound | None = None,
) -> LatencyTable:
    """Measure a table, test it on networks that it did not see, and save it if it beats saying their mean.

    Args:
        space: Whose candidates.
        size: The network at whose shapes.
        device: Where.
        path: The file, JSON.
        measured_before: Test the table that is in the file, instead of measuring a new one.
        repeats: Fewest samples behind each median.
        minutes: Time after which no further round begins; the test takes as many rounds again.
        error: Mean absolute error of the table, in percent, that is small enough.
        fit: Networks to fit scale and constant to.
        genotypes: Networks to test on.
        seed: Decides which.
        force: Save the table even if the mean predicts better.
        on_round: Told of the progress.

    Raises:
        ValueError: Before anything is measured, if an argument is wrong, the file cannot be written, or it holds
            the table of another space or size; afterwards, if the table does not beat the mean.
    """
    for name, value, least in (("repeats", repeats, 1), ("fit", fit, 1), ("genotypes", genotypes, 2)):
        if value < least:
            raise invalid(WHERE, f"{name} must be at least {least}", value)
    for name, number in (("minutes", minutes), ("error", error)):
        if not 0 <= number < float("inf"):
            raise invalid(WHERE, f"{name} must be a number from 0 on", number)
    table = load_table(path, space, size) if measured_before else None
    require_writable(path)
    if table is None:
        table = measure_table(
            space, size, device, repeats=repeats, minutes=minutes, error=error, fit=fit, seed=seed, on_round=on_round
        )
    table = check_table(table, space, device, genotypes=genotypes, seed=seed, on_round=on_round)
    if not force:
        require_better_than_mean(table)
    save_table(path, table)
    return table


def measure_table(
    space: Space,
    size: NetworkSize,
    device: torch.device,
    *,
    repeats: int = 5,
    minutes: float = 5.0,
    error: float = 5.0,
    fit: int = 10,
    seed: int = 0,
    on_round: OnRound | None = None,
) -> LatencyTable:
    """Time every different candidate of the network, alone, and fit a scale and a constant to whole networks.

    A network is predicted as ``constant + scale * sum of its candidates``. The constant stands for the stem, the
    preprocessing of the cells, fixed reductions, the classifier and the sums at the nodes; the scale for what
    candidates take less or more beside others than alone. It is 1 unless another one predicts networks better that
    were left out of the fit. Rounds go on until the error of the networks that were left out is at most ``error``,
    or more samples would not change it, or ``minutes`` are over.
    """
    candidates = list_distinct_candidates(space, size)
    genotypes = [random_genotype(space, stream(seed, "latency fit", i)) for i in range(fit)]
    calls = [_make_call(c.build(space), (size.batch_size, c.channels, *c.size), device) for c in candidates]
    calls += _network_calls(space, size, genotypes, device)
    started = monotonic()
    for samples in time_rounds(calls, device):
        of_networks, rounds = samples[len(candidates) :], len(samples[0])
        seconds = dict(zip(candidates, map(median, samples), strict=False))
        raw = tabulate(space, size, "seconds", seconds.__getitem__, 0.0)
        sums = [derived_cost(genotype, raw) for genotype in genotypes]
        found = leave_one_out_error(sums, [*map(median, of_networks)])
        spent, noise = (monotonic() - started) / 60, sampling_error(of_networks)
        if on_round is not None:
            left = f"{spent:.1f} of at most {minutes:g} minutes"
            on_round(f"candidates and networks: round {rounds}, error {found:.1f} % ± {noise:.1f} %, {left}")
        settled = rounds >= 2 * repeats and noise <= _SETTLED * found
        if rounds >= repeats and (found <= error or settled or spent >= minutes):
            break
    scale, constant = linear_fit(sums, [*map(median, of_networks)])
    return LatencyTable(
        space=space.name,
        primitives=space.primitives,
        size=size,
        device=name_device(device),
        torch_version=torch.__version__,
        threads=torch.get_num_threads(),
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        repeats=rounds,
        entries=tuple(Entry(**candidate._asdict(), seconds=seconds[candidate]) for candidate in candidates),
        scale=scale,
        constant=constant,
        fitted_on=_networks(genotypes, [constant + scale * s for s in sums], of_networks),
    )


def check_table(
    table: LatencyTable,
    space: Space,
    device: torch.device,
    *,
    genotypes: int = 20,
    seed: int = 0,
    on_round: OnRound | None = None,
) -> LatencyTable:
    """Measure random networks that had no part in ``table``, and keep them beside its predictions in ``unseen``."""
    known = {network.genotype for network in table.fitted_on}
    drawn: dict[str, Genotype] = {}
    for draw in range(100 * genotypes):
        genotype = random_genotype(space, stream(seed, "latency test", draw)).canonical()
        if len(drawn) < genotypes and genotype_to_text(genotype) not in known:
            drawn[genotype_to_text(genotype)] = genotype
    unseen = list(drawn.values())
    if len(unseen) < genotypes:
        rule = f"the space must have {genotypes} architectures that the table was not fitted to"
        raise invalid(WHERE, rule, len(unseen), "Ask for fewer with --genotypes.")
    for samples in time_rounds(_network_calls(space, table.size, unseen, device), device):
        if on_round is not None:
            on_round(f"networks that the table has not seen: round {len(samples[0])} of {table.repeats}")
        if len(samples[0]) >= table.repeats:
            break
    costs = table.costs(space)
    return replace(table, unseen=_networks(unseen, [derived_cost(genotype, costs) for genotype in unseen], samples))


def time_rounds(calls: Sequence[Call], device: torch.device) -> Iterator[list[list[float]]]:
    """Seconds of each call, after every round of all of them, without end.

    The calls take turns: a disturbance that lasts a while, or a clock frequency that drifts, meets all of them
    (``torch.utils.benchmark`` times one after the other, and warms each up anew). Before the rounds each call runs
    until it is warm.

    Args:
        calls: What to time, in inference mode; kernels that a call starts are waited for.
        device: Where the calls run.
    """
    samples: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        times = [_calls_in_a_sample(call, device) for call in calls]
    while True:
        with torch.inference_mode():
            for call, n, of_call in zip(calls, times, samples, strict=True):
                of_call.append(_sample(call, n, device))
        yield samples


def sampling_error(samples: Sequence[Sequence[float]]) -> float:
    """How far the medians of ``samples`` may be from what more samples would give, in percent of them: the typical
    standard error of a median, ``1.25 sigma / sqrt(n)`` with sigma from the quartiles."""
    errors = []
    for of_call in samples:
        lower, middle, upper = np.quantile(of_call, [0.25, 0.5, 0.75])
        errors.append(1.25 * (upper - lower) / 1.349 / len(of_call) ** 0.5 / middle)
    return 100 * median(errors)


def _sample(call: Call, times: int, device: torch.device) -> float:
    wait_for(device)
    started = perf_counter()
    for _ in range(times):
        call()
    wait_for(device)
    return (perf_counter() - started) / times


def _calls_in_a_sample(call: Call, device: torch.device) -> int:
    _sample(call, 2, device)  # the first calls choose algorithms and fill caches
    return max(1, round(_SAMPLE_SECONDS / max(_sample(call, 3, device), 1e-9)))


def name_device(device: torch.device) -> str:
    """What the vendor calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _networks(
    genotypes: Sequence[Genotype], predicted: Sequence[float], samples: Sequence[Sequence[float]]
) -> tuple[Network, ...]:
    def network(genotype: Genotype, seconds: float, of_network: Sequence[float]) -> Network:
        lower, middle, upper = np.quantile(of_network, [0.25, 0.5, 0.75]).tolist()
        text = genotype_to_text(genotype.canonical())
        return Network(genotype=text, predicted=seconds, measured=middle, quartiles=(lower, upper))

    return tuple(map(network, genotypes, predicted, samples))


def _network_calls(space: Space, size: NetworkSize, genotypes: Sequence[Genotype], device: torch.device) -> list[Call]:
    shape = (size.batch_size, *size.image_shape)
    return [_make_call(size.build(genotype, space), shape, device) for genotype in genotypes]


def _make_call(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> Call:
    module = module.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = x.to(device).contiguous(memory_format=torch.channels_last)
    return lambda: module(x)
