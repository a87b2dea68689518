"""The supernet of DSO-NAS: three stages of full graphs (Zhang et al., 2018, arXiv:1811.01567)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastnas.spaces.graph_space import DSO, STAGES, FullDag, GraphSpace
from fastnas.supernet.dag_block import DagBlock, DagReduction, Entering, begun_at, entering
from fastnas.supernet.layout import SmallStem
from fastnas.supernet.mix import Mix, node_mixes
from fastnas.supernet.operations import batch_norm
from fastnas.supernet.recompute import State, Unit, Word, through
from fastnas_kernels.check import require


class DagBody(nn.Module):
    """Stem, blocks and classifier: the network, given what enters each node.

    Args:
        dag: The graph.
        graphs: For every block of the network, which block of the graph it is.
        num_classes: Size of the logits.
        channels: Channels of the first stage; they double from stage to stage.
        image_channels: 3 for colour, 1 for grey images.
        recompute: What is evaluated again in the backward pass; see :mod:`fastnas.supernet.recompute`.
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
            units.append(_of_block(block, nodes, place))
        (state,) = through(units, self.recompute, images.contiguous(memory_format=torch.channels_last))
        return self.classifier(self.norm(state).relu().mean((2, 3)))


def _of_block(block: nn.Module, nodes: Sequence[Entering], place: int) -> Unit:
    def run(modules: Sequence[Callable[..., Any]], edges: bool, state: State) -> State:
        return (modules[0](*state, begun_at(nodes, place), edges),)

    return Unit((block,), run)


class DagSupernet(nn.Module):
    """The supernet of a full graph: one coefficient for each connection.

    Args:
        num_classes: Size of the logits.
        channels: Channels of the first stage; they double from stage to stage.
        cells: Normal blocks in a stage.
        image_channels: 3 for colour, 1 for grey images.
        space: The graph; its connections belong to all normal blocks, or to one of them each.
        recompute: What is evaluated again in the backward pass; see :mod:`fastnas.supernet.recompute`.
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
        self.space, self.graphs = space, graph_order(space, cells)
        dag = space.dag
        self.body = DagBody(dag, self.graphs, num_classes, channels, image_channels, recompute)
        self.to(memory_format=torch.channels_last)

    @property
    def units(self) -> list[nn.Module]:
        """The stem and the blocks, which ``recompute`` has words for."""
        return [self.body.stem, *self.body.blocks]

    def forward(self, images: Tensor, mix: Mix) -> Tensor:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]``."""
        dag, nodes = self.space.dag, node_mixes(self.space, mix, "normal")
        enter = [
            entering(dag.nodes_of(kind), nodes[span.start : span.stop])
            for kind, span in zip(dag.blocks, dag.spans, strict=True)
        ]
        return self.body(images, [enter[graph] for graph in self.graphs])


def graph_order(space: GraphSpace, cells: int) -> list[int]:
    """For every block of the network, which block of the graph it is."""
    require(cells >= 1, "DagSupernet", "cells must be at least 1 in a stage", cells)
    space.require_depth(cells)
    if not space.shared:
        return list(range(len(space.dag.blocks)))
    graphs = [graph for stage in range(STAGES) for graph in [0] * cells + [1 + stage]]
    return graphs[:-1]  # nothing is halved after the last stage
