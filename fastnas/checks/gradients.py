"""Does alpha get the gradient that is claimed?

Shape suffix: D directions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fastnas.bilevel.problem import detach_all, differentiate
from fastnas.checks.finding import Finding, compare, skip
from fastnas.checks.slopes import ROUNDING, Direction, along, random_directions, slopes
from fastnas.checks.system import CLOSE, Alternative, Build, Claimed, System

DIRECTIONS = 3  # for each tensor of alpha: one is enough to see an error, three to tell which
DRAWS = 3  # steps that are looked at where they are random
TOLERANCE = 1e-6  # relative; the differences are good to 1e-8 of a slope of 0.1
LOOSEST = 1e-2  # relative; where the reference is less certain than that, nothing can be said
ORIGIN = "1e-6 of the largest slope, and ten times the uncertainty of the differences"
TINY = ROUNDING


@dataclass(frozen=True)
class Observation:
    """What one alpha step used, and what it should have used.

    Args:
        system: Fresh, as it was before the step.
        gradient: ``alpha.grad`` of each tensor just before its optimiser moved it; zero where there was none, and for
            a tensor that the optimiser does not own.
        seed: Of the system, and of the directions.
    """

    system: System
    gradient: Mapping[str, Tensor]
    seed: int

    @cached_property
    def of_penalty(self) -> Mapping[str, Tensor]:
        """The gradient of the penalty by its graph, zero where there is no penalty."""
        if self.system.penalty is None:
            return {name: torch.zeros_like(a) for name, a in self.system.alpha.items()}
        leaves = {name: a.requires_grad_() for name, a in detach_all(self.system.alpha).items()}
        return differentiate(self.system.penalty(leaves, 0), leaves)

    def silent(self, name: str) -> Tensor:
        """The entries of alpha that got no gradient of the loss, whatever the penalty gave them."""
        of_loss = self.gradient[name] - self.of_penalty[name]
        return of_loss.abs() <= 1e-13 * self.gradient[name].abs().max()  # rounding of that difference

    @cached_property
    def directions(self) -> list[Direction]:
        """Over the entries that got a gradient."""
        return [
            direction
            for name, a in self.system.alpha.items()
            for direction in random_directions(name, a, ~self.silent(name), self.seed, DIRECTIONS)
        ]

    @cached_property
    def measured_D(self) -> Tensor:
        return along(self.gradient, self.directions)

    @cached_property
    def claimed(self) -> Claimed:
        return self.system.claim(self.system, self.directions)

    @cached_property
    def penalty_D(self) -> tuple[Tensor, Tensor]:
        """The slope of the penalty by its values, and by its graph."""
        penalty, alpha = self.system.penalty, self.system.alpha
        if penalty is None or not self.directions:
            zero_D = torch.zeros_like(self.measured_D)
            return zero_D, zero_D
        by_values = slopes(lambda at: penalty(at, 0), alpha, self.directions).values
        return by_values, along(self.of_penalty, self.directions)

    @property
    def scale(self) -> float:
        return _largest(self.claimed.slopes.values)

    @property
    def bound(self) -> float:
        """Relative to :attr:`scale`."""
        uncertain = 10 * _largest(self.claimed.slopes.errors) + TINY
        return TOLERANCE + uncertain / max(self.scale, TINY)

    @cached_property
    def rest_D(self) -> Tensor:
        """What is left of the gradient once the claimed one is taken away: the penalty's part, if all is well."""
        return self.measured_D - self.claimed.slopes.values

    @cached_property
    def error(self) -> float:
        """Of the hypergradient, relative. Whatever the penalty contributed is no error here: it has its own check."""
        parts = [torch.zeros_like(self.rest_D), *self.penalty_D]
        return min(_largest(self.rest_D - part) for part in parts) / max(self.scale, TINY)


def observe(build: Build, seed: int) -> Observation:
    """Make one alpha step, and keep what it used beside a system that did not make it."""
    stepping, seen = build(seed), {}

    owned = {id(a) for group in stepping.alpha_optimizer.param_groups for a in group["params"]}

    def look(optimizer: object, args: object, kwargs: object) -> None:
        for name, a in stepping.alpha.items():
            if name not in seen and a.grad is not None and id(a) in owned:
                seen[name] = a.grad.detach().clone()

    hook = stepping.alpha_optimizer.register_step_pre_hook(look)
    stepping.alpha_step()
    hook.remove()
    fresh = build(seed)
    return Observation(fresh, {name: seen.get(name, torch.zeros_like(a)) for name, a in fresh.alpha.items()}, seed)


def check_gradient(observations: Sequence[Observation]) -> list[Finding]:
    """Everything about the gradient of alpha, over several observations where it is random."""
    first = observations[0]
    kinds = {"alpha": [name for name in first.system.alpha if not name.startswith("beta")]}
    kinds["beta"] = [name for name in first.system.alpha if name.startswith("beta")]
    arrives = [_arrives(kind, names, observations) for kind, names in kinds.items() if names]
    return [*arrives, _exact(observations), _penalty(observations), _check_weights(first.system, first.seed)]


