"""Peak bytes of every phase of a search step: predicted without memory, or measured with it by the same tracker."""

import gc
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from statistics import median

from fastnas.memory.scene import Moment, Scene, Setup, build_fake_scene, build_scene, draws_candidates, list_moments
from fastnas.memory.tracker import Peak, Tracker

Watch = Callable[[Tracker], AbstractContextManager[object]]


@dataclass(frozen=True)
class Prediction:
    """Peak bytes of the phases of a step.

    Args:
        phases: By name, and in the name the stage where there are several.
    """

    phases: Mapping[str, Peak]

    @property
    def peak(self) -> Peak:
        """The largest of all phases."""
        return max(self.phases.values(), key=lambda peak: peak.num_bytes)


def predict(setup: Setup, granularity: int = 1) -> Prediction:
    """Predict the peak of every phase, on tensors without memory.

    The real code of the search runs, with autograd and all, at the moments at which it needs most. A method that
    draws candidates is given draws of the largest ones: the prediction is an upper bound of its steps.

    Args:
        setup: The search.
        granularity: Of the allocator, in bytes; more than 1 is a GPU's.
    """
    return collect(setup, lambda moment: measure_peaks(build_fake_scene(setup, moment, granularity > 1), granularity))


def predict_typical(setup: Setup, granularity: int = 1, draws: int = 5) -> int | None:
    """The median peak over some draws of a fresh alpha, in bytes; ``None`` where nothing that is drawn decides it."""
    if not draws_candidates(setup.method):
        return None
    seeds = (replace(setup, typical=True).changed(seed=setup.config.seed + i) for i in range(draws))
    return int(median(predict(drawn, granularity).peak.num_bytes for drawn in seeds))


def measure(setup: Setup, granularity: int = 1) -> Prediction:
    """Measure the same on real tensors, which takes the memory and the time of a step."""
    return collect(setup, lambda moment: measure_peaks(build_scene(setup, moment), granularity))


def collect(setup: Setup, peaks_at: Callable[[Moment], Mapping[str, Peak]]) -> Prediction:
    """The largest peak of every phase over the moments of a search."""
    phases: dict[str, Peak] = {}
    for moment in list_moments(setup):
        for name, peak in peaks_at(moment).items():
            title = f"{name}, stage {moment.stage + 1}" if len(setup.method.stages) > 1 else name
            phases[title] = max(peak, phases.get(title, peak), key=lambda peak: peak.num_bytes)
    return Prediction(phases)


def measure_peaks(scene: Scene, granularity: int = 1, watch: Watch = lambda tracker: nullcontext()) -> dict[str, Peak]:
    """The peak of every phase of one step."""
    gc.collect()
    tracker = Tracker(granularity)
    for cause, tensors in scene.given.items():
        tracker.hold(tensors, cause)
    found = {}
    for name, phase in scene.phases().items():
        tracker.forget_peak()
        with tracker, tracker.explaining(scene.run.state.w.values()), watch(tracker):
            phase()
        found[name] = tracker.peak
    return found
