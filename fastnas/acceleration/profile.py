"""Where the time and the saved bytes of a supernet's step go, and what is wrong with it, by name."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as torch_profile

from fastnas.acceleration.watch import LABEL, Labels, Watch, find_parts
from fastnas.errors import describe, invalid, require_type
from fastnas.ranks import wait_for

_WAITING = 0.1
"""Share of a step that a loader may take before it is named."""


class Row(NamedTuple):
    """One line of a profile.

    Args:
        part: What the step spends its time on.
        seconds: In one step.
        saved_bytes: Kept for the backward pass by this part and no smaller one.
        calls: In one step.
    """

    part: str
    seconds: float
    saved_bytes: int
    calls: int


@dataclass(frozen=True)
class StepProfile:
    """Where one step goes.

    Args:
        rows: Parts of the step: phases first, then cells, edges and candidates; an outer part holds the inner ones.
        faults: What is wrong, a sentence each; empty if nothing was found.
        seconds: Of the whole step, loader included.
    """

    rows: tuple[Row, ...]
    faults: tuple[str, ...]
    seconds: float

    def table(self) -> Table:
        """For a terminal, with bars."""
        table = Table("part", "", title=f"one step: {1e3 * self.seconds:.1f} ms")
        for heading in ("ms", "share", "saved MB", "calls"):
            table.add_column(heading, justify="right")
        for row in self.rows:
            share = row.seconds / self.seconds
            cells = f"{1e3 * row.seconds:.1f}", f"{share:.0%}", f"{row.saved_bytes / 1e6:.1f}", f"{row.calls}"
            table.add_row(row.part, "█" * round(20 * min(share, 1)), *cells)
        return table

    def __str__(self) -> str:
        lines = [f"one step: {1e3 * self.seconds:.1f} ms"]
        for row in self.rows:
            share = row.seconds / self.seconds
            bar = "#" * round(20 * min(share, 1))
            lines.append(
                f"{row.part:12} {1e3 * row.seconds:9.1f} ms {share:5.0%} {row.saved_bytes / 1e6:9.1f} MB "
                f"{row.calls:5} calls {bar}"
            )
        return "\n".join([*lines, *(f"fault: {fault}" for fault in self.faults or ("none found",))])


def profile(
    network: nn.Module,
    batch: tuple[Tensor, Tensor],
    *,
    alphas: Sequence[Tensor] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    optimizer: torch.optim.Optimizer | None = None,
    alpha_step: Callable[[], object] | None = None,
    loader: Iterable[object] | None = None,
    trace: Path | str | None = None,
) -> StepProfile:
    """Measure one step of a supernet, its own or accelerated, and name what is wrong with it.

    Named are: candidates that are evaluated twice, values that the host waits for, alpha without a gradient, gradients
    of weights that the alpha step computes, a loader that is waited for, and maps whose memory layout is changed back
    and forth. The weights move by one step of ``optimizer`` if it is given, running statistics by three evaluations.

    Args:
        network: Called as ``network(images)``.
        batch: Images ``[N, C, H, W]`` and what the loss takes beside them.
        alphas: The architecture's logits; ``network.arch_parameters()``, or the parameters named alpha or beta, if not
            given.
        loss: Of the network's outputs and the second part of the batch.
        optimizer: Of the weights, to be measured, too.
        alpha_step: A whole step of alpha, to be measured and looked at, too.
        loader: Two of its batches are waited for.
        trace: A file for a Chrome trace, to be opened with https://ui.perfetto.dev.

    Returns:
        Seconds and bytes by part, and the faults.

    Raises:
        ValueError: If the network has no output that the loss can take.

    Example:
        >>> import fastnas
        >>> from torch import nn, randn, randint
        >>> fastnas.profile(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (randn(2, 3, 2, 2), randint(3, (2,)))).faults
        ()
    """
    require_type("profile", "network", network, nn.Module)
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise invalid("profile", "batch must be a pair of images and labels", describe(batch))
    images, labels = batch
    logits = list(alphas) if alphas is not None else _find_alphas(network)
    kinds = find_parts(network)
    with Labels(kinds) as labelled:

        def forward() -> Tensor:
            outputs = network(images)
            value = loss(outputs, labels)
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise invalid("profile", "loss must return one number", type(value).__name__)
            return value

        variables = [p for p in (*network.parameters(), *logits) if p.requires_grad]
        unique = list({id(p): p for p in variables}.values())
        forward()  # compiles what is compiled at first use
        with Watch(labelled.in_engine) as watch:  # slow, so apart from what is timed
            labelled.reset()
            with labelled.saving():
                value = forward()
            gradients = torch.autograd.grad(value, unique, allow_unused=True)
        calls = labelled.calls.copy()
        weights = [p for p in network.parameters() if p.requires_grad and id(p) not in set(map(id, logits))]
        step, filled = _look_at(alpha_step, weights)
        phases, total = _time_phases(forward, unique, optimizer, step, loader, trace, images.device)
    seconds = phases.pop("_parts")
    rows = [Row(name, spent, 0, 1) for name, spent in phases.items()]
    by_kind: dict[str, int] = defaultdict(int)
    for part, number in calls.items():
        by_kind[kinds[part][0]] += number
    rows += [
        Row(kind, seconds.get(kind, 0.0), labelled.saved[kind], by_kind[kind])
        for kind in ("cells", "edges", "candidates")
        if by_kind[kind]
    ]
    rows.append(Row("the rest", max(0.0, phases["forward"] - seconds.get("outermost", 0.0)), labelled.saved[""], 1))
    found = dict(zip(map(id, unique), gradients, strict=True))
    faults = [
        *_find_repeats(calls, kinds),
        *watch.faults(sum(kind == "edges" for kind, _ in kinds.values())),
        *_find_silent_alphas(network, logits, found),
        *filled,
    ]
    waited = phases.get("loader", 0.0)
    if waited > _WAITING * total:
        faults.append(
            f"a step waits {1e3 * waited:.1f} ms for the loader, {waited / total:.0%} of its time: "
            "use more workers, or keep the data in memory"
        )
    return StepProfile(tuple(rows), tuple(faults), total)


def _time_phases(
    forward: Callable[[], Tensor],
    variables: Sequence[Tensor],
    optimizer: torch.optim.Optimizer | None,
    alpha_step: Callable[[], object] | None,
    loader: Iterable[object] | None,
    trace: Path | str | None,
    device: torch.device,
) -> tuple[dict[str, Any], float]:
    """Seconds of the phases, of the kinds of parts under ``_parts``, and of all phases together."""
    phases: dict[str, Any] = {}

    def measure(name: str, run: Callable[[], Any]) -> Any:
        wait_for(device)
        started = perf_counter()
        with record_function(name):
            result = run()
        wait_for(device)
        phases[name] = perf_counter() - started
        return result

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with torch_profile(activities=activities, acc_events=True) as events:
        value = measure("forward", forward)
        gradients = measure("backward", lambda: torch.autograd.grad(value, variables, allow_unused=True))
        if optimizer is not None:
            kept = [p.grad for p in variables]
            for p, gradient in zip(variables, gradients, strict=True):
                p.grad = gradient
            measure("optimiser", optimizer.step)
            for p, gradient in zip(variables, kept, strict=True):
                p.grad = gradient
    if alpha_step is not None:
        measure("alpha step", alpha_step)
    if loader is not None:
        batches = iter(loader)
        next(batches)  # starts the workers
        phases["loader"] = _measure_seconds(lambda: next(batches, None))
    total = sum(phases.values())
    if trace is not None:
        events.export_chrome_trace(str(trace))
    sums: dict[str, float] = defaultdict(float)
    for event in events.key_averages():
        if event.key.startswith(LABEL):
            sums[event.key.removeprefix(LABEL)] += 1e-6 * event.cpu_time_total
    sums["outermost"] = sums.get("cells") or sums.get("edges") or sums.get("candidates") or 0.0
    phases["_parts"] = sums
    return phases, total


def _measure_seconds(run: Callable[[], object]) -> float:
    started = perf_counter()
    run()
    return perf_counter() - started


def _find_alphas(network: nn.Module) -> list[Tensor]:
    given = getattr(network, "arch_parameters", None)
    if callable(given):
        return [x for x in given() if isinstance(x, Tensor)]  # type: ignore[union-attr]
    words = ("alpha", "beta", "arch_")
    return [p for name, p in network.named_parameters() if any(word in name.lower() for word in words)]


def _find_repeats(calls: dict[nn.Module, int], kinds: dict[nn.Module, tuple[str, str]]) -> Iterator[str]:
    again = [kinds[part][1] for part, number in calls.items() if kinds[part][0] == "candidates" and number > 1]
    if again:
        yield (
            f"{len(again)} candidates run more than once a forward pass, {again[0]} first: "
            "keep the result in a variable, and ask the coefficient for its device"
        )


def _find_silent_alphas(
    network: nn.Module, logits: Sequence[Tensor], found: Mapping[int, Tensor | None]
) -> Iterator[str]:
    names = {id(value): name for name, value in [*network.named_parameters(), *vars(network).items()]}
    for number, alpha in enumerate(logits):
        gradient = found.get(id(alpha))
        name = names.get(id(alpha), f"number {number}")
        if gradient is None:
            yield f"alpha {name} has no gradient: the loss does not depend on it, or something cuts its graph (detach)"
        elif not gradient.any():
            yield f"alpha {name} has a gradient of zeros"


def _look_at(
    alpha_step: Callable[[], object] | None, weights: Sequence[Tensor]
) -> tuple[Callable[[], object] | None, list[str]]:
    """The step of alpha, and the faults that it fills in when it runs."""
    faults: list[str] = []
    if alpha_step is None:
        return None, faults

    def run() -> None:
        kept = [p.grad for p in weights]
        for p in weights:
            p.grad = None
        alpha_step()
        filled = sum(p.grad is not None for p in weights)
        for p, gradient in zip(weights, kept, strict=True):
            p.grad = gradient
        if filled:
            faults.append(
                f"the alpha step computes the gradients of {filled} weights, which nobody needs: "
                "use torch.autograd.grad(loss, alphas) instead of loss.backward()"
            )

    return run, faults
