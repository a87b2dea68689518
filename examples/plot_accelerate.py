"""
Make existing DARTS code faster
===============================

``fastnas.accelerate`` finds the mixed cells of a network by what they compute, proves that the fast engine computes the
same, and replaces their forward pass. Parameters, ``state_dict`` keys and running statistics stay those of the network.
"""

# %%
# A small DARTS, as it stands in many repositories: candidates, a mixed operation, a cell, a network.

import time

import torch
from torch import nn
from torch.nn import functional as F

import fastnas


def convolution(channels, kernel, stride, dilation):
    padding = dilation * (kernel // 2)
    depthwise = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)
    return [nn.ReLU(), depthwise, nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels, affine=False)]


class Zero(nn.Module):
    def forward(self, x):
        return x * 0.0


def candidates(channels):
    return nn.ModuleList(
        [
            Zero(),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(channels, affine=False)),
            nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.BatchNorm2d(channels, affine=False)),
            nn.Identity(),
            nn.Sequential(*convolution(channels, 3, 1, 1), *convolution(channels, 3, 1, 1)),
            nn.Sequential(*convolution(channels, 5, 1, 1), *convolution(channels, 5, 1, 1)),
            nn.Sequential(*convolution(channels, 3, 1, 2)),
            nn.Sequential(*convolution(channels, 5, 1, 2)),
        ]
    )


class MixedOp(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.ops = candidates(channels)

    def forward(self, x, weights):
        return sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))


class Cell(nn.Module):
    def __init__(self, channels, nodes=3):
        super().__init__()
        self.nodes = nodes
        self.preprocess0 = nn.Conv2d(channels * nodes, channels, 1, bias=False)
        self.preprocess1 = nn.Conv2d(channels * nodes, channels, 1, bias=False)
        self.edges = nn.ModuleList(MixedOp(channels) for node in range(nodes) for _ in range(node + 2))

    def forward(self, s0, s1, weights):
        states, offset = [self.preprocess0(s0), self.preprocess1(s1)], 0
        for _ in range(self.nodes):
            states.append(sum(self.edges[offset + j](h, weights[offset + j]) for j, h in enumerate(states)))
            offset += len(states) - 1
        return torch.cat(states[-self.nodes :], dim=1)


class Network(nn.Module):
    def __init__(self, channels=16, cells=2, classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels))
        self.cells = nn.ModuleList(Cell(channels) for _ in range(cells))
        self.classifier = nn.Linear(3 * channels, classes)
        self.alpha = nn.Parameter(1e-3 * torch.randn(9, 8))

    def forward(self, x):
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, F.softmax(self.alpha, dim=-1))
        return self.classifier(s1.mean((2, 3)))


# %%
# One line replaces what can be replaced, and the report says what was left and why.

torch.manual_seed(0)
network = Network()
images, labels = torch.randn(8, 3, 16, 16), torch.randint(10, (8,))


def step():
    network.zero_grad()
    F.cross_entropy(network(images), labels).backward()
    return network.alpha.grad.clone()


def seconds(repeats=5):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


before, slow = step(), seconds()
print(fastnas.accelerate(network))
after, fast = step(), seconds()

# %%
# The gradient of alpha is the same, up to rounding. ``fastnas.restore(network)`` undoes everything.

print(f"largest difference of alpha's gradient: {(before - after).abs().max():.1e}")
print(f"a step takes {1000 * slow:.0f} ms before and {1000 * fast:.0f} ms after: {slow / fast:.1f} times as fast")
assert torch.allclose(before, after, atol=1e-4)
