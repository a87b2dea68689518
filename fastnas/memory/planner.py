"""Chooses how a search runs, so that it fits a budget."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from fastnas.data import ImageData
from fastnas.engine.fit import require_fit
from fastnas.memory.budget import Budget, read_budget, show_bytes
from fastnas.memory.choose import Candidate, cheapest
from fastnas.memory.predict import Prediction, predict
from fastnas.memory.remedies import LEAST, largest_batch, least_bytes, remedies
from fastnas.memory.subject import Subject
from fastnas.memory.units import Pass, Profile, Times, measure_times, profile
from fastnas.methods.method import Method
from fastnas.ranks import torch_device
from fastnas.spaces.cell_space import CellSpace, with_depth
from fastnas.supernet.recompute import Word
from fastnas.training.config import SearchConfig
from fastnas_kernels.check import complaint, require

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
        seconds: Of a step on the device that was asked, or ``None`` where none was timed.
    """

    config: SearchConfig
    prediction: Prediction
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """How to run a search within a budget.

    Args:
        asked: The search as it was asked for.
        budget: What it may take.
        chosen: How to run it; ``None`` if nothing that was allowed fits.
        everything: What it would be if all was kept.
        cheaper: The next plan of fewer bytes, if one was looked for and found.
        dearer: The next faster plan, which would need more bytes.
        remedies: Changes, each of which alone would make it fit, and suggestions that change the method.
        device: Where seconds were measured, if anywhere.
    """

    asked: Subject
    budget: Budget
    chosen: Option | None
    everything: Option
    cheaper: Option | None = None
    dearer: Option | None = None
    remedies: tuple[str, ...] = ()
    device: str = ""

    @property
    def config(self) -> SearchConfig:
        """The settings to search with.

        Raises:
            ValueError: If nothing fits.
        """
        if self.chosen is None:
            needs = least_bytes(self.asked, self.budget)
            rule = f"budget must be at least {show_bytes(needs)}"
            remedy = "One of these would make it fit: " + "; ".join(self.remedies) + "." if self.remedies else ""
            got = f"{self.budget.text} ({show_bytes(self.budget.usable)} for tensors)"
            raise ValueError(complaint(WHERE, rule, got, remedy))
        return self.chosen.config


def plan(
    space: CellSpace,
    method: Method,
    data: ImageData,
    config: SearchConfig,
    *,
    budget: str | Budget,
    allow: Sequence[Change] = (),
    timed: bool = True,
    neighbours: bool = True,
    on_state: OnState = lambda _: None,
) -> Plan:
    """Find the fastest way to run a search within a budget, and say what every byte is for.

    What is evaluated again in the backward pass is chosen freely, since it changes no number. Arithmetic and batch
    size change the search, and are touched only if that is allowed, in this order. Gradients are not accumulated over
    parts of a batch: every part would be normalised by statistics of its own, so that it would be a search with
    smaller batches and a larger step. Fewer sampled paths are another method, so they are a suggestion and no plan
    (:func:`fastnas.memory.remedies.fewer_paths`).

    The plan that is returned was predicted as a whole, as the search would run it, and fits.

    Args:
        space: Where to search.
        method: How.
        data: On what; see :func:`fastnas.memory.described.described` for data that is not here.
        config: With what numbers; its ``recompute`` is chosen anew.
        budget: See :func:`fastnas.memory.budget.read_budget`.
        allow: What else may change: ``precision``, ``batch``.
        timed: Run a few steps of a small batch on the device of ``config`` to know what evaluating again costs.
            Without it, time is taken to be in proportion to what is kept.
        neighbours: Look for the next cheaper and the next dearer plan as well.
        on_state: Told what is being done.

    Raises:
        ValueError: If the budget does not hold the weights, or method and space do not fit together.
    """
    require_fit(method, space)
    budget = read_budget(budget) if isinstance(budget, str) else budget
    asked = Subject(with_depth(space, config.cells), method, data, replace(config, recompute=("none",)))
    on_state("predicting what it takes to keep everything")
    whole = profile(asked, budget.granularity)
    _require_weights(whole.prediction, budget)
    device = torch_device(config.device)
    times = None
    if timed:
        on_state(f"timing some steps on {device}")
        times = measure_times(asked.changed(batch_size=_timed_batch(asked)), device)
    for subject, of_subject in _allowed(asked, whole, allow, budget, on_state):
        desk = _Desk(subject, budget, of_subject, times, on_state)
        chosen = desk.choose()
        if chosen is not None:
            cheaper, dearer = desk.neighbours(chosen) if neighbours else (None, None)
            everything = desk.option(("none",), whole.prediction)
            return Plan(asked, budget, chosen, everything, cheaper, dearer, device=str(device) if timed else "")
    on_state("looking for a change that would make it fit")
    everything = _Desk(asked, budget, whole, times, on_state).option(("none",), whole.prediction)
    return Plan(asked, budget, None, everything, remedies=tuple(remedies(asked, budget)))


