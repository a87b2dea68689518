"""The exact expectations of random estimates: every architecture of a few is tried.

Shape suffixes: E edges of a cell, K candidates of an edge.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastnas.bilevel.problem import Tensors, detach_all
from fastnas.checks.method_claims import find_inputs_read, leave_two, make_importance
from fastnas.checks.point import Point, masks
from fastnas.checks.system import Estimate
from fastnas.mechanisms.draw import Draw
from fastnas.mechanisms.relaxation import probabilities
from fastnas.supernet.architecture import make_input_mask
from fastnas.supernet.mix import Mix

FREQUENCIES = 400  # samples
GRADIENTS = 150  # samples
Choice = tuple[tuple[int, ...], ...]
"""The chosen column of every edge, cell type by cell type."""


def make_estimates(point: Point) -> tuple[Estimate, ...]:
    """Of a method that draws: how often it draws what, and the mean of its gradient."""
    method = point.run.method
    found = []
    found += _frequencies(point, "alpha", method.draw)
    if any(name.startswith("inputs.") for name in point.run.state.alpha):
        found.append(_inputs_read(point))
    found += _frequencies(point, "weights", method.weight_draw)
    if method.scores or (method.draw is not None and method.draw.gates):
        few = Few(point)
        found.append(
            Estimate(
                "the mean gradient is the expectation over all architectures",
                few.sample,
                few.expectation,
                GRADIENTS,
                "Compare the weights of the draws and the gradient of their log-probability with their formula.",
            )
        )
    return tuple(found)


def _frequencies(point: Point, phase: str, draw: Draw | None) -> list[Estimate]:
    """How often the candidates are drawn; nothing where no single one is."""
    living = masks(point.run.state.alive)
    # far from even, and alike on all edges, so that one step is a sample of many
    spread = {f"alpha.{name}": torch.linspace(0, 3, x.shape[-1]).double().expand(x.shape) for name, x in living.items()}
    alpha = {**_take_candidate_logits(point), **spread}
    of = {
        name: None if draw is None else draw.frequencies(alpha[f"alpha.{name}"], alive, point.run.tau)
        for name, alive in living.items()
    }

    def exact() -> dict[str, Tensor]:
        return {name: p_EK.mean(0) for name, p_EK in of.items() if p_EK is not None}

    def drawn(i: int) -> dict[str, Tensor]:
        return {name: x.mean(0) for name, x in point.later(i).drawn(alpha, 0, phase).mix.candidates.items()}

    estimate = Estimate(
        f"the candidates of the step of {phase} are drawn as often as their probabilities say",
        drawn,
        exact,
        FREQUENCIES,
        "Take the maximum of alpha plus standard Gumbel noise, -log(-log u), fresh for every edge and step.",
    )
    return [] if None in of.values() else [estimate]


class Known(NamedTuple):
    """What is known of an architecture.

    Args:
        loss: Of alpha's batch, in nats.
        slopes: Of the loss in every coefficient that is alive.
        reward: What the architecture is worth.
    """

    loss: Tensor
    slopes: dict[str, Tensor]
    reward: Tensor


def _take_candidate_logits(point: Point) -> dict[str, Tensor]:
    """The logits but for those of inputs: then every edge is read."""
    return {name: a for name, a in detach_all(point.run.state.alpha).items() if not name.startswith("inputs.")}


def _inputs_read(point: Point) -> Estimate:
    """How often each set of inputs is read."""
    logits = {name: a for name, a in point.run.state.alpha.items() if name.startswith("inputs.")}
    mask_BS = make_input_mask(point.run.space, torch.device("cpu"))
    steep = torch.linspace(0, 2, mask_BS.shape[1]).double().expand(mask_BS.shape)
    alpha = {**_take_candidate_logits(point), **dict.fromkeys(logits, steep)}
    p_BS = probabilities(steep, point.run.tau, mask_BS)
    return Estimate(
        "the inputs of a node are drawn as often as their probabilities say",
        lambda i: find_inputs_read(point, point.later(i).drawn(alpha).mix.candidates),
        lambda: dict.fromkeys(logits, p_BS),
        FREQUENCIES,
        "Draw one set of inputs for each node, from logits of their own.",
    )


@dataclass(frozen=True)
class Few:
    """A point at which only a few architectures can be drawn, with the loss of each and its gradient for the
    coefficients.

    Estimates are made by the method's own code, from draws of its own, but with the losses looked up: so hundreds cost
    no network.

    Args:
        whole: The point with everything alive.
    """

    whole: Point

    @cached_property
    def point(self) -> Point:
        return self.whole.with_alive(leave_two(self.whole)[0])

    @cached_property
    def alpha(self) -> dict[str, Tensor]:
        return {name: a.requires_grad_() for name, a in _take_candidate_logits(self.point).items()}

    @cached_property
    def mixes(self) -> list[dict[str, Tensor]]:
        """The coefficients of every architecture."""
        alive, free = leave_two(self.whole)
        found = []
        for columns in product(*(pair for _, _, pair in free)):
            mix = {name: alive_EK.double() for name, alive_EK in masks(alive).items()}
            for (name, row, _), column in zip(free, columns, strict=True):
                mix[name][row] = 0
                mix[name][row, column] = 1
            found.append(mix)
        return found

    @cached_property
    def table(self) -> dict[Choice, "Known"]:
        """What is to be known of every architecture."""
        w, living = detach_all(self.point.run.state.w), masks(self.point.run.state.alive)
        columns = {name: tuple(tuple(row.nonzero().flatten().tolist()) for row in x) for name, x in living.items()}
        template = self.point.drawn(self.alpha).mix
        edges = detach_all(template.edges)
        found = {}
        for mix in self.mixes:
            leaves = {name: x.clone().requires_grad_() for name, x in mix.items()}
            whole = Mix(leaves, edges, columns, {}, template.noise, template.seed)
            loss, reward = self.point.loss(w, whole), self.point.reward(w, whole)
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
            found[read_choice(mix)] = Known(loss.detach(), dict(zip(leaves, gradients, strict=True)), reward)
        return found

    def sample(self, i: int) -> dict[str, Tensor]:
        """One gradient by the method's own code, for the draws of another step."""
        later = self.point.later(i)

        def outer(w: Tensors, alpha: Tensors, draw: int) -> Tensor:
            mix = later.drawn(alpha, draw).mix.candidates
            loss, slope, _ = self.table[read_choice(mix)]
            return loss + torch.stack([((x - x.detach()) * slope[name]).sum() for name, x in mix.items()]).sum()

        def reward(w: Tensors, alpha: Tensors, draw: int) -> tuple[Tensor, Tensor]:
            known = self.table[read_choice(later.drawn(alpha, draw).mix.candidates)]
            return known.loss, known.reward

        problem = replace(later.problem, outer=outer, reward=reward)
        gradient = later.run.method.hypergradient(problem, later.run.state.w, self.alpha)[1]
        return {name: x for name, x in gradient.items() if name.startswith("alpha.")}

    @cached_property
    def p(self) -> dict[str, Tensor]:
        living = masks(self.point.run.state.alive)
        tau = self.point.run.tau
        return {name: probabilities(self.alpha[f"alpha.{name}"].detach(), tau, alive) for name, alive in living.items()}

    def probability(self, mix: Mapping[str, Tensor]) -> float:
        """That an architecture is drawn."""
        return prod(float((self.p[name] * x).sum(-1).prod()) for name, x in mix.items())

    def expectation(self) -> dict[str, Tensor]:
        """Of the gradient, by enumeration."""
        estimator: Any = self.point.run.method.hypergradient
        tau = self.point.run.tau
        if self.point.run.method.reads_reward:
            return {f"alpha.{name}": self._expect_reward(name, p_EK) / tau for name, p_EK in self.p.items()}
        if not self.point.run.method.scores:
            return {f"alpha.{name}": self._through_gates(name, p_EK) / tau for name, p_EK in self.p.items()}
        importance = make_importance(estimator, len(self.point.search_batch.labels))
        of_each = [(self.probability(mix), self.table[read_choice(mix)].loss, mix) for mix in self.mixes]
        total = {name: torch.zeros_like(p_EK) for name, p_EK in self.p.items()}
        for draws in product(of_each, repeat=estimator.draws):
            probability = prod(p for p, _, _ in draws)
            omega = importance(torch.stack([loss for _, loss, _ in draws]))
            for weight, (_, _, mix) in zip(omega, draws, strict=True):
                for name, p_EK in self.p.items():
                    total[name] -= probability * weight * (mix[name] - p_EK) / tau
        return {f"alpha.{name}": x for name, x in total.items()}

    def _expect_reward(self, name: str, p_EK: Tensor) -> Tensor:
        """``-sum_A p(A) R(A) (A - p)``, the gradient of the expected reward downhill (Cai et al., 2019,
        arXiv:1812.00332, eq. 9)."""
        rewards = [(self.probability(mix) * self.table[read_choice(mix)].reward, mix[name]) for mix in self.mixes]
        return torch.stack([-weighted * (mix_EK - p_EK) for weighted, mix_EK in rewards]).sum(0)

    def _through_gates(self, name: str, p_EK: Tensor) -> Tensor:
        """``sum_A p(A) J(p) b(A)`` with ``b`` the slopes of the gates (Cai et al., 2019, arXiv:1812.00332, eq. 4)."""
        total = torch.zeros_like(p_EK)
        for mix in self.mixes:
            b_EK = self.table[read_choice(mix)].slopes[name]
            total += self.probability(mix) * p_EK * (b_EK - (p_EK * b_EK).sum(-1, keepdim=True))
        return total


def read_choice(mix: Mapping[str, Tensor]) -> Choice:
    """The chosen column of every edge."""
    return tuple(tuple(x.detach().argmax(-1).tolist()) for x in mix.values())