def _arrives(kind: str, names: Sequence[str], observations: Sequence[Observation]) -> Finding:
    title = f"every {kind} that matters gets a gradient"
    remedy = (
        "Look for a tensor that was copied, detached or made anew (torch.Tensor(x), .data, .item(), .tolist()) between "
        f"{kind} and the loss, for an optimiser that owns another tensor, and for a step that is never made."
    )
    dead = [name for name in names if all(bool(seen.silent(name).all()) for seen in observations)]
    if len(dead) == len(names):  # nothing is searched
        meaning = f"not one entry of {', '.join(dead)} got a gradient in {len(observations)} steps"
        return compare(title, float("inf"), 0.0, "", meaning, remedy)
    silent_ones = f"; not one entry of {', '.join(dead)}" if dead else ""
    worst, count, total = (0.0, TOLERANCE), 0, 0
    for seen in observations:
        silent = [d for n in names for d in random_directions(n, seen.gradient[n], seen.silent(n), seen.seed, 1)]
        count += sum(int(seen.silent(name).sum()) for name in names)
        total += sum(seen.gradient[name].numel() for name in names)
        found = seen.system.claim(seen.system, silent).slopes
        scale, uncertain = max(seen.scale, TINY), 10 * _largest(found.errors)
        if uncertain > LOOSEST * max(scale, _largest(found.values)):  # a kink at the point, as of a state of zeros
            continue
        bound = TOLERANCE + min((uncertain + TINY) / scale, LOOSEST)
        worst = max(worst, (_largest(found.values) / scale, bound), key=lambda pair: pair[0] / pair[1])
    meaning = f"{count} of {total} entries got none" + (", and the loss does not depend on them" if count else "")
    if worst[0] > worst[1]:
        meaning = f"{count} of {total} entries got none, but the loss has a slope along them"
    meaning += silent_ones
    return compare(title, *worst, ORIGIN, meaning, remedy)


def _exact(observations: Sequence[Observation]) -> Finding:
    title = "the hypergradient is the one that is claimed"
    useful = [seen for seen in observations if seen.directions]
    if not useful:
        return skip(title, "there is no gradient to compare")
    useful = [seen for seen in useful if seen.bound <= LOOSEST]
    if not useful:
        return skip(title, "the loss has no slope here that could be measured: try another seed")
    worst = max(useful, key=lambda seen: seen.error / seen.bound)
    meaning = f"{len(worst.directions)} random directions in {len(useful)} steps"
    if worst.error > worst.bound:
        meaning = diagnose(worst.measured_D - worst.penalty_D[0], worst.claimed)
    remedy = "Compare the alpha step with its formula term by term, and with fastnas.bilevel.hypergradient."
    return compare(title, worst.error, worst.bound, ORIGIN, meaning, remedy)


def diagnose(measured_D: Tensor, claimed: Claimed) -> str:
    """In words, which known defect gives this gradient."""
    exact_D = claimed.slopes.values
    scaled = Alternative("It is {c} times the exact one.", torch.zeros_like(exact_D), exact_D)
    known = sorted([scaled, *claimed.alternatives()], key=lambda alternative: alternative.close)  # narrow ones first
    for text, base_D, rest_D, close in known:
        left_D, factor = measured_D - base_D, 0.0
        if rest_D is not None:
            factor = float(left_D @ rest_D / (rest_D @ rest_D).clamp(min=1e-300))
            left_D = left_D - factor * rest_D
            if abs(factor - 1) < CLOSE:
                continue  # that is the exact one
        if _largest(left_D) <= close * max(_largest(measured_D), TINY):
            return text.replace("{c}", f"{factor:.4g}")
    if _largest(measured_D - exact_D) <= 10 * CLOSE * _largest(exact_D):
        return "It is close to the exact one: look for a small term that is missing, or a coarse difference."
    return "It is none of the known wrong gradients."


def _penalty(observations: Sequence[Observation]) -> Finding:
    title = "the penalty has a slope, and it reaches alpha"
    remedy = "Compute it from coefficients that depend on alpha: no argmax, .item(), .tolist(), .detach() on the way."
    first = next((seen for seen in observations if seen.directions), observations[0])
    if first.system.penalty is None:
        return skip(title, "there is no penalty")
    if not first.directions:
        return skip(title, "there is no gradient to compare")
    by_values, by_graph = first.penalty_D
    scale = _largest(by_values)
    if scale <= TINY:
        meaning = "its value stays the same whichever way alpha moves a little"
        return compare(title, float("inf"), 0.0, "", meaning, remedy)
    applied = first.rest_D if first.error <= first.bound else by_graph
    error = max(_largest(by_graph - by_values), _largest(applied - by_values)) / scale
    bound = max(10 * first.bound * first.scale / scale, 1e-5)
    origin = "ten times that of the hypergradient, with which it is compared"
    share = float(applied @ by_values / (by_values @ by_values))
    return compare(title, error, bound, origin, f"{share:.4g} times its slope arrives at alpha", remedy)


def _check_weights(system: System, seed: int) -> Finding:
    title = "the weights' gradient is the slope of the inner loss"
    w = {name: p.requires_grad_() for name, p in detach_all(system.w).items()}
    gradient = differentiate(system.inner(w, detach_all(system.alpha), 0), w)
    everywhere = {n: random_directions(n, p, torch.ones_like(p, dtype=torch.bool), seed, 1)[0] for n, p in w.items()}

    def moved(by: Mapping[str, Tensor]) -> Tensor:
        constants = detach_all(system.w)
        at = {name: p + by["t"] * everywhere[name].vector for name, p in constants.items()}
        return system.inner(at, detach_all(system.alpha), 0)

    unit = [Direction("t", torch.ones((), dtype=torch.float64))]
    found = slopes(moved, {"t": torch.zeros((), dtype=torch.float64)}, unit)
    measured = along(gradient, list(everywhere.values())).sum()
    scale = max(float(along(gradient, list(everywhere.values())).abs().sum()), TINY)
    error = abs(float(measured - found.values[0])) / scale
    bound = TOLERANCE + min((10 * float(found.errors[0]) + TINY) / scale, LOOSEST)
    remedy = "A backward pass of the network is wrong, or the loss depends on more than the weights it is given."
    return compare(title, error, bound, ORIGIN, "one random direction in all weights at once", remedy)


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0
