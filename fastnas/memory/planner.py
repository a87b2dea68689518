"""Chooses how a search runs, so that it fits a budget."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from fastnas.data import as_data, placeholder_data
from fastnas.engine.fit import require_fit
from fastnas.errors import complaint, invalid, require_type
from fastnas.mechanisms.draw import TwoPaths, gumbel_selected
from fastnas.memory.budget import Budget, Target, read_budget, show_bytes
from fastnas.memory.choice import Recomputation, find_cheapest
from fastnas.memory.prediction import Prediction, predict, predict_typical
from fastnas.memory.scene import Setup
from fastnas.memory.segments import Pass, Profile, Times, measure_times, profile
from fastnas.methods.method import Method
from fastnas.methods.registry import as_method
from fastnas.ranks import torch_device
from fastnas.spaces.space import Space
from fastnas.supernet.own import as_space
from fastnas.supernet.recompute import Word
from fastnas.training.config import SearchConfig

WHERE = "plan"
Change = Literal["precision", "batch"]
OnState = Callable[[str], None]
_MARGINS = (1.0, 0.97, 0.93, 0.87, 0.8, 0.7, 0.6)  # of the budget that the additive model is asked to keep
_TIMED_PIXELS = 2**14  # of the images of a step that is timed: a second or so on one core


@dataclass(frozen=True)
class Option:
    """A way to run the search.

    Args:
        config: Its settings.
        prediction: What it needs.
        seconds: Of a step on the device of the search, or ``None`` where none was timed.
    """

    config: SearchConfig
    prediction: Prediction
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """How to run a search within a budget.

    Args:
        requested: The search as it was asked for.
        budget: What it may take.
        chosen: How to run it; ``None`` if nothing that was allowed fits.
        everything: What it would be if all was kept.
        smaller: The next plan of fewer bytes, if one was looked for and found.
        faster: The next faster plan, which would need more bytes.
        remedies: Changes, each of which alone would make it fit, and suggestions that change the method.
        typical: Peak of the chosen plan at draws of a fresh alpha, where a method draws candidates: its prediction is
            that of the draws that need most.
        device: Where seconds were measured; nothing where the plan's device is not here, or none were asked for.
    """

    requested: Setup
    budget: Budget
    chosen: Option | None
    everything: Option
    smaller: Option | None = None
    faster: Option | None = None
    remedies: tuple[str, ...] = ()
    device: str = ""
    typical: int | None = None

    def __str__(self) -> str:
        from fastnas.memory.text import describe  # noqa: PLC0415  (words are made of plans)

        return "\n".join(describe(self))

    @property
    def config(self) -> SearchConfig:
        """The settings to search with."""
        if self.chosen is None:
            needs = find_least_bytes(self.requested, self.budget)
            rule = f"budget must be at least {show_bytes(needs)}"
            remedy = "One of these would make it fit: " + "; ".join(self.remedies) + "." if self.remedies else ""
            got = f"{self.budget.text} ({show_bytes(self.budget.usable)} for tensors)"
            raise ValueError(complaint(WHERE, rule, got, remedy))
        return self.chosen.config


def plan(
    space: Space | str,
    method: Method | str | Callable[[], Method],
    data: Any,
    config: SearchConfig = SearchConfig(),  # noqa: B008
    *,
    budget: str | Budget | None,
    target: Target | None = None,
    allow: Sequence[Change] = (),
    timed: bool = True,
    neighbours: bool = True,
    on_state: OnState = lambda _: None,
) -> Plan:
    """Find the fastest way to run a search within a budget, and say what every byte is for.

    What is recomputed in the backward pass is chosen freely, since it changes no number. Arithmetic and batch
    size change the search, and are touched only if that is allowed, in this order. Gradients are not accumulated over
    parts of a batch: every part would be normalised by statistics of its own, so that it would be a search with
    smaller batches and a larger step. Fewer sampled paths are another method, so they are a suggestion and no plan
    (:func:`fastnas.memory.planner.take_fewer_paths`).

    The plan that is returned was predicted as a whole, as the search would run it, and fits.

    Args:
        space: Where to search, or its name.
        method: How, or its name.
        data: On what, or what names it: images that are not here are described by their sizes.
        config: With what numbers; its ``recompute`` is chosen anew.
        budget: See :func:`fastnas.memory.budget.read_budget`.
        target: ``cuda`` or ``cpu``: whose kernels and allocator the plan is for, whether that device is here or not;
            by default what ``budget`` says.
        allow: What else may change: ``precision``, ``batch``.
        timed: Run a few steps of a small batch to know what recomputing costs, if the device that the plan is for is
            here. Otherwise time is taken to be in proportion to what is kept.
        neighbours: Look for the next smaller and the next faster plan as well, and for what typical draws need.
        on_state: Told what is being done.

    Raises:
        ValueError: If the budget does not hold the weights, or method and space do not fit together.

    Example:
        >>> import fastnas
        >>> tiny = fastnas.SearchConfig(channels=4, cells=1, batch_size=8)
        >>> quick = {"timed": False, "neighbours": False}
        >>> plan = fastnas.plan("nasbench201", "darts", "digits", tiny, budget="2GB", **quick)
        >>> plan.chosen is not None
        True
    """
    space, method = as_space(space, WHERE), as_method(method, WHERE)
    data = placeholder_data(str(data)) if isinstance(data, str | Path) else as_data(data, WHERE)
    require_type(WHERE, "config", config, SearchConfig)
    require_fit(method, space)
    changes: Sequence[Any] = (allow,) if isinstance(allow, str) else allow
    for name, values, known in (("target", [target or "cpu"], Target), ("allow", changes, Change)):
        if unknown := [value for value in values if value not in get_args(known)]:
            raise invalid(WHERE, f"{name} must be one of {', '.join(get_args(known))}", repr(unknown[0]))
    if budget is not None and not isinstance(budget, Budget):
        budget = require_type(WHERE, "budget", budget, str, "Such as '8GiB'.")
    budget = budget if isinstance(budget, Budget) else read_budget(budget, target)
    requested = Setup(space.with_depth(config.cells), method, data, replace(config, recompute=("none",)))
    on_state("predicting what it takes to keep everything")
    whole = profile(requested, budget.granularity)
    _require_weights(whole.prediction, budget)
    device, times = _choose_device(budget, config.device), None
    if timed and device is not None:
        times = measure_times(requested.changed(batch_size=_choose_timed_batch(requested)), device, on_state=on_state)
    for setup, of_setup in _list_allowed(requested, whole, changes, budget, on_state):
        planner = _Planner(setup, budget, of_setup, times, on_state)
        chosen = planner.choose()
        if chosen is not None:
            smaller, faster = planner.neighbours(chosen) if neighbours else (None, None)
            everything = planner.option(("none",), whole.prediction)
            typical = None
            if neighbours:
                on_state("predicting typical draws")
                typical = predict_typical(replace(requested, config=chosen.config), budget.granularity)
            where = str(device) if times else ""
            return Plan(requested, budget, chosen, everything, smaller, faster, device=where, typical=typical)
    on_state("looking for a change that would make it fit")
    everything = _Planner(requested, budget, whole, times, on_state).option(("none",), whole.prediction)
    return Plan(requested, budget, None, everything, remedies=tuple(list_remedies(requested, budget)))


def _choose_device(budget: Budget, name: str) -> torch.device | None:
    """The device that a plan is for, if it is here: seconds of another one would be no seconds of it."""
    if budget.target == "cpu":
        return torch.device("cpu")
    found = torch_device("auto" if name == "cpu" else name)
    return found if found.type == "cuda" else None


def _require_weights(prediction: Prediction, budget: Budget) -> None:
    causes = prediction.peak.causes
    needed = sum(causes.get(cause, 0) for cause in ("weights", "alpha", "optimiser states"))
    rule = f"budget must hold the weights and the states of their optimisers, {show_bytes(needed)}"
    got = f"{budget.text} ({show_bytes(budget.usable)} for tensors)"
    if budget.usable <= needed:
        raise invalid(WHERE, rule, got, "Take fewer channels or cells, or a larger budget.")


def _choose_timed_batch(setup: Setup) -> int:
    images = _TIMED_PIXELS // prod(setup.data.resolution)
    return max(min(images, setup.config.batch_size, 16), min(2, setup.config.batch_size))


def _list_allowed(
    requested: Setup, whole: Profile, allow: Sequence[Change], budget: Budget, on_state: OnState
) -> Iterator[tuple[Setup, Profile]]:
    """The search as it was asked for, then with what may be changed."""
    yield requested, whole
    setup = requested
    if "precision" in allow and requested.config.precision == "float32":
        setup = requested.changed(precision="bfloat16")
        on_state("predicting bfloat16")
        yield setup, profile(setup, budget.granularity)
    if "batch" in allow:
        on_state("looking for the largest batch")
        largest = find_largest_batch(setup, budget)
        if largest:
            setup = setup.changed(batch_size=largest)
            yield setup, profile(setup, budget.granularity)


@dataclass(frozen=True)
class _Planner:
    """One search under one budget, whose words are to be chosen."""

    setup: Setup
    budget: Budget
    whole: Profile
    times: Times | None
    on_state: OnState

    @property
    def recompute_costs(self) -> Sequence[float]:
        """What it takes to recompute each segment: seconds, or bytes if nothing was timed."""
        if self.times is not None:
            return [seconds * self.scale for seconds in self.times.recompute]
        first = self.whole.passes[0]
        return [float(max(0, first.kept(u))) for u in range(len(first.after))]

    @property
    def scale(self) -> float:
        return 1.0 if self.times is None else self.setup.config.batch_size / self.times.batch_size

    def option(self, words: tuple[Word, ...], prediction: Prediction | None = None) -> Option:
        setup = self.setup.changed(recompute=words)
        prediction = predict(setup, self.budget.granularity) if prediction is None else prediction
        seconds = None
        if self.times is not None:
            words_of_segments = [words[min(u, len(words) - 1)] for u in range(len(self.recompute_costs))]
            more = sum(s for s, word in zip(self.recompute_costs, words_of_segments, strict=True) if word != "none")
            seconds = self.times.step * self.scale + more
        return Option(setup.config, prediction, seconds)

    def fits(self, option: Option) -> bool:
        return option.prediction.peak.num_bytes <= self.budget.usable

    def choose(self) -> Option | None:
        everything = self.option(("none",), self.whole.prediction)
        if self.fits(everything):
            return everything
        if self._uniform_only():
            self.on_state("choosing what is recomputed")
            return next((option for option in map(self.option, (("cell",), LEAST)) if self.fits(option)), None)
        for choice in self._choices(self.budget.usable):
            self.on_state("checking the whole plan")
            option = self.option(choice.words)
            if self.fits(option):
                return option
        return None

    def _uniform_only(self) -> bool:
        """Networks of several depths share their words."""
        return len({len(p.after) for p in self.whole.passes}) > 1

    def _choices(self, budget: int) -> Iterator[Recomputation]:
        """Plans for a budget, then for somewhat smaller ones: the model adds up what segments take by themselves."""
        seen = set()
        for margin in _MARGINS:
            found = find_cheapest(self.profiles, self.recompute_costs, int(margin * budget))
            if found is not None and found.words not in seen:
                seen.add(found.words)
                yield found
        yield Recomputation(0.0, LEAST)

    @cached_property
    def profiles(self) -> dict[Word, Sequence[Pass]]:
        found: dict[Word, Sequence[Pass]] = {"none": self.whole.passes}
        for word in ("edges", "cell"):
            self.on_state(f"predicting every segment as {word}")
            found[word] = profile(self.setup.changed(recompute=(word,)), self.budget.granularity).passes
        return found

    def neighbours(self, chosen: Option) -> tuple[Option | None, Option | None]:
        """The next smaller and the next faster plan."""
        peak, seconds = chosen.prediction.peak.num_bytes, chosen.seconds or 0.0
        everything = self.option(("none",), self.whole.prediction)
        if self._uniform_only():
            return None, None if self.fits(everything) else everything
        faster = smaller = None
        if not self.fits(everything):
            faster = everything
            for share in (1.15, 1.3, 1.6, 2.0):
                found = find_cheapest(self.profiles, self.recompute_costs, int(share * self.budget.usable))
                if found is not None and found.words != chosen.config.recompute:
                    option = self.option(found.words)
                    if option.prediction.peak.num_bytes > peak and (option.seconds or 0.0) < seconds:
                        faster = option
                        break
        for share in (0.85, 0.7, 0.55, 0.4):
            found = find_cheapest(self.profiles, self.recompute_costs, int(share * peak))
            if found is not None:
                option = self.option(found.words)
                if option.prediction.peak.num_bytes < peak:
                    smaller = option
                    break
        return smaller, faster


LEAST: tuple[Word, ...] = ("edges",)
"""The words of least memory."""


def find_least_bytes(setup: Setup, budget: Budget) -> int:
    """What ``setup`` needs if every segment is recomputed, one edge after another."""
    return predict(setup.changed(recompute=LEAST), budget.granularity).peak.num_bytes


def find_largest_batch(setup: Setup, budget: Budget) -> int:
    """The most images a step, below those of ``setup``, with which it fits at its least memory; 0 if none do.

    Peak bytes grow almost linearly with the batch: two predictions give a first guess, which others confirm.
    """

    def needs(batch_size: int) -> int:
        return find_least_bytes(setup.changed(batch_size=batch_size), budget)

    small, large = 2, max(4, setup.config.batch_size // 2)
    at_small, at_large = needs(small), needs(large)
    if at_small > budget.usable:
        return 0
    slope = max(1.0, (at_large - at_small) / (large - small))
    guess = min(setup.config.batch_size - 1, small + int((budget.usable - at_small) / slope))
    while guess > small and needs(guess) > budget.usable:
        guess = max(small, int(0.95 * guess))
    return max(guess, small)


def take_fewer_paths(method: Method) -> tuple[str, Method] | None:
    """``method`` with fewer candidates that run on an edge for alpha's gradient, and what to call the change.

    The gradients of all gates are replaced by those of two sampled paths (Cai et al., 2019, arXiv:1812.00332, section
    3.2.1), a mixture of all candidates by one sampled path (Dong and Yang, 2019, arXiv:1910.04465). ``None`` where
    that would have no meaning, or one or two run already. How many samples a gradient is the mean of, as in PARSEC
    and ProxylessNAS-R, changes no peak: one at a time is evaluated.
    """
    draw = method.draw
    if draw is not None and draw.paths is not None:
        return None
    if draw is not None and draw.gates:
        return "two sampled paths an edge, draw=TwoPaths()", replace(method, draw=TwoPaths())
    if not method.on_simplex:
        return None
    try:
        return "one sampled path an edge, draw=gumbel_selected", replace(method, draw=gumbel_selected)
    except ValueError:  # the method has a part that needs all of them
        return None


def list_remedies(setup: Setup, budget: Budget) -> Iterator[str]:
    """Changes each of which alone would make ``setup`` fit; the last ones change the method."""
    config, k = setup.config, setup.method.partial_channels
    largest = find_largest_batch(setup, budget)
    if largest:
        yield f"--batch-size {largest}"
    changes = []
    if config.precision == "float32":
        changes.append(("--precision bfloat16", setup.changed(precision="bfloat16")))
    if config.channels % 2 == 0 and config.channels // 2 >= 2 * k:
        changes.append((f"--channels {config.channels // 2}", setup.changed(channels=config.channels // 2)))
    if not setup.space.no_partial_channels and k == 1 and config.channels % 8 == 0:
        partial = replace(setup.method, partial_channels=4)
        changes.append(("partial channels with k=4, which is another method", replace(setup, method=partial)))
    paths = take_fewer_paths(setup.method)
    if paths is not None:
        changes.append((f"{paths[0]}, which is another method", replace(setup, method=paths[1])))
    for words, changed in changes:
        needs = find_least_bytes(changed, budget)
        if needs <= budget.usable:
            yield f"{words} (then {show_bytes(needs)})"
