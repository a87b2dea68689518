"""A table of what candidates take on this device, and how well it predicts whole networks."""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import median

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from fastnas.costs.agreement import kendall_tau, mean_absolute_percentage_error
from fastnas.costs.tables import Candidate, CostTable, NetworkSize, derived_cost, distinct_candidates, tabulate
from fastnas.costs.timing import device_name, time_calls
from fastnas.files import STRICT, read_json, write_json
from fastnas.seeds import stream
from fastnas.spaces.cell_space import CellSpace
from fastnas.spaces.formats import genotype_to_text
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.sampling import random_genotype
from fastnas_kernels.check import complaint, require

WHERE = "latency"
OnRound = Callable[[str, int, int], None]
"""Called with what is being measured, the rounds done and their total."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one candidate takes, alone and on its own input."""

    __pydantic_config__ = STRICT

    primitive: str
    channels: int
    stride: int
    side: int
    seconds: float
    outputs: int | None = None

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.primitive, self.channels, self.stride, self.side, self.outputs)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A whole derived network: what the table says in seconds, and the median and quartiles of what was measured."""

    __pydantic_config__ = STRICT

    genotype: str
    predicted: float
    measured: float
    quartiles: tuple[float, float]


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
        constant: Seconds that every network takes beyond its candidates: the one fitted number, see
            :func:`measure_table`.
        fitted_on: Networks to which it was fitted.
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
    constant: float
    fitted_on: tuple[Network, ...]
    unseen: tuple[Network, ...] = ()

    def costs(self, space: CellSpace) -> CostTable:
        """The seconds as a cost with a slope; ``space`` is that of the table."""
        seconds = {entry.candidate: entry.seconds for entry in self.entries}
        return tabulate(space, self.size, "seconds", lambda candidate: seconds[candidate], self.constant)


_AS_JSON = TypeAdapter(LatencyTable)


def measure(
    space: CellSpace,
    size: NetworkSize,
    device: torch.device,
    path: Path,
    *,
    measured_before: bool = False,
    repeats: int = 15,
    fit: int = 5,
    genotypes: int = 20,
    seed: int = 0,
    on_round: OnRound | None = None,
) -> LatencyTable:
    """Measure a table, test it on networks that it did not see, and keep both in a file: ``fastnas latency``.

    Args:
        space: Whose candidates.
        size: The network at whose shapes.
        device: Where.
        path: The file. It holds the table as soon as that is measured, and the test when it is done.
        measured_before: Test the table that is in the file, instead of measuring a new one.
        repeats: Samples behind each median.
        fit: Networks to fit the constant to.
        genotypes: Networks to test on.
        seed: Decides which.
        on_round: Told of the progress.

    Raises:
        ValueError: Before anything is measured, if an argument is wrong, the file cannot be written, or it holds
            the table of another space or size.
    """
    require(repeats >= 1, WHERE, "repeats must be positive", repeats)
    require(fit >= 1, WHERE, "fit must be positive", fit, "The constant is fitted to that many networks.")
    require(genotypes >= 2, WHERE, "genotypes must be at least 2", genotypes, "A rank correlation needs pairs.")
    table = load_table(path, space, size) if measured_before else None
    require_writable(path)
    if table is None:
        table = measure_table(space, size, device, repeats=repeats, fit=fit, seed=seed, on_round=on_round)
        save_table(path, table)
    table = check_table(table, space, device, genotypes=genotypes, seed=seed, on_round=on_round)
    save_table(path, table)
    return table


def measure_table(
    space: CellSpace,
    size: NetworkSize,
    device: torch.device,
    *,
    repeats: int = 15,
    fit: int = 5,
    seed: int = 0,
    on_round: OnRound | None = None,
) -> LatencyTable:
    """Time every different candidate of the network, alone, and fit one constant to whole networks.

    A network is predicted as the constant and the sum of its candidates. The constant stands for the stem, the
    preprocessing of the cells, fixed reductions, the classifier, the sums at the nodes and whatever else the sum
    misses: it is the median, over ``fit`` random genotypes, of the measured time less the sum.

    Args:
        space: Whose candidates.
        size: At whose shapes.
        device: Where.
        repeats: Samples behind each median.
        fit: Networks to fit the constant to.
        seed: Decides which networks.
        on_round: Told of the progress.
    """
    candidates = distinct_candidates(space, size)
    calls = [_call_of(c.build(space), (size.batch_size, c.channels, c.side, c.side), device) for c in candidates]
    samples = time_calls(calls, repeats, device, _titled(on_round, "candidates"))
    seconds = {candidate: median(of_call) for candidate, of_call in zip(candidates, samples, strict=True)}
    raw = tabulate(space, size, "seconds", lambda candidate: seconds[candidate], 0.0)
    genotypes = [random_genotype(space, stream(seed, "latency fit", i)) for i in range(fit)]
    of_networks = _time_networks(space, size, genotypes, repeats, device, _titled(on_round, "networks to fit to"))
    sums = [derived_cost(genotype, raw) for genotype in genotypes]
    constant = median(median(of_call) - s for of_call, s in zip(of_networks, sums, strict=True))
    return LatencyTable(
        space=space.name,
        primitives=space.primitives,
        size=size,
        device=device_name(device),
        torch_version=torch.__version__,
        threads=torch.get_num_threads(),
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        repeats=repeats,
        entries=tuple(Entry(**candidate._asdict(), seconds=seconds[candidate]) for candidate in candidates),
        constant=constant,
        fitted_on=_networks(genotypes, [constant + s for s in sums], of_networks),
    )


def check_table(
    table: LatencyTable,
    space: CellSpace,
    device: torch.device,
    *,
    genotypes: int = 20,
    seed: int = 0,
    on_round: OnRound | None = None,
) -> LatencyTable:
    """Measure random networks that had no part in ``table``, and keep them beside its predictions in ``unseen``.

    Args:
        table: What predicts.
        space: Its space.
        device: Where to measure.
        genotypes: How many networks.
        seed: Decides which.
        on_round: Told of the progress.
    """
    known = {network.genotype for network in table.fitted_on}
    drawn: dict[str, Genotype] = {}
    for draw in range(100 * genotypes):
        genotype = random_genotype(space, stream(seed, "latency test", draw)).canonical()
        if len(drawn) < genotypes and genotype_to_text(genotype) not in known:
            drawn[genotype_to_text(genotype)] = genotype
    unseen = list(drawn.values())
    rule = f"the space must have {genotypes} architectures that the constant was not fitted to"
    require(len(unseen) == genotypes, WHERE, rule, len(unseen), "Ask for fewer with --genotypes.")
    samples = _time_networks(space, table.size, unseen, table.repeats, device, _titled(on_round, "unseen networks"))
    costs = table.costs(space)
    return replace(table, unseen=_networks(unseen, [derived_cost(genotype, costs) for genotype in unseen], samples))


def describe(table: LatencyTable) -> list[str]:
    """What to say of a table, its errors as plainly as its merits."""

    def ms(seconds: float) -> str:
        return f"{1e3 * seconds:.3f} ms"

    residuals = [network.measured - network.predicted for network in table.fitted_on]
    lines = [
        f"{len(table.entries)} candidates of {table.space} on {table.device} "
        f"(torch {table.torch_version}, {table.threads} threads), medians of {table.repeats} interleaved samples",
        f"fitted: one constant, {ms(table.constant)}, to {len(table.fitted_on)} networks "
        f"(residuals {ms(min(residuals))} to {ms(max(residuals))}); no candidate was fitted",
    ]
    if table.unseen:
        predicted = [network.predicted for network in table.unseen]
        measured = [network.measured for network in table.unseen]
        mean = sum(network.measured for network in table.fitted_on) / len(table.fitted_on)
        noise = 100 * median((n.quartiles[1] - n.quartiles[0]) / n.measured for n in table.unseen)
        blind = mean_absolute_percentage_error([mean] * len(measured), measured)
        lines += [
            f"{len(measured)} unseen networks took {ms(min(measured))} to {ms(max(measured))}; half of the samples of "
            f"a network lay within {noise:.1f} % around its median",
            f"mean absolute percentage error {mean_absolute_percentage_error(predicted, measured):.1f} % "
            f"(always saying the mean of the fitted networks: {blind:.1f} %)",
            f"Kendall's tau {kendall_tau(predicted, measured):.2f}",
        ]
    return lines


def save_table(path: Path, table: LatencyTable) -> None:
    """Write ``table`` as JSON, atomically."""
    write_json(path, _AS_JSON.dump_python(table, mode="json"))


def load_table(path: Path, space: CellSpace, size: NetworkSize | None = None) -> LatencyTable:
    """Read a table, and refuse one that was measured for anything else.

    Args:
        path: A file that :func:`save_table` wrote.
        space: The space that it must be of.
        size: The network that it must be of; ``None`` for any.

    Raises:
        ValueError: If the file holds no table, or one of another space or size.
    """
    try:
        table = _AS_JSON.validate_python(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its values"
        raise ValueError(complaint(WHERE, f"{path} must hold a latency table", f"{place}: {first['msg']}")) from None
    same = (table.space, table.primitives) == (space.name, space.primitives)
    got = f"one of {table.space} ({', '.join(table.primitives)})"
    require(same, WHERE, f"{path} must be a table of the space {space.name}", got, "Measure one for this space.")
    if size is not None and size != table.size:
        names = [name for name in vars(size) if getattr(size, name) != getattr(table.size, name)]
        rule = f"{path} must be a table of a network with " + ", ".join(f"{n} {getattr(size, n)}" for n in names)
        got = ", ".join(f"{n} {getattr(table.size, n)}" for n in names)
        raise ValueError(complaint(WHERE, rule, got, "Measure one at this size."))
    timed = {entry.candidate for entry in table.entries}
    missing = [candidate for candidate in distinct_candidates(space, table.size) if candidate not in timed]
    require(not missing, WHERE, f"{path} must have an entry for every candidate", f"none for {missing[:1]}")
    return table


def require_writable(path: Path) -> None:
    """Raise now, and not after minutes of measuring, if ``path`` cannot be written."""
    rule = "out must be a file that can be written"
    require(not path.is_dir(), WHERE, rule, f"the folder {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(complaint(WHERE, rule, f"{path} ({os.strerror(error.errno or 0)})")) from None


def _networks(
    genotypes: Sequence[Genotype], predicted: Sequence[float], samples: Sequence[Sequence[float]]
) -> tuple[Network, ...]:
    def network(genotype: Genotype, seconds: float, of_network: Sequence[float]) -> Network:
        lower, middle, upper = np.quantile(of_network, [0.25, 0.5, 0.75]).tolist()
        text = genotype_to_text(genotype.canonical())
        return Network(genotype=text, predicted=seconds, measured=middle, quartiles=(lower, upper))

    return tuple(map(network, genotypes, predicted, samples))


def _time_networks(
    space: CellSpace,
    size: NetworkSize,
    genotypes: Sequence[Genotype],
    repeats: int,
    device: torch.device,
    on_round: Callable[[int, int], None] | None,
) -> list[list[float]]:
    shape = (size.batch_size, *size.image_shape)
    calls = [_call_of(size.build(genotype, space), shape, device) for genotype in genotypes]
    return time_calls(calls, repeats, device, on_round)


def _call_of(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> Callable[[], object]:
    module = module.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = x.to(device).contiguous(memory_format=torch.channels_last)
    return lambda: module(x)


def _titled(on_round: OnRound | None, title: str) -> Callable[[int, int], None] | None:
    return None if on_round is None else lambda done, total: on_round(title, done, total)