def _require_weights(prediction: Prediction, budget: Budget) -> None:
    causes = prediction.peak.causes
    needed = sum(causes.get(cause, 0) for cause in ("weights", "alpha", "optimiser states"))
    rule = f"budget must hold the weights and the states of their optimisers, {show_bytes(needed)}"
    got = f"{budget.text} ({show_bytes(budget.usable)} for tensors)"
    require(budget.usable > needed, WHERE, rule, got, "Take fewer channels or cells, or a larger budget.")


def _timed_batch(subject: Subject) -> int:
    images = _TIMED_PIXELS // subject.data.resolution**2
    return max(min(images, subject.config.batch_size, 16), min(2, subject.config.batch_size))


def _allowed(
    asked: Subject, whole: Profile, allow: Sequence[Change], budget: Budget, on_state: OnState
) -> Iterator[tuple[Subject, Profile]]:
    """The search as it was asked for, then with what may be changed."""
    yield asked, whole
    subject = asked
    if "precision" in allow and asked.config.precision == "float32":
        subject = asked.changed(precision="bfloat16")
        on_state("predicting bfloat16")
        yield subject, profile(subject, budget.granularity)
    if "batch" in allow:
        on_state("looking for the largest batch")
        largest = largest_batch(subject, budget)
        if largest:
            subject = subject.changed(batch_size=largest)
            yield subject, profile(subject, budget.granularity)


@dataclass(frozen=True)
class _Desk:
    """One search under one budget, whose words are to be chosen."""

    subject: Subject
    budget: Budget
    whole: Profile
    times: Times | None
    on_state: OnState

    @property
    def again(self) -> Sequence[float]:
        """What it takes to evaluate each unit again: seconds, or bytes if nothing was timed."""
        if self.times is not None:
            return [seconds * self.scale for seconds in self.times.again]
        first = self.whole.passes[0]
        return [float(max(0, first.kept(u))) for u in range(len(first.after))]

    @property
    def scale(self) -> float:
        return 1.0 if self.times is None else self.subject.config.batch_size / self.times.batch_size

    def option(self, words: tuple[Word, ...], prediction: Prediction | None = None) -> Option:
        subject = self.subject.changed(recompute=words)
        prediction = predict(subject, self.budget.granularity) if prediction is None else prediction
        seconds = None
        if self.times is not None:
            of_unit = [words[min(u, len(words) - 1)] for u in range(len(self.again))]
            more = sum(s for s, word in zip(self.again, of_unit, strict=True) if word != "none")
            seconds = self.times.step * self.scale + more
        return Option(subject.config, prediction, seconds)

    def fits(self, option: Option) -> bool:
        return option.prediction.peak.num_bytes <= self.budget.usable

    def choose(self) -> Option | None:
        everything = self.option(("none",), self.whole.prediction)
        if self.fits(everything):
            return everything
        if self._uniform_only():
            self.on_state("choosing what is evaluated again")
            return next((option for option in map(self.option, (("cell",), LEAST)) if self.fits(option)), None)
        for candidate in self._candidates(self.budget.usable):
            self.on_state("checking the whole plan")
            option = self.option(candidate.words)
            if self.fits(option):
                return option
        return None

    def _uniform_only(self) -> bool:
        """Networks of several depths share their words."""
        return len({len(p.after) for p in self.whole.passes}) > 1

    def _candidates(self, budget: int) -> Iterator[Candidate]:
        """Plans for a budget, then for somewhat smaller ones: the model adds up what units take by themselves."""
        seen = set()
        for margin in _MARGINS:
            found = cheapest(self.profiles, self.again, int(margin * budget))
            if found is not None and found.words not in seen:
                seen.add(found.words)
                yield found
        yield Candidate(0.0, LEAST)

    @cached_property
    def profiles(self) -> dict[Word, Sequence[Pass]]:
        found: dict[Word, Sequence[Pass]] = {"none": self.whole.passes}
        for word in ("edges", "cell"):
            self.on_state(f"predicting every unit as {word}")
            found[word] = profile(self.subject.changed(recompute=(word,)), self.budget.granularity).passes
        return found

    def neighbours(self, chosen: Option) -> tuple[Option | None, Option | None]:
        """The next cheaper and the next dearer plan."""
        peak, seconds = chosen.prediction.peak.num_bytes, chosen.seconds or 0.0
        everything = self.option(("none",), self.whole.prediction)
        if self._uniform_only():
            return None, None if self.fits(everything) else everything
        dearer = cheaper = None
        if not self.fits(everything):
            dearer = everything
            for share in (1.15, 1.3, 1.6, 2.0):
                found = cheapest(self.profiles, self.again, int(share * self.budget.usable))
                if found is not None and found.words != chosen.config.recompute:
                    option = self.option(found.words)
                    if option.prediction.peak.num_bytes > peak and (option.seconds or 0.0) < seconds:
                        dearer = option
                        break
        for share in (0.85, 0.7, 0.55, 0.4):
            found = cheapest(self.profiles, self.again, int(share * peak))
            if found is not None:
                option = self.option(found.words)
                if option.prediction.peak.num_bytes < peak:
                    cheaper = option
                    break
        return cheaper, dearer
