"""A cell of torch's own modules, written out edge by edge: what the engine is compared with."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastnas_kernels.mixed_op import launch
from fastnas_kernels.mixed_op.cell import mixed_cell
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan
from fastnas_kernels.mixed_op.tables import Tile, Tiles

SEPARABLE, DILATED = Candidate("depthwise", 3, 1, 2), Candidate("depthwise", 5, 2, 1)
ALL = (Candidate("max_pool"), Candidate("avg_pool"), Candidate("skip"), SEPARABLE, DILATED)


def complete(channels=8, stride=1, k=1, candidates=ALL, num_nodes=2):
    """Every node reads all earlier states, of which two enter."""
    targets = range(2, 2 + num_nodes)
    edges = tuple(EdgePlan(source, target, tuple(candidates)) for target in targets for source in range(target))
    return CellPlan(channels, 2, num_nodes, edges, stride, k)


def pruned(channels=8, stride=1, k=1):
    """Edges are missing, and the others have different candidates."""
    edges = (
        EdgePlan(0, 2, (SEPARABLE, Candidate("skip"))),
        EdgePlan(1, 2, (Candidate("avg_pool"),)),
        EdgePlan(0, 3, ()),
        EdgePlan(1, 3, (Candidate("skip"), DILATED, Candidate("avg_pool"))),
        EdgePlan(2, 3, (Candidate("max_pool"), SEPARABLE)),
    )
    return CellPlan(channels, 2, 2, edges, stride, k)


class Halve(nn.Module):
    """Two strided 1x1 convolutions, the second one pixel further, with zeros beyond the border."""

    def __init__(self, channels):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels // 2, 1, 2, bias=False) for _ in range(2))
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x):
        x = x.relu()
        height, width = x.shape[2:]
        further = F.pad(x, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.first(x), self.second(further)], 1))


def build(candidate, channels, stride):
    kind, kernel, dilation, repeats = candidate
    if kind == "max_pool":
        return nn.Sequential(nn.MaxPool2d(3, stride, 1), nn.BatchNorm2d(channels, affine=False))
    if kind == "avg_pool":
        pool = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False))
    if kind == "skip":
        return nn.Identity() if stride == 1 else Halve(channels)
    layers, padding = [], dilation * (kernel // 2)
    for stage in range(repeats):
        of_stage = stride if stage == 0 else 1
        layers += [
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel, of_stage, padding, dilation, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, affine=False),
        ]
    return nn.Sequential(*layers)


class EdgeByEdge(nn.Module):
    def __init__(self, plan):
        super().__init__()
        self.plan = plan
        self.edges = nn.ModuleList(
            nn.ModuleList(build(c, plan.channels // plan.k, plan.stride if e.source < 2 else 1) for c in e.candidates)
            for e in plan.edges
        )

    def weights(self):
        return list(self.edges.parameters())

    def norms(self):
        return [module for module in self.edges.modules() if isinstance(module, nn.BatchNorm2d)]

    def forward(self, states, mix, edge_mix):
        plan, states, rest_of = self.plan, list(states), plan_coefficients(self.plan, mix)
        for target in range(2, 2 + plan.num_nodes):
            total = 0
            for row, edge in enumerate(plan.edges):
                if edge.target == target:
                    total = total + self._edge(row, states[edge.source], rest_of[row], edge_mix)
            states.append(total)
        return torch.cat(states[2:], 1)

    def _edge(self, row, x, coefficients, edge_mix):
        plan = self.plan
        seen = plan.channels // plan.k
        strided = plan.stride == 2 and plan.edges[row].source < 2
        size = [-(-side // 2) for side in x.shape[2:]] if strided else x.shape[2:]
        mixed = x.new_zeros(x.shape[0], seen, *size)
        for coefficient, candidate in zip(coefficients, self.edges[row], strict=True):
            mixed = mixed + coefficient * candidate(x[:, :seen])
        if plan.k == 1:
            return mixed
        rest = x[:, seen:]
        rest = F.max_pool2d(rest, 2, 2, ceil_mode=True) if strided else rest
        rest = rest if edge_mix is None else edge_mix[row] * rest
        n, c, h, w = x.shape[0], plan.channels, *rest.shape[2:]
        return torch.cat([mixed, rest], 1).reshape(n, plan.k, c // plan.k, h, w).transpose(1, 2).reshape(n, c, h, w)


def plan_coefficients(plan, mix):
    return mix.split([len(edge.candidates) for edge in plan.edges])


@pytest.fixture
def case():
    """``(written out, states, weights, mix, edge_mix)`` in float64, all leaves that want gradients."""

    def make(plan, size=6, batch=2, with_edges=False):
        cell = EdgeByEdge(plan).double()
        states = [torch.randn(batch, plan.channels, *_pair(size)).double().requires_grad_() for _ in range(2)]
        mix = torch.randn(plan.num_coefficients).double().requires_grad_()
        edge_mix = torch.randn(len(plan.edges)).double().requires_grad_() if with_edges else None
        return cell, states, cell.weights(), mix, edge_mix

    return make


def _pair(size):
    return (size, size) if isinstance(size, int) else size


@pytest.fixture
def plans():
    """How plans are made: ``complete`` and ``pruned``."""
    return {"complete": complete, "pruned": pruned}


class Arguments(NamedTuple):
    """What a cell is a function of, besides its plan."""

    states: list[Tensor]
    weights: list[Tensor]
    mix: Tensor
    edge_mix: Tensor | None

    @property
    def leaves(self):
        return [*self.states, *self.weights, self.mix, *([] if self.edge_mix is None else [self.edge_mix])]

    def to(self, dtype):
        def cast(x):
            return x.detach().to(dtype).requires_grad_()

        edges = None if self.edge_mix is None else cast(self.edge_mix)
        return Arguments([*map(cast, self.states)], [*map(cast, self.weights)], cast(self.mix), edges)


@pytest.fixture
def arguments():
    """Random arguments of any plan: float64 leaves that want gradients."""

    def make(plan, size=5, batch=2):
        def leaf(*shape, scale=1.0):
            return (scale * torch.randn(shape, dtype=torch.float64)).requires_grad_()

        states = [leaf(batch, plan.channels, *_pair(size)) for _ in range(plan.num_inputs)]
        shapes = [shape for shapes in plan.weight_shapes.values() for shape in shapes]
        weights = [leaf(*shape, scale=(shape[1] * shape[2] * shape[3]) ** -0.5) for shape in shapes]
        edge_mix = leaf(len(plan.edges)) if plan.k > 1 else None
        return Arguments(states, weights, leaf(plan.num_coefficients), edge_mix)

    return make


@pytest.fixture
def use_tiles(monkeypatch):
    """Sets the work of a program: ``pixels`` times ``channels`` for all kernels."""

    def use(pixels=256, channels=16, edges=4, splits=2, abreast=2, of_halves=4):
        tile = Tile(pixels, channels)
        tiles = Tiles(
            tile, tile, tile, tile, (pixels // of_halves, of_halves), edges, splits, abreast_of_filters=abreast
        )
        monkeypatch.setattr(launch, "tiles_for", lambda *_: tiles)

    return use


@pytest.fixture(params=["triton", "cpu"])
def fused(request, monkeypatch, poison, use_tiles):
    """The cell by the kernels of each backend, whatever they leave out NaN; Triton's with one program a branch."""
    monkeypatch.setenv("FASTNAS_BACKEND", request.param)
    use_tiles()
    return mixed_cell


@pytest.fixture
def in_triton(monkeypatch, poison, use_tiles):
    """The same for what only Triton's kernels have."""
    monkeypatch.setenv("FASTNAS_BACKEND", "triton")
    use_tiles()
    return mixed_cell
