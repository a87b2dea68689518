"""The supernet of DSO-NAS: three stages of full graphs (Zhang et al., 2018, arXiv:1811.01567)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastnas.spaces.graph_space import DSO, STAGES, DagNode, FullDag, GraphSpace, find_living_operations
from fastnas.supernet.layout import SmallStem
from fastnas.supernet.mix import Mix, NodeMix, NoiseSource, split_by_node
from fastnas.supernet.operations import BuildOperation, Convolution, batch_norm, convolution, pool
from fastnas.supernet.recompute import State, Unit, Word, checkpoint, run_units
from fastnas_kernels.check import invalid
from fastnas_kernels.convolution import Geometry
from fastnas_kernels.mixture import mixed_sum


class Entering(NamedTuple):
    """What enters a node.

    Args:
        sources: The states of the block that it reads, 0 for the block's input.
        scales: One for each of them.
        offset: A number to add to every pixel of the sum, if there is one.
        noise: What drops summands, if anything does.
    """

    sources: Sequence[int]
    scales: Tensor
    offset: Tensor | None = None
    noise: NoiseSource | None = None


def restart_noise(enter: Sequence[Entering], place: int) -> list[Entering]:
    """``enter`` for the block at ``place`` of a network, whose noise begins anew."""
    noise = enter[-1].noise
    fresh = None if noise is None else noise.at(place)
    return [node._replace(noise=fresh) for node in enter]


def find_entering(nodes: Sequence[DagNode], mixes: Sequence[NodeMix]) -> list[Entering]:
    """What the coefficients of a search let into each node of a block: the connections that are alive."""

    def of(node: DagNode, mix: NodeMix) -> Entering:
        alive = [True] * len(node.reads) if mix.alive is None else [bool(names) for names in mix.alive]
        sources = [source for source, lives in zip(node.reads, alive, strict=True) if lives]
        return Entering(sources, mix.candidates, mix.offset, mix.noise)

    return [of(node, mix) for node, mix in zip(nodes, mixes, strict=True)]


def normalise(channels: int, searching: bool, *before: nn.Module) -> nn.Sequential:
    return nn.Sequential(*before, batch_norm(channels, searching), nn.ReLU())


def _separable(kernel: int) -> BuildOperation:
    def build(channels: int, stride: int, searching: bool) -> nn.Module:
        geometry = Geometry(stride, kernel // 2, groups=channels)
        depthwise = convolution(channels, channels, kernel, geometry, searching=searching)
        return normalise(channels, searching, depthwise, convolution(channels, channels, 1, searching=searching))

    return build


def _make_normalised_pool(kind: str) -> BuildOperation:
    return lambda channels, stride, searching: normalise(channels, searching, pool(kind, stride))


OPERATIONS: Mapping[str, BuildOperation] = {
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "max_pool_3x3": _make_normalised_pool("max"),
    "avg_pool_3x3": _make_normalised_pool("avg"),
}
"""Zhang et al., 2018, arXiv:1811.01567: one depthwise and one pointwise convolution, or a pool, then normalisation and
ReLU. (The authors' average pool counts the padding.)"""


def graph_shortcut(channels: int, first: bool, searching: bool) -> nn.Module:
    """Around a block: a 1x1 convolution in the first block of a stage, nothing in the others."""
    if not first:
        return nn.Identity()
    return normalise(channels, searching, convolution(channels, channels, 1, searching=searching))


def halve(operation: str, channels: int, searching: bool) -> nn.Module:
    """``conv_1x1`` or ``conv_3x3`` of a block that halves the resolution and doubles the channels."""
    kernel = int(operation[-1])
    geometry = Geometry(2, kernel // 2)
    body = convolution(channels, 2 * channels, kernel, geometry, searching=searching)
    return normalise(2 * channels, searching, body)


class DagBlock(nn.Module):
    """A block that keeps the resolution: operations on levels, their scaled outputs projected and added up, and a
    shortcut (Zhang et al., 2018, arXiv:1811.01567, figure 2, with the details of the published code).

    Args:
        dag: The graph.
        channels: Channels read and written.
        first: Whether it is the first of its stage, whose shortcut is a 1x1 convolution.
    """

    kind = "normal"

    def __init__(self, dag: FullDag, channels: int, first: bool) -> None:
        super().__init__()
        self.nodes = dag.nodes_of(self.kind)
        operations = [OPERATIONS[node.operation](channels, 1, True) for node in self.nodes[:-1]]
        self.operations = nn.ModuleDict({str(state): built for state, built in enumerate(operations, 1)})
        self.projections = nn.ModuleDict({state: Convolution(channels, channels, 1) for state in self.operations})
        self.norm = normalise(channels, True)
        self.shortcut = graph_shortcut(channels, first, searching=True)

    def forward(self, x: Tensor, enter: Sequence[Entering], recompute: bool = False) -> Tensor:
        """From ``[N, C, H, W]`` to the same shape. Only operations run that something enters and that something reads;
        with ``recompute`` one after another is recomputed in the backward pass."""
        living = find_living_operations(self.nodes, [node.sources for node in enter])
        states = {0: x}
        for state in sorted(living):
            if self.nodes[state - 1].level == 1:
                entered = x
            else:
                entered = _sum(states, enter[state - 1])
                assert entered is not None, "something enters an operation that lives"
            operation = self.operations[str(state)]
            states[state] = checkpoint(operation, entered) if recompute else operation(entered)
        projected = {s: self.projections[str(s)](states[s]) for s in enter[-1].sources if s in living}
        total = _sum(projected, enter[-1])
        shortcut = self.shortcut(x)
        return shortcut if total is None else shortcut + self.norm(total)


class DagReduction(nn.Module):
    """A block that halves the resolution and doubles the channels: the scaled sum of a 1x1 and a 3x3 convolution
    (Zhang et al., 2018, arXiv:1811.01567, section 3.1).

    Args:
        dag: The graph.
        channels: Channels read.
    """

    kind = "reduction"

    def __init__(self, dag: FullDag, channels: int) -> None:
        super().__init__()
        self.nodes, self.channels = dag.nodes_of(self.kind), channels
        halving = [halve(node.operation, channels, searching=True) for node in self.nodes[:-1]]
        self.operations = nn.ModuleDict({str(state): built for state, built in enumerate(halving, 1)})

    def forward(self, x: Tensor, enter: Sequence[Entering], recompute: bool = False) -> Tensor:
        """From ``[N, C, H, W]`` to ``[N, 2 C, H / 2, W / 2]``, zeros where neither convolution is left."""
        living = find_living_operations(self.nodes, [node.sources for node in enter])
        halving = {state: self.operations[str(state)] for state in sorted(living)}
        total = _sum({s: checkpoint(one, x) if recompute else one(x) for s, one in halving.items()}, enter[-1])
        if total is None:
            return torch.zeros_like(x[:, :, ::2, ::2]).repeat(1, 2, 1, 1)
        return total


def _sum(states: Mapping[int, Tensor], node: Entering) -> Tensor | None:
    """The scaled sum of the states that enter a node; ``None`` if there is none."""
    present = [place for place, source in enumerate(node.sources) if source in states]
    if not present:
        return None
    summands = [states[node.sources[place]] for place in present]
    if node.noise is not None:
        summands = [y for x in summands for y in node.noise.drop(("connect",), [x], 1)]
    scales = node.scales if len(present) == len(node.sources) else node.scales[present]
    total = mixed_sum(summands, scales)
    return total if node.offset is None else total + node.offset


class DagBody(nn.Module):
    """Stem, blocks and classifier: the network, given what enters each node.

    Args:
        dag: The graph.
        graphs: For every block of the network, which block of the graph it is.
        num_classes: Size of the logits.
        channels: Channels of the first stage; they double from stage to stage.
        image_channels: 3 for colour, 1 for grey images.
        recompute: What is recomputed in the backward pass; see :mod:`fastnas.supernet.recompute`.
    """

    def __init__(
        self,
        dag: FullDag,
        graphs: Sequence[int],
        num_classes: int,
        channels: int,
        image_channels: int,
        recompute: Sequence[Word] = ("none",),
    ) -> None:
        super().__init__()
        self.recompute = tuple(recompute)
        self.stem = SmallStem(image_channels, channels, searching=True)
        self.blocks = nn.ModuleList()
        width, first = channels, True
        for graph in graphs:
            if dag.blocks[graph] == "reduction":
                self.blocks.append(DagReduction(dag, width))
                width, first = 2 * width, True
            else:
                self.blocks.append(DagBlock(dag, width, first))
                first = False
        self.norm = batch_norm(width, searching=True, affine=True)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor, enter: Sequence[Sequence[Entering]]) -> Tensor:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]``."""
        units = [Unit((self.stem,), lambda modules, edges, state: (modules[0](*state)[0].relu(),))]
        for place, (block, nodes) in enumerate(zip(self.blocks, enter, strict=True)):
            units.append(_lay_out_block(block, nodes, place))
        (state,) = run_units(units, self.recompute, images.contiguous(memory_format=torch.channels_last))
        return self.classifier(self.norm(state).relu().mean((2, 3)))


def _lay_out_block(block: nn.Module, nodes: Sequence[Entering], place: int) -> Unit:
    def run(modules: Sequence[Callable[..., Any]], edges: bool, state: State) -> State:
        return (modules[0](*state, restart_noise(nodes, place), edges),)

    return Unit((block,), run)


class DagSupernet(nn.Module):
    """The supernet of a full graph: one coefficient for each connection.

    Args:
        num_classes: Size of the logits.
        channels: Channels of the first stage; they double from stage to stage.
        cells: Normal blocks in a stage.
        image_channels: 3 for colour, 1 for grey images.
        space: The graph; its connections belong to all normal blocks, or to one of them each.
        recompute: What is recomputed in the backward pass; see :mod:`fastnas.supernet.recompute`.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 16,
        cells: int = 8,
        image_channels: int = 3,
        space: GraphSpace = DSO,
        recompute: Sequence[Word] = ("none",),
    ) -> None:
        super().__init__()
        self.space, self.graphs = space, order_graph(space, cells)
        dag = space.dag
        self.body = DagBody(dag, self.graphs, num_classes, channels, image_channels, recompute)
        self.to(memory_format=torch.channels_last)

    @property
    def units(self) -> list[nn.Module]:
        """The stem and the blocks, which ``recompute`` has words for."""
        return [self.body.stem, *self.body.blocks]

    def forward(self, images: Tensor, mix: Mix) -> Tensor:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]``."""
        dag, nodes = self.space.dag, split_by_node(self.space, mix, "normal")
        enter = [
            find_entering(dag.nodes_of(kind), nodes[span.start : span.stop])
            for kind, span in zip(dag.blocks, dag.spans, strict=True)
        ]
        return self.body(images, [enter[graph] for graph in self.graphs])


def order_graph(space: GraphSpace, cells: int) -> list[int]:
    """For every block of the network, which block of the graph it is."""
    if cells < 1:
        raise invalid("DagSupernet", "cells must be at least 1 in a stage", cells)
    space.require_depth(cells)
    if not space.shared:
        return list(range(len(space.dag.blocks)))
    graphs = [graph for stage in range(STAGES) for graph in [0] * cells + [1 + stage]]
    return graphs[:-1]  # nothing is halved after the last stage
