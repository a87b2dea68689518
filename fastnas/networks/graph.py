"""Derived networks of full graphs (DSO-NAS, Zhang et al., 2018, arXiv:1811.01567)."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastnas.networks.network import DerivedNetwork
from fastnas.spaces.genotype import CellGenotype, Genotype
from fastnas.spaces.graph_space import DSO, DagNode, FullDag, GraphSpace, find_living_operations
from fastnas.supernet.dag import OPERATIONS, graph_shortcut, halve, normalise, order_graph
from fastnas.supernet.layout import SmallStem, channels_last
from fastnas.supernet.operations import batch_norm, convolution


class Structure(NamedTuple):
    """What is left of a block once connections are removed.

    Args:
        operations: Those that something enters and that something reads, as states.
        reads: For every node the states that it reads.
    """

    operations: frozenset[int]
    reads: Sequence[Sequence[int]]


def structure(dag: FullDag, cell: CellGenotype, graph: int) -> Structure:
    """What is left of a block, its states numbered within it."""
    span, nodes = dag.spans[graph], dag.nodes_of(dag.blocks[graph])
    genes = cell.nodes[span.start : span.stop]
    kept = [[source - span.start for primitive, source in of_node if primitive != "none"] for of_node in genes]
    living = find_living_operations(nodes, kept)
    there = living | {0, len(nodes)}  # with the block's input and its output
    reads = [
        [source for source in sorted(sources) if source in there] if state in there else []
        for state, sources in enumerate(kept, 1)
    ]
    return Structure(living, reads)


class GraphBlock(nn.Module):
    """A block that keeps the resolution: what is left of its operations, and a shortcut.

    The connections that are left have a scale each, one vector for the block.

    Args:
        nodes: Of the whole block.
        left: What is left of them.
        channels: Channels read and written.
        first: Whether it is the first of its stage, whose shortcut is a 1x1 convolution.
    """

    reads: list[list[int]]
    output: list[int]

    def __init__(self, nodes: Sequence[DagNode], left: Structure, channels: int, first: bool) -> None:
        super().__init__()
        order = sorted(left.operations)
        place = {0: 0} | {state: i for i, state in enumerate(order, 1)}
        self.reads = [[place[source] for source in left.reads[state - 1]] for state in order]
        self.output = [place[source] for source in left.reads[-1]]
        built = [OPERATIONS[nodes[state - 1].operation](channels, 1, False) for state in order]
        self.operations = nn.ModuleDict({str(state): one for state, one in zip(order, built, strict=True)})
        self.projections = nn.ModuleDict(
            {str(state): convolution(channels, channels, 1, searching=False) for state in left.reads[-1]}
        )
        self.norm = normalise(channels, False) if order else None
        self.shortcut = graph_shortcut(channels, first, searching=False)
        self.scales = _scales(sum(map(len, self.reads)) + len(self.output))

    def forward(self, x: Tensor) -> Tensor:
        """From ``[N, C, H, W]`` to the same shape."""
        states: list[Tensor] = [x]
        used = 0
        for i, operation in enumerate(self.operations.values()):
            entered = x
            for j, source in enumerate(self.reads[i]):
                scaled = self.scales[used] * states[source]  # type: ignore[index]
                entered = scaled if j == 0 else entered + scaled
                used += 1
            states.append(operation(entered))
        shortcut = self.shortcut(x)
        if self.norm is None:
            return shortcut
        total = torch.zeros_like(x)
        for i, projection in enumerate(self.projections.values()):
            total = total + self.scales[used + i] * projection(states[self.output[i]])  # type: ignore[index]
        return shortcut + self.norm(total)


class GraphReduction(nn.Module):
    """A block that halves the resolution: the scaled sum of the convolutions that are left.

    Args:
        nodes: Of the whole block.
        left: What is left of them.
        channels: Channels read; twice as many are written.
    """

    def __init__(self, nodes: Sequence[DagNode], left: Structure, channels: int) -> None:
        super().__init__()
        order = sorted(left.operations)
        self.operations = nn.ModuleDict(
            {str(state): halve(nodes[state - 1].operation, channels, searching=False) for state in order}
        )
        self.scales = _scales(len(order))

    def forward(self, x: Tensor) -> Tensor:
        """From ``[N, C, H, W]`` to ``[N, 2 C, H / 2, W / 2]``, zeros where neither convolution is left."""
        total = torch.zeros_like(x[:, :, ::2, ::2]).repeat(1, 2, 1, 1)
        for i, operation in enumerate(self.operations.values()):
            total = total + self.scales[i] * operation(x)  # type: ignore[index]
        return total


def _scales(count: int) -> nn.Parameter | None:
    return nn.Parameter(torch.ones(count)) if count else None


class GraphNetwork(DerivedNetwork):
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
        dag = space.dag
        self.stem = SmallStem(image_channels, channels, searching=False)
        self.blocks = nn.ModuleList()
        width, first = channels, True
        for graph in order_graph(space, cells):
            kind = dag.blocks[graph]
            nodes, left = dag.nodes_of(kind), structure(dag, genotype.normal, graph)
            if kind == "reduction":
                self.blocks.append(GraphReduction(nodes, left, width))
                width, first = 2 * width, True
            else:
                self.blocks.append(GraphBlock(nodes, left, width, first))
                first = False
        self.norm = batch_norm(width, searching=False)
        self.num_features = width
        self.classifier = nn.Linear(self.num_features, num_classes)
        self.register_load_state_dict_pre_hook(_rename)

    def forward(self, images: Tensor) -> Tensor:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]``."""
        state = self.stem(channels_last(images))[0].relu()
        for block in self.blocks:
            state = block(state)
        return self.classifier(self.norm(state).relu().mean((2, 3)))

    def units(self) -> list[nn.Module]:
        return [self.stem, *self.blocks]

    def droppable(self) -> Iterator[nn.Module]:
        for block in self.blocks:
            if isinstance(block, GraphBlock) and block.norm is not None:
                yield block.norm


def _rename(network: nn.Module, tensors: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Read weights of before: a ``body.`` around all modules, and a vector of scales for every node."""
    scales: dict[str, dict[int, Tensor]] = {}
    for key in [key for key in tensors if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if name.startswith("body."):
            tensors[prefix + name.removeprefix("body.")] = tensors.pop(key)
        elif found := re.fullmatch(r"scales\.(\d+)\.(\d+)", name):
            scales.setdefault(found[1], {})[int(found[2])] = tensors.pop(key)
    for block, of_node in scales.items():
        tensors[f"{prefix}blocks.{block}.scales"] = torch.cat([of_node[node] for node in sorted(of_node)])
