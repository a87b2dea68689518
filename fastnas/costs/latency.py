"""A table of what candidates take on a device: its file, and how well it predicts whole networks."""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Annotated

import numpy as np
from pydantic import Field, TypeAdapter

from fastnas.costs.tables import Candidate, CostTable, NetworkSize, list_distinct_candidates, tabulate
from fastnas.errors import invalid
from fastnas.files import STRICT, read_json, validate, write_json
from fastnas.spaces.space import Space

WHERE = "latency"
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fit = Callable[[Sequence[float], Sequence[float]], tuple[float, float]]
Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one candidate takes, alone and on its own input."""

    __pydantic_config__ = STRICT

    primitive: str
    channels: int
    stride: int
    size: tuple[int, int]
    seconds: Seconds
    outputs: int | None = None

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.primitive, self.channels, self.stride, self.size, self.outputs)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A whole derived network: what the table says in seconds, and the median and quartiles of what was measured."""

    __pydantic_config__ = STRICT

    genotype: str
    predicted: Finite
    measured: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    quartiles: tuple[Seconds, Seconds]


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """A measured table, as its file holds it.

    Args:
        space: The name of the space.
        primitives: Its primitives.
        size: The network at whose shapes was measured.
        device: The device's name.
        torch_version: That of PyTorch.
        threads: Threads of PyTorch on the CPU.
        date: When it was measured.
        repeats: Samples behind each median.
        entries: The candidates, seconds of one forward pass in evaluation mode.
        constant: Seconds that every network takes beyond its candidates, fitted.
        scale: What the sum of the candidates is multiplied by, fitted; see
            :func:`fastnas.costs.measurement.measure_table`.
        fitted_on: Networks to which both were fitted.
        unseen: Networks that had no part in the table, if it was tested.
    """

    __pydantic_config__ = STRICT

    space: str
    primitives: tuple[str, ...]
    size: NetworkSize
    device: str
    torch_version: str
    threads: int
    date: str
    repeats: int
    entries: tuple[Entry, ...]
    constant: Finite
    fitted_on: tuple[Network, ...]
    unseen: tuple[Network, ...] = ()
    scale: Seconds = 1.0

    def costs(self, space: Space) -> CostTable:
        """The seconds as a cost with a slope; ``space`` is that of the table."""
        seconds = {entry.candidate: entry.seconds for entry in self.entries}
        return tabulate(space, self.size, "seconds", lambda candidate: self.scale * seconds[candidate], self.constant)

    @property
    def error(self) -> float:
        """Mean absolute percentage error on networks that had no part in the table."""
        return percentage_error([n.predicted for n in self.unseen], [n.measured for n in self.unseen])

    @property
    def error_of_mean(self) -> float:
        """The same of predicting the mean of the fitted networks."""
        mean = fmean(network.measured for network in self.fitted_on)
        return percentage_error([mean] * len(self.unseen), [n.measured for n in self.unseen])


_AS_JSON = TypeAdapter(LatencyTable)


