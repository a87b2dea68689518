"""Networks of DSO-NAS, supernets and derived ones: three stages of full graphs
(Zhang et al., 2018, arXiv:1811.01567)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastnas.spaces.genotype import CellGenotype, Genotype
from fastnas.spaces.graph_space import DSO, STAGES, FullDag, GraphSpace, living_operations
from fastnas.supernet.dag_block import DagBlock, DagReduction, Entering, Structure, begun_at, entering
from fastnas.supernet.drop_path import DropPath
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
        searching: See :func:`fastnas.supernet.operations.batch_norm`.
        left: What to build of every block of the network; ``None`` for all.
        recompute: What is evaluated again in the backward pass; see :mod:`fastnas.supernet.recompute`.
    """

    def __init__(
        self,
        dag: FullDag,
        graphs: Sequence[int],
        num_classes: int,
        channels: int,
        image_channels: int,
        searching: bool,
        left: Sequence[Structure] | None = None,
        recompute: Sequence[Word] = ("none",),
    ) -> None:
        super().__init__()
        self.recompute = tuple(recompute)
        self.stem = SmallStem(image_channels, channels, searching)
        self.blocks = nn.ModuleList()
        width, first = channels, True
        for position, graph in enumerate(graphs):
            built = None if left is None else left[position]
            if dag.blocks[graph] == "reduction":
                self.blocks.append(DagReduction(dag, width, searching, built))
                width, first = 2 * width, True
            else:
                self.blocks.append(DagBlock(dag, width, first, searching, built))
                first = False
        self.norm = batch_norm(width, searching, affine=True)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor, enter: Sequence[Sequence[Entering]], drop_path: DropPath | None = None) -> Tensor:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]``."""
        units = [Unit((self.stem,), lambda modules, edges, state: (modules[0](*state)[0].relu(),))]
        for place, (block, nodes) in enumerate(zip(self.blocks, enter, strict=True)):
            units.append(_of_block(block, nodes, place, drop_path))
        (state,) = through(units, self.recompute, images.contiguous(memory_format=torch.channels_last))
        return self.classifier(self.norm(state).relu().mean((2, 3)))


def _of_block(block: nn.Module, nodes: Sequence[Entering], place: int, drop_path: DropPath | None) -> Unit:
    def run(modules: Sequence[Callable[..., Any]], edges: bool, state: State) -> State:
        return (modules[0](*state, begun_at(nodes, place), edges, drop_path),)

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
        self.space, self.graphs = space, _graphs(space, cells)
        dag = space.dag
        self.body = DagBody(dag, self.graphs, num_classes, channels, image_channels, True, None, recompute)
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


class DagNetwork(nn.Module):
    """The network of a full graph's genotype. Operations that nothing enters or that nothing reads are left out; the
    connections that are left keep a scale, which begins at one and is trained as the weights are.

    Args:
        genotype: A genotype of ``space``.
        num_classes: Size of the logits.
        channels: Channels of the first stage; they double from stage to stage.
        cells: Normal blocks in a stage.
        image_channels: 3 for colour, 1 for grey images.
        space: The graph.
    """

    def __init__(
        self,
        genotype: Genotype,
        num_classes: int,
        channels: int = 36,
        cells: int = 8,
        image_channels: int = 3,
        space: GraphSpace = DSO,
    ) -> None:
        super().__init__()
        space.check(genotype)
        dag, graphs = space.dag, _graphs(space, cells)
        left = [structure(dag, genotype.normal, graph) for graph in graphs]
        self.reads = [reads for _, reads in left]
        self.body = DagBody(dag, graphs, num_classes, channels, image_channels, searching=False, left=left)
        self.scales = nn.ModuleList(
            nn.ParameterDict({str(node): torch.ones(len(sources)) for node, sources in enumerate(reads) if sources})
            for reads in self.reads
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, drop_path: float = 0.0, seed: int = 0) -> tuple[Tensor, None]:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]``; there is no auxiliary head."""
        drop = DropPath(drop_path, seed, images.device) if self.training and drop_path > 0 else None
        nothing = images.new_empty(0)
        enter = [
            [
                Entering(sources, scales[str(node)] if sources else nothing)  # type: ignore[index]
                for node, sources in enumerate(reads)
            ]
            for reads, scales in zip(self.reads, self.scales, strict=True)
        ]
        return self.body(images, enter, drop), None


def structure(dag: FullDag, cell: CellGenotype, graph: int) -> Structure:
    """What is left of a block, its states numbered within it.

    Args:
        dag: The graph.
        cell: The connections of all blocks.
        graph: Which block of the graph.
    """
    span, nodes = dag.spans[graph], dag.nodes_of(dag.blocks[graph])
    genes = cell.nodes[span.start : span.stop]
    kept = [[source - span.start for primitive, source in of_node if primitive != "none"] for of_node in genes]
    living = living_operations(nodes, kept)
    there = living | {0, len(nodes)}  # with the block's input and its output
    reads = [
        [source for source in sorted(sources) if source in there] if state in there else []
        for state, sources in enumerate(kept, 1)
    ]
    return Structure(living, reads)


def _graphs(space: GraphSpace, cells: int) -> list[int]:
    """For every block of the network, which block of the graph it is."""
    require(cells >= 1, "DagSupernet", "cells must be at least 1 in a stage", cells)
    space.require_depth(cells)
    if not space.shared:
        return list(range(len(space.dag.blocks)))
    graphs = [graph for stage in range(STAGES) for graph in [0] * cells + [1 + stage]]
    return graphs[:-1]  # nothing is halved after the last stage
