"""Search steps as CUDA graphs: the host launches a whole step at once instead of thousands of operations.

What a method takes from the host changes with the epoch alone: rates, temperatures, what is alive. So every kind of
step is captured once an epoch. The seeds of its draws lie in tables on the device, of which a step reads its row; a
draw that the host reads is not captured. Whether a replay moves alpha and the weights as the step itself does is tried
once in a run, on a later step than the captured one, before anything relies on it: numbers of the host that nobody knew
of are found there.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastnas.data import Batch
from fastnas.engine.drawn import find_reader
from fastnas.engine.run import Run
from fastnas.engine.step import count_step, is_alpha_due, move
from fastnas.seeds import EpochSeeds
from fastnas.training.numerics import Losses

Capture = Callable[[Callable[[], None]], Callable[[], object]]
"""From work to what does it again in the same memory."""
Kind = tuple[bool, torch.Size, torch.Size | None]
"""Whether alpha moves, and the shapes of the images."""
TOLERANCE = 0.01
"""Largest difference between a replay and a step, as a share of how far the step went."""


def cuda_capture(work: Callable[[], None]) -> Callable[[], object]:
    """Capture ``work`` in a CUDA graph; it is not done yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # loaders pin memory in threads of their own
        work()
    return graph.replay


def find_obstacle(run: Run) -> str | None:
    """Why steps of the epoch that ``run`` is in are not captured in a graph; ``None`` where they are."""
    method, at = run.method, run.at
    alignment, draws = method.alignment, [draw for draw in (method.draw, method.weight_draw) if draw is not None]
    noise = method.drop_path(at) > 0 or method.skip_dropout(at) > 0
    read = find_reader(run.state.supernet, method, run.device, noise)
    reasons = [
        (not all(draw.takes_device_seeds for draw in draws), "every draw takes a seed from the host"),
        (
            method.perturbation is not None and method.radius(at) > 0,
            "every perturbation takes a seed from the host",
        ),
        (
            noise,
            "what is dropped at random comes from a generator that the host seeds in every step",
        ),
        (read is not None, f"the host reads every draw: {read}"),
        (method.matching is not None, "which candidates freeze is decided on the host in every step"),
        (
            alignment is not None and alignment.radius is not None,
            "the length of a difference is read by the host in every step",
        ),
        ("noise" in run.space.primitives, "the primitive noise takes a seed from the host"),
    ]
    return next((why for broken, why in reasons if broken), None)


def make_graphs(run: Run) -> "StepGraphs | None":
    """The graphs of a search; ``None`` without a GPU, with several processes, and where the configuration has none."""
    return StepGraphs(run) if run.device.type == "cuda" and run.config.graph and run.ranks.size == 1 else None


@dataclass
class _Graph:
    weight_batch: Batch
    search_batch: Batch | None
    losses: Losses
    replay: Callable[[], object]

    def run(self, weight_batch: Batch, search_batch: Batch | None) -> None:
        """The step on other batches of the same shapes."""
        for ours, theirs in ((self.weight_batch, weight_batch), (self.search_batch, search_batch)):
            if ours is not None and theirs is not None:
                ours.images.copy_(theirs.images, non_blocking=True)
                ours.labels.copy_(theirs.labels, non_blocking=True)
        self.replay()

    def note(self, losses: Losses) -> None:
        """Add the losses of the last replay."""
        losses.inner += [x.clone() for x in self.losses.inner]
        losses.outer += [x.clone() for x in self.losses.outer]
        losses.correct += [x.clone() for x in self.losses.correct]
        losses.seen += self.losses.seen