def percentage_error(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Mean absolute percentage error, ``100 mean(|predicted - measured| / measured)``; ``measured`` is positive."""
    return 100 * fmean(abs(p - m) / m for p, m in zip(predicted, measured, strict=True))


def linear_fit(sums: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Scale and constant with which ``constant + scale * sum`` predicts ``measured``: a scale of 1, or that of Theil
    and Sen (1968) if it predicts networks better that are left out of the fit."""
    fits = (_fit_constant, _fit_line) if len(sums) > 3 else (_fit_constant,)
    return min(fits, key=lambda fit: _left_out_error(fit, sums, measured))(sums, measured)


def leave_one_out_error(sums: Sequence[float], measured: Sequence[float]) -> float:
    """Percentage error of the better fit on each network, fitted to all others."""
    return min(_left_out_error(fit, sums, measured) for fit in (_fit_constant, _fit_line))


def _fit_constant(sums: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    return 1.0, median(m - s for m, s in zip(measured, sums, strict=True))


def _fit_line(sums: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    from scipy.stats import theilslopes  # noqa: PLC0415  (takes half a second)

    scale = max(0.0, float(np.asarray(theilslopes(measured, sums)[0]))) if len(set(sums)) > 1 else 1.0
    return scale, median(m - scale * s for m, s in zip(measured, sums, strict=True))


def _left_out_error(fit: Fit, sums: Sequence[float], measured: Sequence[float]) -> float:
    if len(sums) == 1:
        return float("inf")
    predicted = []
    for i in range(len(sums)):
        scale, constant = fit([*sums[:i], *sums[i + 1 :]], [*measured[:i], *measured[i + 1 :]])
        predicted.append(constant + scale * sums[i])
    return percentage_error(predicted, measured)


def require_better_than_mean(table: LatencyTable) -> None:
    """Raise unless the table predicts networks that it has not seen better than their mean does."""
    if not table.error < table.error_of_mean:
        mean = f"{table.error_of_mean:.1f} %"
        rule = f"the table must predict unseen networks better than their mean does, whose error is {mean}"
        remedy = "Stop other programs and measure again with more --minutes, or keep the table with --force."
        raise invalid(WHERE, rule, f"{table.error:.1f} %", remedy)


def describe(table: LatencyTable) -> list[str]:
    """What to say of a table, its errors as plainly as its merits."""

    def ms(seconds: float) -> str:
        return f"{1e3 * seconds:.3f} ms"

    residuals = [network.measured - network.predicted for network in table.fitted_on]
    lines = [
        f"{len(table.entries)} candidates of {table.space} on {table.device} "
        f"(torch {table.torch_version}, {table.threads} threads), medians of {table.repeats} interleaved samples",
        f"fitted: {ms(table.constant)} + {table.scale:.3f} times the sum of the candidates, to "
        f"{len(table.fitted_on)} networks (residuals {ms(min(residuals))} to {ms(max(residuals))})",
    ]
    if table.unseen:
        predicted = [network.predicted for network in table.unseen]
        measured = [network.measured for network in table.unseen]
        noise = 100 * median((n.quartiles[1] - n.quartiles[0]) / n.measured for n in table.unseen)
        from scipy.stats import kendalltau  # noqa: PLC0415  (takes half a second)

        tau = kendalltau(predicted, measured)[0] if len({*predicted}) > 1 else 0.0
        lines += [
            f"{len(measured)} unseen networks took {ms(min(measured))} to {ms(max(measured))}; half of the samples of "
            f"a network lay within {noise:.1f} % around its median",
            f"mean absolute percentage error {table.error:.1f} % "
            f"(predicting the mean of the fitted networks: {table.error_of_mean:.1f} %)",
            f"Kendall's tau {tau:.2f}",
        ]
    return lines


def save_table(path: Path, table: LatencyTable) -> None:
    """Write ``table`` as JSON, atomically."""
    write_json(path, _AS_JSON.dump_python(table, mode="json"))


def load_table(path: Path, space: Space, size: NetworkSize | None = None) -> LatencyTable:
    """Read a table, and refuse one that was measured for anything else."""
    table = validate(_AS_JSON, read_json(path), WHERE, f"{path} must hold a latency table")
    if (table.space, table.primitives) != (space.name, space.primitives):
        got = f"one of {table.space} ({', '.join(table.primitives)})"
        raise invalid(WHERE, f"{path} must be a table of the space {space.name}", got, "Measure one for this space.")
    if size is not None and size != table.size:
        names = [name for name in vars(size) if getattr(size, name) != getattr(table.size, name)]
        rule = f"{path} must be a table of a network with " + ", ".join(f"{n} {getattr(size, n)}" for n in names)
        got = ", ".join(f"{n} {getattr(table.size, n)}" for n in names)
        raise invalid(WHERE, rule, got, "Measure one at this size.")
    timed = {entry.candidate for entry in table.entries}
    missing = [candidate for candidate in list_distinct_candidates(space, table.size) if candidate not in timed]
    if missing:
        raise invalid(WHERE, f"{path} must have an entry for every candidate", f"none for {missing[:1]}")
    return table


def require_writable(path: Path) -> None:
    """Raise now, and not after minutes of measuring, if ``path`` cannot be written."""
    rule = "out must be a file that can be written"
    if path.is_dir():
        raise invalid(WHERE, rule, f"the folder {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise invalid(WHERE, rule, f"{path} ({os.strerror(error.errno or 0)})") from None
