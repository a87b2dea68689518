"""What each unit of a supernet, its stem and its cells, keeps and needs under each word of ``recompute``."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from fastnas.memory.predict import Prediction, merged
from fastnas.memory.subject import Scene, Subject, fake_scene, moments, real_scene
from fastnas.memory.tracker import Tracker


@dataclass
class Pass:
    """One forward pass of a phase, and the backward passes through it; bytes.

    Args:
        base: Alive when it began.
        after: Alive after each unit.
        needs: The most that was alive while a unit ran, forward or backward.
        head: The same behind the last unit: the classifier and the loss, forward and backward.
    """

    base: int
    after: list[int] = field(default_factory=list)
    needs: list[int] = field(default_factory=list)
    head: int = 0

    def before(self, unit: int) -> int:
        """Alive before ``unit`` ran."""
        return self.after[unit - 1] if unit else self.base

    def kept(self, unit: int) -> int:
        """What ``unit`` left alive for its backward pass."""
        return self.after[unit] - self.before(unit)

    def extra(self, unit: int) -> int:
        """What was alive at most while ``unit`` ran, beyond what the units before it had left."""
        return self.needs[unit] - self.before(unit)


class _Watch:
    """Notes in which unit of which pass the tracker stands. A unit's backward pass begins when the gradient of its
    output is there."""

    def __init__(self, tracker: Tracker, units: Sequence[nn.Module]) -> None:
        self.tracker, self.units = tracker, units
        self.passes: list[Pass] = []
        self.place: tuple[Pass, int] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [self.units[0].register_forward_pre_hook(self._begin)]
        handles += [unit.register_forward_hook(self._leave(number)) for number, unit in enumerate(self.units)]
        try:
            yield
            self._move(None)
        finally:
            for handle in handles:
                handle.remove()

    def _move(self, place: tuple[Pass, int] | None) -> None:
        highest = self.tracker.take_highest()
        if self.place is not None:
            of_pass, unit = self.place
            if unit < len(of_pass.needs):
                of_pass.needs[unit] = max(of_pass.needs[unit], highest)
            elif unit == len(self.units):
                of_pass.head = max(of_pass.head, highest)
            else:
                of_pass.needs.append(highest)
        self.place = place

    def _begin(self, module: nn.Module, arguments: Any) -> None:
        if torch._C._current_graph_task_id() == -1:  # otherwise it is evaluated again
            begun = Pass(self.tracker.num_bytes)
            self.passes.append(begun)
            self._move((begun, 0))

    def _leave(self, number: int) -> Callable[[nn.Module, Any, Any], None]:
        def leave(module: nn.Module, arguments: Any, output: Any) -> None:
            if torch._C._current_graph_task_id() != -1:
                return
            current = self.passes[-1]
            self._move((current, number + 1))
            current.after.append(self.tracker.num_bytes)
            newest: Tensor = output if isinstance(output, Tensor) else output[-1]
            if newest.requires_grad:
                newest.register_hook(lambda gradient: self._move((current, number)))

        return leave


@dataclass(frozen=True)
class Profile:
    """What a search needs under one plan.

    Args:
        prediction: Of its phases.
        passes: Of all phases at all moments, in the order in which they ran.
    """

    prediction: Prediction
    passes: Sequence[Pass]


def profile(subject: Subject, granularity: int = 1) -> Profile:
    """The prediction for ``subject``, and what each of its units takes part in it."""
    passes: list[Pass] = []
    found: dict[str, Any] = {}
    for moment in moments(subject):
        scene = fake_scene(subject, moment, on_gpu=granularity > 1)
        gc.collect()
        tracker = Tracker(granularity)
        for cause, tensors in scene.given.items():
            tracker.hold(tensors, cause)
        for name, phase in scene.phases().items():
            tracker.forget_peak()
            watch = _Watch(tracker, units_of(scene))
            with tracker, tracker.explaining(scene.run.state.w.values()), watch.watching():
                phase()
            passes += watch.passes
            merged(found, subject, moment, name, tracker.peak)
    return Profile(Prediction(found), passes)


def units_of(scene: Scene) -> Sequence[nn.Module]:
    """The stem and the cells of the supernet."""
    return scene.run.state.supernet.units  # type: ignore[return-value]


@dataclass(frozen=True)
class Times:
    """Seconds of one step that keeps everything, measured.

    Args:
        step: All phases.
        again: What it would take more to evaluate each unit once more in the backward passes.
        batch_size: Images of the step.
    """

    step: float
    again: tuple[float, ...]
    batch_size: int


def measure_times(subject: Subject, device: torch.device, repeats: int = 2) -> Times:
    """Time one step of ``subject`` on ``device``, and its units; the fastest of ``repeats`` after one to warm up."""
    scene = real_scene(subject.changed(recompute=("none",)), moments(subject)[0], device)
    units = units_of(scene)
    best: tuple[float, tuple[float, ...]] | None = None
    for _ in range(repeats + 1):
        spent = [0.0] * len(units)
        with _timing(units, spent, device):
            started = _now(device)
            for phase in scene.phases().values():
                phase()
            total = _now(device) - started
        warm, best = best is None, min(best or (float("inf"), ()), (total, tuple(spent)))
        best = (float("inf"), ()) if warm else best
    assert best is not None
    return Times(*best, subject.config.batch_size)


@contextmanager
def _timing(units: Sequence[nn.Module], spent: list[float], device: torch.device) -> Iterator[None]:
    begun = [0.0] * len(units)

    def enter(number: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            begun[number] = _now(device)

        return hook

    def leave(number: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if torch.is_grad_enabled():
                spent[number] += _now(device) - begun[number]

        return hook

    handles = [unit.register_forward_pre_hook(enter(i)) for i, unit in enumerate(units)]
    handles += [unit.register_forward_hook(leave(i)) for i, unit in enumerate(units)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


Profiles = Mapping[str, Profile]
"""By the word that all units have."""