class StepGraphs:
    """Makes the steps of a search, each kind captured once an epoch; called like ``search_step`` without its run.

    Args:
        run: The search.
        capture: Captures work.
    """

    def __init__(self, run: Run, capture: Capture = cuda_capture) -> None:
        self.run, self.capture = run, capture
        self.epoch, self.has_graphs = -1, False
        self.graphs: dict[Kind, _Graph | None] = {}
        self.proved: set[Kind] = set()
        self.works, self.replays = True, 0

    def __call__(self, weight_batch: Batch, search_batch: Batch | None) -> None:
        """One step of the search."""
        with self.run.statistics():
            if not self.works or not self._by_graph(weight_batch, search_batch):
                move(self.run, weight_batch, search_batch)
        count_step(self.run)

    def _by_graph(self, weight_batch: Batch, search_batch: Batch | None) -> bool:
        """Whether a graph has made the step."""
        run = self.run
        epoch = run.state.step // run.steps
        if epoch != self.epoch:
            self.epoch, self.graphs, self.has_graphs = epoch, {}, find_obstacle(run) is None
            of_epoch = range(epoch * run.steps, (epoch + 1) * run.steps)
            run.state.seeds = EpochSeeds(of_epoch, run.device) if self.has_graphs else None
        if run.state.seeds is None:
            return False
        run.state.seeds.start(run.state.step)
        due = is_alpha_due(run, search_batch)
        kind = (due, weight_batch.images.shape, search_batch.images.shape if due and search_batch else None)
        search_batch = search_batch if due else None
        if kind not in self.graphs:  # compiles kernels, and makes what optimisers keep
            self.graphs[kind] = None
            return False
        graph = self.graphs[kind]
        if graph is None:
            graph = self.graphs[kind] = self._capture(weight_batch, search_batch)
            if graph is None or kind not in self.proved:
                return False
        if kind not in self.proved:
            self._prove(graph, weight_batch, search_batch)
            self.proved.add(kind)
            return True
        graph.run(weight_batch, search_batch)
        graph.note(run.state.losses)
        self.replays += 1
        return True

    def _capture(self, weight_batch: Batch, search_batch: Batch | None) -> _Graph | None:
        run, device = self.run, self.run.device
        for_weights = Batch(*(x.to(device, copy=True) for x in weight_batch))
        for_alpha = None if search_batch is None else Batch(*(x.to(device, copy=True) for x in search_batch))
        losses, run.state.losses = run.state.losses, Losses()
        try:
            replay = self.capture(lambda: move(run, for_weights, for_alpha))
            return _Graph(for_weights, for_alpha, run.state.losses, replay)
        except RuntimeError as error:  # out of memory is one, too: nothing has moved
            self._give_up(f"it could not be captured: {str(error).splitlines()[0]}")
            return None
        finally:
            run.state.losses = losses

    def _prove(self, graph: _Graph, weight_batch: Batch, search_batch: Batch | None) -> None:
        """Make the step by itself, and compare it with a replay from the same state."""
        run, state = self.run, self.run.state
        moved = [*state.w.values(), *state.alpha.values()]
        kept = [*moved, *state.supernet.buffers(), *_kept_by(state.weight_optimizer, state.alpha_optimizer)]
        with torch.no_grad():
            before = [x.detach().clone() for x in kept]
            graph.run(weight_batch, search_batch)
            replayed = [x.detach().clone() for x in moved]
            for x, old in zip(kept, before, strict=True):
                x.copy_(old)
        move(run, weight_batch, search_batch)
        for part in (slice(len(state.w)), slice(len(state.w), len(moved))):  # alpha moves less than weights do
            apart = _distance(moved[part], replayed[part])
            if not apart <= TOLERANCE * _distance(moved[part], before[: len(moved)][part]):
                self._give_up("its replay is another step: something in it is decided by the host")
                return

    def _give_up(self, why: str) -> None:
        self.works, self.graphs, self.run.state.seeds = False, {}, None
        text = f"search: a step is not captured in a CUDA graph, because {why}. It runs without, as with --no-graph."
        warnings.warn(text, RuntimeWarning, stacklevel=2)


def _kept_by(*optimizers: torch.optim.Optimizer) -> Iterable[Tensor]:
    return (x for o in optimizers for of_one in o.state.values() for x in of_one.values() if isinstance(x, Tensor))


def _distance(ones: Iterable[Tensor], others: Iterable[Tensor]) -> float:
    with torch.no_grad():
        squares = [(a - b).double().square().sum() for a, b in zip(ones, others, strict=True)]
        return float(torch.stack(squares).sum().sqrt())
