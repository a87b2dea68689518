"""Networks of the shape that the DARTS family shares, written anew and with other names: names must not matter."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

CHANNELS, CLASSES = 8, 3


def norm(channels):
    return nn.BatchNorm2d(channels, affine=False)


def stage(channels, kernel, stride, dilation):
    depthwise = nn.Conv2d(
        channels, channels, kernel, stride, dilation * (kernel // 2), dilation, groups=channels, bias=False
    )
    return [nn.ReLU(), depthwise, nn.Conv2d(channels, channels, 1, bias=False), norm(channels)]


class Wrapped(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return self.body(x)


class Nothing(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return 0.0 * x[:, :, :: self.stride, :: self.stride]


class Same(nn.Module):
    def forward(self, x):
        return x


class Halve(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.even, self.odd = (nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False) for _ in range(2))
        self.after = norm(outputs)

    def forward(self, x):
        x = torch.relu(x)
        return self.after(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))


class NormedPool(nn.Module):
    def __init__(self, pool, channels):
        super().__init__()
        self.pool, self.bn = pool, norm(channels)

    def forward(self, x):
        return self.bn(self.pool(x))


def candidates(channels, stride):
    """All eight; ``none`` stands in the middle."""
    return nn.ModuleList(
        [
            Wrapped(*stage(channels, 3, stride, 1), *stage(channels, 3, 1, 1)),
            NormedPool(nn.MaxPool2d(3, stride, 1), channels),
            nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), norm(channels)),
            Nothing(stride),
            Same() if stride == 1 else Halve(channels, channels),
            Wrapped(*stage(channels, 5, stride, 1), *stage(channels, 5, 1, 1)),
            Wrapped(*stage(channels, 3, stride, 2)),
            nn.Sequential(*stage(channels, 5, stride, 2)),
        ]
    )


class Blend(nn.Module):
    """All channels are mixed."""

    def __init__(self, channels, stride):
        super().__init__()
        self.paths = candidates(channels, stride)

    def forward(self, h, coefficients):
        return sum(c * path(h) for c, path in zip(coefficients, self.paths, strict=False))


def interleave(x, groups):
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class QuarterBlend(nn.Module):
    """A quarter of the channels is mixed, an attribute says so."""

    def __init__(self, channels, stride):
        super().__init__()
        self.k, self.shrink = 4, nn.MaxPool2d(2, 2)
        self.paths = candidates(channels // 4, stride)

    def forward(self, h, coefficients):
        share = h.shape[1] // self.k
        first, rest = h[:, :share], h[:, share:]
        mixed = sum(c * path(first) for c, path in zip(coefficients, self.paths, strict=True))
        rest = rest if mixed.shape[2] == h.shape[2] else self.shrink(rest)
        return interleave(torch.cat([mixed, rest], 1), self.k)


class HalfBlend(nn.Module):
    """Half of the channels is mixed, and nothing says so."""

    def __init__(self, channels, stride):
        super().__init__()
        self.stride, self.paths = stride, candidates(channels // 2, stride)

    def forward(self, h, coefficients):
        first, rest = h.chunk(2, dim=1)
        mixed = sum(c * path(first) for c, path in zip(coefficients, self.paths, strict=True))
        rest = F.max_pool2d(rest, 2, 2) if self.stride == 2 else rest
        return interleave(torch.cat([mixed, rest], 1), 2)


class Block(nn.Module):
    """Two nodes, of which the last is the output."""

    blend, nodes, shown = Blend, 2, 1

    def __init__(self, before_last, last, channels, stride, halved):
        super().__init__()
        self.stride = stride
        narrow = (nn.ReLU(), nn.Conv2d(before_last, channels, 1, bias=False), norm(channels))
        self.left = Halve(before_last, channels) if halved else Wrapped(*narrow)
        self.right = Wrapped(nn.ReLU(), nn.Conv2d(last, channels, 1, bias=False), norm(channels))
        self.links, self.unused = nn.ModuleList(), nn.ModuleList()
        for node in range(self.nodes):
            for source in range(2 + node):
                self.links.append(self.blend(channels, stride if source < 2 else 1))

    def forward(self, a, b, table):
        states, first = [self.left(a), self.right(b)], 0
        for _ in range(self.nodes):
            rows = range(first, first + len(states))
            first += len(states)
            states.append(sum(self.links[r](state, table[r]) for r, state in zip(rows, states, strict=True)))
        return torch.cat(states[-self.shown :], dim=1)


class WeightedBlock(Block):
    blend = QuarterBlend

    def forward(self, a, b, table, shares):
        states, first = [self.left(a), self.right(b)], 0
        for _ in range(self.nodes):
            rows = range(first, first + len(states))
            first += len(states)
            states.append(sum(shares[r] * self.links[r](s, table[r]) for r, s in zip(rows, states, strict=True)))
        return torch.cat(states[-self.shown :], dim=1)


class WholeWeightedBlock(WeightedBlock):
    """Weighs edges, and mixes all channels."""

    blend = Blend


class TwiceBlock(WeightedBlock):
    """Evaluates everything a second time to ask where it lies."""

    blend = HalfBlend

    def forward(self, a, b, table, shares):
        states, first = [self.left(a), self.right(b)], 0
        for _ in range(self.nodes):
            total = 0
            for row, state in enumerate(states, start=first):
                share = shares[row].to(self.links[row](state, table[row]).device)
                total = total + share * self.links[row](state, table[row])
            first += len(states)
            states.append(total)
        return torch.cat(states[-self.shown :], dim=1)


class NestedBlock(Block):
    """Keeps a list of edges for each node and takes a list of tables."""

    shown = 2

    def __init__(self, *args):
        super().__init__(*args)
        flat, first = list(self.links), 0
        self.links = nn.ModuleList()
        for node in range(self.nodes):
            self.links.append(nn.ModuleList(flat[first : first + 2 + node]))
            first += 2 + node

    def forward(self, a, b, tables):
        states = [self.left(a), self.right(b)]
        for edges, rows in zip(self.links, tables, strict=True):
            states.append(sum(edge(s, row) for edge, s, row in zip(edges, states, rows, strict=True)))
        return torch.cat(states[-self.shown :], dim=1)


class OddBlock(Block):
    """Adds something of its own at the end, so that only its edges can be replaced."""

    def forward(self, a, b, table):
        return super().forward(a, b, table) + 0.5


class Network(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3 * CHANNELS // 2, 3, padding=1, bias=False), nn.BatchNorm2d(12))
        width = block.shown * CHANNELS
        self.blocks = nn.ModuleList(
            [
                block(12, 12, CHANNELS, 1, False),
                block(12, width, 2 * CHANNELS, 2, False),
                block(width, 2 * width, CHANNELS, 1, True),
            ]
        )
        self.head = nn.Linear(width, CLASSES)
        num_edges = sum(range(2, block.nodes + 2))
        self.alphas = nn.ParameterList(torch.randn(num_edges, 8) for _ in range(2))
        self.betas = nn.ParameterList(torch.randn(num_edges) for _ in range(2))

    def forward(self, images):
        a = b = self.stem(images)
        for block in self.blocks:
            table = self.alphas[block.stride - 1].softmax(-1)
            extra = []
            if isinstance(block, WeightedBlock):
                extra = [self.betas[block.stride - 1].softmax(-1)]
            if isinstance(block, NestedBlock):
                table = list(table.split([2 + node for node in range(block.nodes)]))
            a, b = b, block(a, b, table, *extra)
        return self.head(b.mean((2, 3)))


BLOCKS = {block.__name__: block for block in (Block, WeightedBlock, TwiceBlock, NestedBlock, OddBlock)}
_MADE = {}


@pytest.fixture(params=list(BLOCKS))
def pair(request):
    """A network in float64 and a copy of it that was accelerated, with the report."""
    from fastnas import accelerate  # noqa: PLC0415

    name = request.param
    if name not in _MADE:  # the proof takes a second, so once for all tests
        torch.manual_seed(0)
        network = Network(BLOCKS[name]).double()
        twin = copy.deepcopy(network)
        _MADE[name] = network, twin, accelerate(twin)
    network, twin, report = _MADE[name]
    return copy.deepcopy(network), copy.deepcopy(twin), report


@pytest.fixture
def make_block():
    blocks = BLOCKS | {"WholeWeightedBlock": WholeWeightedBlock}
    return lambda name="Block", stride=1: blocks[name](CHANNELS, CHANNELS, CHANNELS, stride, False).double()


@pytest.fixture
def make_blend():
    kinds = {"all": Blend, "quarter": QuarterBlend, "half": HalfBlend}
    return lambda kind="all", stride=1: kinds[kind](CHANNELS, stride).double()
