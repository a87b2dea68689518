"""A method of the library at one point of a tiny search, in float64.

Shape suffixes: E edges of a cell, K candidates of an edge.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fastnas.bilevel.problem import Bilevel, Tensors
from fastnas.data import Batch, ImageData, ImageSet
from fastnas.engine.coefficients import Drawn
from fastnas.engine.run import Run, make_state
from fastnas.engine.step import alpha_problem, search_step
from fastnas.mechanisms.pruning import Alive
from fastnas.methods.method import Method
from fastnas.seeds import stream, torch_seed
from fastnas.spaces.space import Space
from fastnas.supernet.mix import Mix
from fastnas.supernet.supernets import build_supernet
from fastnas.training.config import SearchConfig
from fastnas_kernels.check import invalid

EPOCHS = 6
STEPS = 10**6  # of an epoch, so that no draw of the check leaves the second one
FEW = 3  # draws of estimators that take many: their form does not depend on the number
NetworkOf = Callable[[int, Method], nn.Module]
"""From a seed and a method to a new supernet in float64."""


@dataclass(frozen=True)
class Point:
    """One search, about to make a step.

    Args:
        run: The search.
        weight_batch: What the weights' loss is taken on.
        search_batch: What alpha's loss is taken on.
    """

    run: Run
    weight_batch: Batch
    search_batch: Batch

    @property
    def problem(self) -> Bilevel:
        """That of the next alpha step."""
        return alpha_problem(self.run, self.weight_batch, self.search_batch)

    def drawn(self, alpha: Tensors, draw: int = 0, phase: str = "alpha") -> Drawn:
        """The coefficients of the next step."""
        return self.run.sampler(phase)(alpha, draw)

    def loss(self, w: Tensors, mix: Mix) -> Tensor:
        """Mean cross-entropy of alpha's batch, in nats, written down anew."""
        logits = functional_call(self.run.state.supernet, dict(w), (self.search_batch.images, mix))
        return F.cross_entropy(logits, self.search_batch.labels)

    def reward(self, w: Tensors, mix: Mix) -> Tensor:
        """What a sample is worth on alpha's batch, written down anew."""
        logits = functional_call(self.run.state.supernet, dict(w), (self.search_batch.images, mix))
        accuracy = (logits.argmax(1) == self.search_batch.labels).double().mean()
        sampled = [term for term in self.run.method.penalties if not term.expected]
        off = sum(float(term.weight(self.run.at) * term.penalty(mix.candidates)) for term in sampled)
        reward = self.run.method.reward
        return (accuracy if reward is None else reward(accuracy, mix.candidates)).detach() - off

    def with_method(self, method: Method) -> "Point":
        """The same point for another method."""
        return replace(self, run=replace(self.run, method=method))

    def later(self, steps: int) -> "Point":
        """The same point, with the draws of another step."""
        state = replace(self.run.state, step=self.run.state.step + steps)
        return replace(self, run=replace(self.run, state=state))

    def with_alive(self, alive: dict[str, Alive]) -> "Point":
        """The same point with other candidates alive."""
        return replace(self, run=replace(self.run, state=replace(self.run.state, alive=alive)))


def masks(alive: Mapping[str, Alive]) -> dict[str, Tensor]:
    """What is alive in each cell type, ``[E, K]`` of bool."""
    return {cell_type: torch.tensor(rows) for cell_type, rows in alive.items()}


def make_networks(subject: Space | nn.Module) -> NetworkOf:
    """Tiny networks of a space, or copies of a network of one's own."""
    if isinstance(subject, Space):
        return lambda seed, method: _build_tiny(subject, seed, method.partial_channels)
    space = getattr(subject, "space", None)
    if not isinstance(space, Space):
        remedy = "It is called as supernet(images, mix); see fastnas.supernet.supernets."
        rule = "a supernet must have a Space as its attribute space"
        raise invalid("check", rule, type(space).__name__, remedy)
    return lambda seed, method: deepcopy(subject).double()


def _build_tiny(space: Space, seed: int, k: int) -> nn.Module:
    with torch_seed(stream(seed, "weights")):
        return build_supernet(space, 3, 4 if k == 1 else 2 * k, space.min_cells, k, 1, False).double()


def limit_draws(method: Method) -> Method:
    """The method with alpha in every step and, where it takes many draws, with few."""
    schedule = replace(method.update_schedule, alpha_every=1)
    hypergradient: Any = method.hypergradient
    average = method.weight_average
    if method.scores:
        hypergradient = replace(hypergradient, draws=min(hypergradient.draws, FEW))
    if average is not None:
        average = replace(average, draws=min(average.draws, FEW))
    return replace(method, update_schedule=schedule, hypergradient=hypergradient, weight_average=average)


def make_images(method: Method, seed: int = 0) -> Tensor:
    """Two tiny batches of grey images, ``[2, N, 1, 8, 8]``: four in each, and more where accuracies are rewards, since
    those of four images are mostly equal, and equal rewards move nothing."""
    generator = torch.Generator().manual_seed(stream(seed, "images"))
    return torch.rand(2, 32 if method.reads_reward else 4, 1, 8, 8, generator=generator, dtype=torch.float64)


def make_point(method: Method, network_of: NetworkOf, images: Tensor, seed: int) -> Point:
    """A search of ``method`` in its second of six epochs, with momentum, and logits that stand on no tie."""
    config = SearchConfig(epochs=EPOCHS, warmup_epochs=0, batch_size=2, grad_clip=0.0, seed=seed, device="cpu")
    cpu = torch.device("cpu")
    with _float64():
        state = make_state(network_of(seed, method), method, config, cpu)
        for name, a in state.alpha.items():
            noise = torch.rand(a.shape, generator=torch.Generator().manual_seed(stream(seed, "check", len(name))))
            with torch.no_grad():
                a.add_(noise / 2)
    state.step = STEPS
    labels = torch.arange(images.shape[1]) % 2
    weight_batch, search_batch = (Batch(half.double(), labels) for half in images)
    run = Run(method, _make_no_data(), config, cpu, (np.arange(2), np.arange(2)), STEPS, state)
    search_step(run, weight_batch, None)
    return Point(run, weight_batch, weight_batch if method.update_schedule.joint else search_batch)


def _make_no_data() -> ImageData:
    """Data that is never looked at: the check brings its own batches."""
    empty = ImageSet(np.zeros(0, np.int64), lambda index: torch.zeros(1, 8, 8, dtype=torch.uint8))
    return ImageData(
        name="check",
        train=empty,
        test=empty,
        classes=("a", "b", "c"),
        channels=1,
        resolution=(8, 8),
        train_transform=torch.as_tensor,
        eval_transform=torch.as_tensor,
        large=False,
    )


@contextmanager
def _float64() -> Generator[None, None, None]:
    """New tensors are float64 inside the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
