"""A search as people write it, in plain PyTorch: three edges, three candidates, steps in place."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from fastnas import check
from fastnas.checks.claims import slope_of_outer
from fastnas.checks.finding import Verdict
from fastnas.checks.system import System

ROWS, COLUMNS, WIDTH = 3, 3, 4


class Network(nn.Module):
    """``0 -> 1`` by one edge and ``0, 1 -> 2`` by two, which beta weighs."""

    def __init__(self, tracks=False):
        super().__init__()
        self.operations = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Linear(WIDTH, WIDTH),
                    nn.Sequential(nn.Tanh(), nn.Linear(WIDTH, WIDTH)),
                    nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sigmoid()),
                ]
            )
            for _ in range(ROWS)
        )
        self.norm = nn.BatchNorm1d(WIDTH, track_running_stats=tracks)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x, mix, edges):
        first = self.edge(0, x, mix)
        second = edges[0] * self.edge(1, x, mix) + edges[1] * self.edge(2, first, mix)
        return self.head(self.norm(second))

    def edge(self, row, x, mix):
        return sum(mix[row, k] * operation(x) for k, operation in enumerate(self.operations[row]))


@dataclass
class Toy:
    """Everything that a fork of a repository has lying around.

    Args:
        seed: Decides the weights, the logits and the images.
        tracks: Whether the network keeps running statistics.
        mix_of: From alpha and an integer to the coefficients of the candidates.
        edges_of: From beta to those of the edges.
    """

    seed: int
    tracks: bool = False
    mix_of: object = staticmethod(lambda alpha, draw: alpha.softmax(-1))
    edges_of: object = staticmethod(lambda beta: beta.softmax(-1))
    also_owned: tuple = ()

    def __post_init__(self):
        g = torch.Generator().manual_seed(self.seed)
        self.net = Network(self.tracks).double()
        for p in self.net.parameters():
            p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) * 0.7
        images = torch.randn(2, 8, WIDTH, generator=g, dtype=torch.float64)
        self.train, self.search = ((half, torch.arange(8) % 3) for half in images)
        shapes = {"alpha": (ROWS, COLUMNS), "beta": (2,)}
        self.alpha = {
            name: nn.Parameter(torch.randn(shape, generator=g, dtype=torch.float64)) for name, shape in shapes.items()
        }
        self.w = dict(self.net.named_parameters())
        owned = [*self.w.values(), *(self.alpha[name] for name in self.also_owned)]
        self.weight_optimizer = torch.optim.SGD(owned, 0.2, momentum=0.9, weight_decay=0.05)
        self.alpha_optimizer = torch.optim.Adam(self.alpha.values(), 0.01)

    def loss(self, batch, w, alpha, draw=0):
        mix, edges = self.mix_of(alpha["alpha"], draw), self.edges_of(alpha["beta"])
        return F.cross_entropy(functional_call(self.net, dict(w), (batch[0], mix, edges)), batch[1])

    def inner(self, w, alpha, draw=0):
        return self.loss(self.train, w, alpha, draw)

    def outer(self, w, alpha, draw=0):
        return self.loss(self.search, w, alpha, draw)

    def weight_step(self):
        self.weight_optimizer.zero_grad()
        self.inner(self.w, self.alpha).backward()
        self.weight_optimizer.step()

    def alpha_step(self):
        """First order: all gradients, and those of the weights thrown away."""
        self.alpha_optimizer.zero_grad()
        self.outer(self.w, self.alpha).backward()
        self.alpha_optimizer.step()

    def system(self, **changes):
        parts = {
            "w": self.w,
            "alpha": self.alpha,
            "outer": self.values_of(self.outer),
            "inner": self.values_of(self.inner),
            "alpha_step": self.alpha_step,
            "weight_step": self.weight_step,
            "alpha_optimizer": self.alpha_optimizer,
            "weight_optimizer": self.weight_optimizer,
            "claim": slope_of_outer,
            "buffers": dict(self.net.named_buffers()),
        }
        return System(**{**parts, **changes})

    def values_of(self, loss):
        """A loss that takes the running statistics from a copy, and so leaves them where they are."""

        def pure(w, alpha, draw):
            copied = {name: x.clone() for name, x in self.net.named_buffers()}
            return loss({**w, **copied}, alpha, draw)

        return pure

    def stepped_once(self):
        """With momentum."""
        self.weight_step()
        self.alpha_optimizer.zero_grad()
        return self

    def second_order_step(
        self,
        *,
        virtual=True,
        momentum=0.9,
        decay=0.05,
        sign=-1,
        divided=lambda difference, eps: difference / (2 * eps),
        restores=True,
    ):
        """The published way: move the weights, move them again to both sides, put them back.

        ``virtual``, ``momentum``, ``decay``, ``sign``, ``divided`` and ``restores`` are where forks of it went wrong.
        """
        names, eta, radius = list(self.w), self.weight_optimizer.param_groups[0]["lr"], 1e-5
        logits = list(self.alpha.values())
        kept = {name: p.detach().clone() for name, p in self.w.items()}
        inner = torch.autograd.grad(self.inner(self.w, self.alpha), [self.w[name] for name in names])
        with torch.no_grad():
            for name, gradient in zip(names, inner, strict=True):
                p = self.w[name]
                velocity = self.weight_optimizer.state[p]["momentum_buffer"]
                moved = p - eta * (momentum * velocity + gradient + decay * p)
                if virtual:
                    p.copy_(moved)
        both = torch.autograd.grad(self.outer(self.w, self.alpha), [*(self.w[n] for n in names), *logits])
        v, first = both[: len(names)], both[len(names) :]
        eps = radius / torch.cat([x.flatten() for x in v]).norm()
        sides = []
        for side in (1, -1):
            with torch.no_grad():
                for name, direction in zip(names, v, strict=True):
                    self.w[name].copy_(kept[name] + side * eps * direction)
            sides.append(torch.autograd.grad(self.inner(self.w, self.alpha), logits))
        with torch.no_grad():
            for name, p in self.w.items():
                if restores:
                    p.copy_(kept[name])
        second = [divided(ahead - behind, eps) for ahead, behind in zip(*sides, strict=True)]
        for a, gradient, of_second_order in zip(logits, first, second, strict=True):
            # a virtual step that does nothing leaves no second-order term either: both sides share one gradient
            a.grad = gradient + sign * eta * of_second_order * virtual
        self.alpha_optimizer.step()


@pytest.fixture
def toy_of():
    """From a seed to a healthy search."""
    return Toy


@pytest.fixture
def raises_no_alarm(toy_of):
    """Asserts that nothing is found wrong with a search, and that it was looked at."""

    def claim(build):
        report = check(partial(build, toy_of))
        assert report.ok, report
        assert sum(finding.verdict is Verdict.PASSED for finding in report.findings) >= 6

    return claim


@pytest.fixture
def fails(toy_of):
    """Asserts that exactly these checks fail for a search, each with a remedy."""

    def claim(build, expected):
        report = check(partial(build, toy_of))
        assert {finding.name for finding in report.failures} == expected
        frequency = "the candidates are drawn as often as their probabilities say"  # has no single remedy
        assert all(finding.remedy or finding.name == frequency for finding in report.failures)

    return claim


@pytest.fixture
def is_said_of(toy_of):
    """Asserts that the one failure of a search is explained in these words."""

    def claim(build, words):
        (finding,) = check(partial(build, toy_of)).failures
        assert words in finding.meaning

    return claim
