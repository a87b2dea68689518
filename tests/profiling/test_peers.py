"""A small supernet of somebody else, next to itself."""

import sys
from contextlib import nullcontext
from dataclasses import replace

import peers
import pytest
import torch
from peers import Peers

NETWORK = """
import torch
from torch import nn
from torch.nn import functional as F


class Edge(nn.Module):
    def __init__(self, channels):
        super().__init__()
        pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(channels, affine=False))
        self.ops = nn.ModuleList([nn.Identity(), pool])

    def forward(self, x, weights):
        return sum(w * op(x) for w, op in zip(weights, self.ops))


class Cell(nn.Module):
    def __init__(self, before, channels):
        super().__init__()
        self.first, self.second = (nn.Conv2d(before, channels, 1) for _ in range(2))
        self.edges = nn.ModuleList(Edge(channels) for _ in range(2))

    def forward(self, s0, s1, weights):
        states = self.first(s0), self.second(s1)
        return sum(edge(x, w) for edge, x, w in zip(self.edges, states, weights))


class Network(nn.Module):
    def __init__(self, channels, classes, layers, criterion):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, 1, 1)
        self.cells = nn.ModuleList(Cell(channels, channels) for _ in range(layers))
        self.head = nn.Linear(channels, classes)
        self.alphas = torch.zeros(2, 2, requires_grad=True)
        self._arch_parameters = [self.alphas]

    def forward(self, x):
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, F.softmax(self.alphas, -1))
        return self.head(s1.mean((2, 3)))
"""

ARCHITECT = """
import torch
from torch.nn import functional as F


class Architect:
    def __init__(self, network, args):
        self.network, self.decay = network, args.weight_decay

    def gradients(self, images, labels, weights):
        alphas = self.network.alphas
        with torch.no_grad():
            for w, value in zip(self.network.parameters(), weights):
                w.copy_(value)
        variables = [*self.network.parameters(), alphas]
        *of_w, of_alpha = torch.autograd.grad(F.cross_entropy(self.network(images), labels), variables)
        return of_w, of_alpha

    def step(self, inner, inner_labels, outer, outer_labels, lr, sgd, unrolled):
        before = [w.detach().clone() for w in self.network.parameters()]
        of_w, _ = self.gradients(inner, inner_labels, before)
        v, of_alpha = self.gradients(
            outer, outer_labels, [w - lr * (g + self.decay * w) for w, g in zip(before, of_w)]
        )
        radius = 0.01 / torch.cat([x.flatten() for x in v]).norm()
        _, ahead = self.gradients(inner, inner_labels, [w + radius * x for w, x in zip(before, v)])
        _, behind = self.gradients(inner, inner_labels, [w - radius * x for w, x in zip(before, v)])
        with torch.no_grad():
            for w, value in zip(self.network.parameters(), before):
                w.copy_(value)
        self.network.alphas.grad = of_alpha - lr * (ahead - behind) / (2 * radius)
"""


@pytest.fixture
def settings(tmp_path, monkeypatch):
    (tmp_path / "small_foreign_supernet.py").write_text(NETWORK)
    (tmp_path / "small_foreign_architect.py").write_text(ARCHITECT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for kind in (torch.Tensor, torch.nn.Module):
        monkeypatch.setattr(kind, "cuda", kind.cuda)  # the script replaces it
    size = {"channels": 2, "layers": 1, "batch_size": 2, "resolution": 4, "runs": 1}
    return Peers(checkout=tmp_path, module="small_foreign_supernet", threads=1, **size)


def test_a_table_has_every_contender_the_floor_and_where_the_time_goes(settings, capsys):
    peers.main(settings)
    printed = capsys.readouterr().out
    names = ("as published", "as published, channels_last", "accelerated", "accelerated, channels_last")
    assert all(f"\n| {name} | " in printed for name in names)
    assert "float64, equal to the published network: outputs to" in printed
    # a 3x3 convolution of 3 channels, two 1x1 of 2, and the classifier, twice 16 pixels; three times for a step
    operations = 3 * 2 * (2 * 16 * (2 * 27 + 2 * 4) + 2 * 20)
    assert f"arithmetic floor: {operations / 1e9:.1f} GFLOP" in printed
    assert "| cells, backward | " in printed


def test_a_network_that_differs_is_not_timed(settings, monkeypatch):
    def wrong(network):
        other = peers.copied(network)
        with torch.no_grad():
            other.head.bias += 1e-6
        return other

    monkeypatch.setattr(peers, "accelerated", wrong)
    monkeypatch.setattr(peers, "medians", lambda *_: pytest.fail("nothing is to be timed"))
    with pytest.raises(RuntimeError, match="errors of outputs and gradients must be at most 1e-09"):
        peers.main(settings)


def test_a_network_without_a_cell_is_refused(settings):
    given = peers.task(settings)
    with pytest.raises(RuntimeError, match="every cell must be accelerated"):
        peers.accelerated(given.network.stem)


def test_a_second_order_step_is_compared_before_it_is_timed(settings, capsys, monkeypatch):
    peers.main(replace(settings, architect="small_foreign_architect"))
    printed = capsys.readouterr().out
    assert "second-order gradient of alpha, float64: equal to the published architect's to" in printed
    names = ("published architect", "fastnas, difference as published", "fastnas, exact")
    assert all(f"\n| {name} | " in printed for name in names)
    monkeypatch.setattr(peers, "patched", lambda *_, **__: nullcontext())  # alpha does not arrive
    with pytest.raises(RuntimeError, match="second-order gradients must be equal to 1e-6"):
        peers.main(replace(settings, architect="small_foreign_architect"))


def test_growth_is_a_picture_and_a_row_for_every_value(settings, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(peers, "GROWTH", {"batch_size": (1, 3), "channels": (2, 4)})
    peers.main(replace(settings, growth=tmp_path / "growth.png"))
    printed = capsys.readouterr().out
    assert all(f"| {name} | {value} | " in printed for name, value in (("batch_size", 3), ("channels", 4)))
    assert (tmp_path / "growth.png").stat().st_size > 0
