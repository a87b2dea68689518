"""What each segment of a supernet, its stem and its cells, keeps and needs under each word of ``recompute``."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from fastnas.memory.prediction import Prediction, collect, measure_peaks
from fastnas.memory.scene import Moment, Setup, build_fake_scene, build_scene, list_moments
from fastnas.memory.tracker import Peak, Tracker
from fastnas.ranks import wait_for


@dataclass
class Pass:
    """One forward pass of a phase, and the backward passes through it; bytes.

    Args:
        base: Alive when it began.
        after: Alive after each segment.
        needs: The most that was alive while a segment ran, forward or backward.
        head: The same behind the last segment: the classifier and the loss, forward and backward.
    """

    base: int
    after: list[int] = field(default_factory=list)
    needs: list[int] = field(default_factory=list)
    head: int = 0

    def before(self, segment: int) -> int:
        """Alive before ``segment`` ran."""
        return self.after[segment - 1] if segment else self.base

    def kept(self, segment: int) -> int:
        """What ``segment`` left alive for its backward pass."""
        return self.after[segment] - self.before(segment)

    def extra(self, segment: int) -> int:
        """What was alive at most while ``segment`` ran, beyond what the segments before it had left."""
        return self.needs[segment] - self.before(segment)


class _Watch:
    """Follows the tracker through the segments of every pass. A segment's backward pass begins when the gradient of
    its output is there."""

    def __init__(self, tracker: Tracker, segments: Sequence[nn.Module]) -> None:
        self.tracker, self.segments = tracker, segments
        self.passes: list[Pass] = []
        self.place: tuple[Pass, int] | None = None

    @contextmanager
    def watching(self) -> Generator[None, None, None]:
        handles = [self.segments[0].register_forward_pre_hook(self._begin)]
        handles += [segment.register_forward_hook(self._leave(number)) for number, segment in enumerate(self.segments)]
        try:
            yield
            self._move(None)
        finally:
            for handle in handles:
                handle.remove()

    def _move(self, place: tuple[Pass, int] | None) -> None:
        highest = self.tracker.take_highest()
        if self.place is not None:
            current, segment = self.place
            if segment < len(current.needs):
                current.needs[segment] = max(current.needs[segment], highest)
            elif segment == len(self.segments):
                current.head = max(current.head, highest)
            else:
                current.needs.append(highest)
        self.place = place

    def _begin(self, module: nn.Module, arguments: Any) -> None:
        if torch._C._current_graph_task_id() == -1:  # otherwise it is recomputed
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


def profile(setup: Setup, granularity: int = 1) -> Profile:
    """Predict the peaks of ``setup``, and what each of its segments keeps and needs."""
    passes: list[Pass] = []

    def peaks_at(moment: Moment) -> dict[str, Peak]:
        scene = build_fake_scene(setup, moment, on_gpu=granularity > 1)

        @contextmanager
        def watch(tracker: Tracker) -> Generator[None, None, None]:
            watch = _Watch(tracker, scene.segments)
            with watch.watching():
                yield
            passes.extend(watch.passes)

        return measure_peaks(scene, granularity, watch)

    return Profile(collect(setup, peaks_at), passes)


@dataclass(frozen=True)
class Times:
    """Seconds of one step that keeps everything, measured.

    Args:
        step: All phases.
        recompute: More, to recompute each segment in the backward passes.
        batch_size: Images of the step.
    """

    step: float
    recompute: tuple[float, ...]
    batch_size: int


def measure_times(
    setup: Setup, device: torch.device, repeats: int = 2, on_state: Callable[[str], None] = lambda _: None
) -> Times:
    """Time one step of ``setup`` on ``device``, and its segments; the fastest of ``repeats`` after one to warm up."""
    what = f"timing steps of {setup.config.batch_size} images on {device}"
    on_state(f"{what}: 1 of {repeats + 1}, to warm up")
    scene = build_scene(setup.changed(recompute=("none",)), list_moments(setup)[0], device)
    segments, state = scene.segments, scene.run.state
    found: list[tuple[float, tuple[float, ...]]] = []
    first = state.step
    for step in range(repeats + 1):
        state.step = first  # or steps of the last epoch would run into one that no schedule has
        if found:
            on_state(f"{what}: {step + 1} of {repeats + 1}, about {(repeats + 1 - step) * found[-1][0]:.0f} s left")
        spent = [0.0] * len(segments)
        with _timing(segments, spent, device):
            started = _now(device)
            for phase in scene.phases().values():
                phase()
            found.append((_now(device) - started, tuple(spent)))
    return Times(*min(found[1:]), setup.config.batch_size)


@contextmanager
def _timing(segments: Sequence[nn.Module], spent: list[float], device: torch.device) -> Generator[None, None, None]:
    begun = [0.0] * len(segments)

    def enter(number: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            begun[number] = _now(device)

        return hook

    def leave(number: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if torch.is_grad_enabled():
                spent[number] += _now(device) - begun[number]

        return hook

    handles = [segment.register_forward_pre_hook(enter(i)) for i, segment in enumerate(segments)]
    handles += [segment.register_forward_hook(leave(i)) for i, segment in enumerate(segments)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _now(device: torch.device) -> float:
    wait_for(device)
    return perf_counter()
