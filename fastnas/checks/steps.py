"""Does a step leave alone what is not its own, and is it the same again?"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fastnas.checks.finding import Finding, Verdict, compare, note, skip
from fastnas.checks.system import Build, System, Twin
from fastnas.seeds import torch_seed

BITS = "bit for bit"
_ROUNDINGS = 16
"""An architect that adds to the weights three times and subtracts again makes six, each of half a unit."""


@dataclass(frozen=True)
class Trace:
    """One alpha step and one weight step of a fresh system: copies of what was there.

    Args:
        before: Weights and buffers at the start.
        between: Weights, buffers and alpha after the alpha step.
        after: Weights and alpha after both.
        owned: Tensors of alpha that the weight optimiser owns, too.
    """

    before: Mapping[str, Mapping[str, Tensor]]
    between: Mapping[str, Mapping[str, Tensor]]
    after: Mapping[str, Mapping[str, Tensor]]
    owned: tuple[str, ...]


def trace_twice(build: Build, seed: int) -> tuple[Trace, Trace]:
    """Two of the same seed, with the global generator in two states."""
    return _trace(build, seed, 1), _trace(build, seed, 2)


def _trace(build: Build, seed: int, elsewhere: int) -> Trace:
    with torch_seed(elsewhere):
        system = build(seed)
        owned = {id(p) for group in system.weight_optimizer.param_groups for p in group["params"]}
        before = _copies(system)
        system.alpha_step()
        between = _copies(system)
        system.weight_step()
        return Trace(before, between, _copies(system), tuple(n for n, a in system.alpha.items() if id(a) in owned))


def _copies(system: System) -> dict[str, dict[str, Tensor]]:
    kinds = {"w": system.w, "alpha": system.alpha, "buffers": system.buffers}
    return {kind: {name: x.detach().clone() for name, x in tensors.items()} for kind, tensors in kinds.items()}


def check_repeats(one: Trace, other: Trace) -> Finding:
    """Whether both gave the same."""
    first, second = ({**trace.after["alpha"], **trace.after["w"]} for trace in (one, other))
    title, same = "the steps repeat from the same seed", "an alpha step and a weight step, twice"
    remedy = "Draw from a torch.Generator with a seed of its own, or seed the global one where the system is built."
    return _compare_tensors(title, first, second, same, remedy)


def check_steps(trace: Trace) -> list[Finding]:
    """What each step left alone."""
    w, buffers, alpha = trace.before["w"], trace.before["buffers"], trace.between["alpha"]
    weights = _compare_tensors(
        "an alpha step leaves the weights alone",
        w,
        trace.between["w"],
        f"{len(w)} tensors",
        "Evaluate moved weights as a function (torch.func.functional_call) instead of moving and restoring them.",
        roundings=_ROUNDINGS,
    )
    title = "an alpha step leaves the network's statistics alone"
    statistics = _compare_tensors(title, buffers, trace.between["buffers"], f"{len(buffers)} buffers", "")
    if statistics.verdict is Verdict.FAILED:  # nothing reads them while a search normalises by the batch
        meaning = f"{statistics.meaning}; track_running_stats=False keeps none"
        statistics = note("an alpha step moves the network's statistics", statistics.error, meaning)
    statistics = statistics if buffers else skip(title, "the network keeps none")
    title = "a weight step leaves alpha alone"
    remedy = "Give the weight optimiser the weights alone; parameters() of a module that holds alpha gives both."
    if trace.owned:
        meaning = f"the weight optimiser owns {', '.join(trace.owned)}"
        return [weights, statistics, compare(title, float("inf"), 0.0, BITS, meaning, remedy)]
    return [weights, statistics, _compare_tensors(title, alpha, trace.after["alpha"], f"{len(alpha)} tensors", remedy)]


def check_twin(twin: Twin, seed: int) -> Finding:
    """Whether two systems make the same step of the weights."""

    def outcome(build: Build) -> dict[str, Tensor]:
        system = build(seed)
        system.weight_step()
        copies = _copies(system)
        return {**copies["alpha"], **copies["w"]}

    remedy = "Give each consumer of randomness a stream of its own, and do nothing at all where there is nothing to do."
    return _compare_tensors(twin.name, outcome(twin.one), outcome(twin.other), "one weight step", remedy)


def _compare_tensors(
    title: str,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    same: str,
    remedy: str,
    roundings: float = 0.0,
) -> Finding:
    """Whether two sets of tensors are the same, up to ``roundings`` of their largest value; the error is their largest
    difference."""
    differing = [name for name, x in after.items() if not torch.equal(x, before[name])]
    if not differing:
        return compare(title, 0.0, 0.0, BITS, same, "")
    error = max(float((after[name].double() - before[name].double()).abs().max()) for name in differing)
    meaning = f"{len(differing)} of {len(after)} tensors differ, {differing[0]} first"
    if not roundings:
        return compare(title, error, 0.0, BITS, meaning, remedy)
    sizes = [float(x.abs().max()) * torch.finfo(x.dtype).eps for x in before.values() if x.is_floating_point()]
    return compare(
        title, error, roundings * max(sizes, default=0.0), "rounding of adding and subtracting", meaning, remedy
    )
