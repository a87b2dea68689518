"""Peak bytes of every phase of a search step: predicted without memory, and measured with it by the same tracker."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from fastnas.memory.subject import Moment, Scene, Subject, fake_scene, moments, real_scene
from fastnas.memory.tracker import Peak, Tracker


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

    @property
    def phase(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda name: self.phases[name].num_bytes)


def predict(subject: Subject, granularity: int = 1) -> Prediction:
    """The peak of every phase, on tensors without memory.

    The real code of the search runs, with autograd and all, at the moments at which it needs most. A method that
    draws candidates is given draws of the dearest ones: the prediction is an upper bound of its steps.

    Args:
        subject: The search.
        granularity: Of the allocator, in bytes; more than 1 is a GPU's.
    """
    return _peaks(subject, partial(fake_scene, on_gpu=granularity > 1), granularity)


def measure(subject: Subject, granularity: int = 1) -> Prediction:
    """The same on real tensors, which takes the memory and the time of a step."""
    return _peaks(subject, real_scene, granularity)


def _peaks(subject: Subject, scene_of: Callable[[Subject, Moment], Scene], granularity: int) -> Prediction:
    phases: dict[str, Peak] = {}
    for moment in moments(subject):
        for name, peak in peaks_of(scene_of(subject, moment), granularity).items():
            merged(phases, subject, moment, name, peak)
    return Prediction(phases)


def merged(phases: dict[str, Peak], subject: Subject, moment: Moment, name: str, peak: Peak) -> None:
    """Add the peak of a phase at a moment to those of all phases."""
    title = f"{name}, stage {moment.stage + 1}" if len(subject.method.stages) > 1 else name
    phases[title] = max(peak, phases.get(title, peak), key=lambda peak: peak.num_bytes)


def peaks_of(scene: Scene, granularity: int = 1) -> dict[str, Peak]:
    """The peak of every phase of one step."""
    gc.collect()
    tracker = Tracker(granularity)
    for cause, tensors in scene.given.items():
        tracker.hold(tensors, cause)
    found = {}
    for name, phase in scene.phases().items():
        tracker.forget_peak()
        with tracker, tracker.explaining(scene.run.state.w.values()):
            phase()
        found[name] = tracker.peak
    return found
