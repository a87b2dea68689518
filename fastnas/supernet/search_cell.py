"""A cell in which every edge carries all candidates, evaluated as a whole where the kernels know all of them."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastnas.spaces.space import Space
from fastnas.supernet.layout import channels_last
from fastnas.supernet.mix import NodeMix, list_built
from fastnas.supernet.operations import DARTS_OPERATIONS, BuildOperation, Convolution, Noise, call, take_every
from fastnas.supernet.recompute import checkpoint
from fastnas_kernels.mixed_op.cell import mixed_cell
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan
from fastnas_kernels.mixture import mixed_sum
from fastnas_kernels.partial_channels import merge_channels, require_partial

CANDIDATES: Mapping[str, Candidate] = {
    "max_pool_3x3": Candidate("max_pool"),
    "avg_pool_3x3": Candidate("avg_pool"),
    "skip_connect": Candidate("skip"),
    "sep_conv_3x3": Candidate("depthwise", kernel=3, repeats=2),
    "sep_conv_5x5": Candidate("depthwise", kernel=5, repeats=2),
    "sep_conv_7x7": Candidate("depthwise", kernel=7, repeats=2),
    "dil_conv_3x3": Candidate("depthwise", kernel=3, dilation=2),
    "dil_conv_5x5": Candidate("depthwise", kernel=5, dilation=2),
}
"""What the primitives of Liu et al., 2019, arXiv:1806.09055, section 3.1.1 and appendix, are to the kernels."""

Names = tuple[tuple[str, ...], ...]
"""For every edge of a cell the primitives that run on it."""


def knows_operation(name: str, build: BuildOperation) -> bool:
    """Whether the kernels know the operation that ``build`` makes."""
    return name in CANDIDATES and build is DARTS_OPERATIONS.get(name)


def list_running(nodes: Sequence[NodeMix], everything: Names) -> Names | None:
    """The primitives that run on every edge, or ``None`` where a node needs more than a weighted sum of them."""
    if any(node.offset is not None or node.noise is not None or not len(node.candidates) for node in nodes):
        return None
    if nodes[0].alive is None:
        return everything
    return tuple(names for node in nodes for names in node.alive or ())


@lru_cache(maxsize=256)
def plan_cell(space: Space, channels: int, stride: int, k: int, names: Names) -> CellPlan | None:
    """The plan of a cell on whose edges ``names`` run; ``None`` where the kernels do not know one of them."""
    if not {name for of_edge in names for name in of_edge} <= set(CANDIDATES):
        return None
    edges = tuple(
        EdgePlan(edge.source, edge.target, tuple(CANDIDATES[name] for name in of_edge))
        for edge, of_edge in zip(space.edges, names, strict=True)
    )
    return CellPlan(channels, space.num_inputs, space.num_nodes, edges, stride, k)


_POOLS = F.max_pool1d, F.max_pool2d, F.max_pool3d


class SearchCell(nn.Module):
    """All candidates on all edges, one weighted sum at every node.

    A candidate without parameters (a pool, an identity) gives the same result on every edge that leaves a state,
    so it is evaluated once for the state; noise alone is another on every edge.

    Args:
        space: The graph and the names of the candidates.
        operations: How each candidate is built.
        inputs: One module for each input state, which brings it to ``channels``.
        channels: Channels of every state inside the cell.
        stride: 2 in a cell that halves the resolution, otherwise 1.
        k: The candidates see ``channels / k`` channels; the others pass by (Xu et al., 2020, arXiv:1907.05737).
        cell_type: Whose candidates the edges have.
    """

    def __init__(
        self,
        space: Space,
        operations: Mapping[str, BuildOperation],
        inputs: Sequence[nn.Module],
        channels: int,
        stride: int,
        k: int = 1,
        cell_type: str = "normal",
    ) -> None:
        super().__init__()
        require_partial("SearchCell", channels, k, even=stride == 2)
        self.space, self.stride, self.k, self.channels, self.cell_type = space, stride, k, channels, cell_type
        self.names = [primitive for primitive in space.primitives if primitive != "none"]
        self.inputs = nn.ModuleList(inputs)
        shared = [nn.ModuleDict() for _ in range(space.num_inputs + space.num_nodes - 1)]
        self.edges = nn.ModuleList()
        for row, edge in enumerate(space.edges):
            own = nn.ModuleDict()
            for name in list_built(space, cell_type, row):
                operation = operations[name](channels // k, self._stride_from(edge.source), True)
                is_own = isinstance(operation, Noise) or any(True for _ in operation.parameters())
                (own if is_own else shared[edge.source])[name] = operation
            self.edges.append(own)
        self.shared = nn.ModuleList(shared)
        # Of each candidate of every edge: to look for them takes as long as a small cell
        self.convolutions = tuple(
            {name: tuple(m for m in one.modules() if isinstance(m, Convolution)) for name, one in own.named_children()}
            for own in self.edges
        )
        self.everything = tuple(list_built(space, cell_type, row) for row in range(len(space.edges)))
        self.planned = space.dimensions == 2 and all(
            knows_operation(name, operations[name]) for names in self.everything for name in names
        )

    def _stride_from(self, source: int) -> int:
        return self.stride if source < self.space.num_inputs else 1

    def forward(self, inputs: Sequence[Tensor], nodes: Sequence[NodeMix], recompute: bool = False) -> Tensor:
        """From the input states ``[N, *, H, W]`` to ``[N, len(concat) * channels, H / stride, W / stride]``.

        Candidates that a node does not name as alive are not evaluated. With ``recompute`` those of one edge after
        another are recomputed in the backward pass, instead of keeping what they computed.
        """
        prepared = zip(self.inputs, inputs, strict=True)
        states = [checkpoint(prepare, x) if recompute else prepare(x) for prepare, x in prepared]
        names = list_running(nodes, self.everything) if self.planned else None
        plan = None if names is None else plan_cell(self.space, self.channels, self.stride, self.k, names)
        if names is None or plan is None:
            return self._node_by_node(states, nodes, recompute)
        return self._select(self._whole(states, nodes, names, plan, recompute))

    def _whole(
        self, states: Sequence[Tensor], nodes: Sequence[NodeMix], names: Names, plan: CellPlan, recompute: bool
    ) -> Tensor:
        """All nodes side by side, by the function that knows whole cells."""
        of_edges = zip(self.convolutions, names, strict=True)
        weights = [one.weight for found, of_edge in of_edges for name in of_edge for one in found.get(name, ())]
        mix = torch.cat([node.candidates for node in nodes])
        weighted = self.k > 1 and nodes[0].edges is not None
        edge_mix = torch.cat([node.edges for node in nodes if node.edges is not None]) if weighted else None
        return mixed_cell(states, weights, mix, edge_mix, plan, recompute=recompute, drawn=nodes[0].drawn)[0]

    def _select(self, nodes: Tensor) -> Tensor:
        """The nodes that form the output, from all of them side by side."""
        computed = tuple(range(self.space.num_inputs, self.space.num_inputs + self.space.num_nodes))
        if self.space.concat == computed:
            return nodes
        of_node = nodes.split(self.channels, dim=1)
        return torch.cat([of_node[i - self.space.num_inputs] for i in self.space.concat], dim=1)

    def _node_by_node(self, states: list[Tensor], nodes: Sequence[NodeMix], recompute: bool) -> Tensor:
        """The same for candidates of any kind."""
        mixed, bypass, shared = [], [], []
        for position, node in enumerate(nodes):
            for source in range(len(mixed), len(states)):
                taken, passed = self._split(states[source], self._stride_from(source))
                mixed.append(taken)
                bypass.append(passed)
                leaving = self._find_leaving(source, nodes)
                shared.append(_evaluate(self.shared[source], taken, leaving, node.seed, recompute))
            outputs = []
            for source, row in enumerate(self.space.rows(self.space.num_inputs + position)):
                names = self.names if node.alive is None else node.alive[source]
                own = _evaluate(self.edges[row], mixed[source], names, node.seed, recompute)
                of_edge = shared[source] | own
                ordered = [of_edge[name] for name in names]
                stride = self._stride_from(source)
                outputs += ordered if node.noise is None else node.noise.drop(names, ordered, stride)
            state = mixed_sum(outputs, node.candidates) if outputs else self._make_nothing(mixed[0])
            state = state if node.offset is None else state + node.offset
            states.append(state if self.k == 1 else _merge(state, _weigh(bypass, node.edges), self.k))
        concat = self.space.concat
        return states[concat[0]] if len(concat) == 1 else torch.cat([states[i] for i in concat], dim=1)

    def _find_leaving(self, source: int, nodes: Sequence[NodeMix]) -> Collection[str]:
        """Candidates that run on some edge out of the state ``source``."""
        readers = nodes[max(source + 1 - self.space.num_inputs, 0) :]
        runs = [self.names if node.alive is None else node.alive[source] for node in readers]
        return {name for names in runs for name in names}

    def _make_nothing(self, state: Tensor) -> Tensor:
        """The output of a node at which no candidate runs."""
        return torch.zeros_like(take_every(state, self.stride))

    def _split(self, state: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        if self.k == 1:
            return state, state
        taken, passed = state.split([self.channels // self.k, self.channels - self.channels // self.k], dim=1)
        # ceil_mode: strided candidates round an odd map up, and so must the channels that pass by
        passed = passed if stride == 1 else _POOLS[passed.dim() - 3](passed, 2, 2, ceil_mode=True)
        return channels_last(taken) if taken.dim() == 4 else taken.contiguous(), passed


def _evaluate(
    candidates: nn.Module, x: Tensor, names: Collection[str], seed: int, recompute: bool
) -> dict[str, Tensor]:
    return {
        name: checkpoint(one, x) if recompute and not isinstance(one, Noise) else call(one, x, seed)
        for name, one in candidates.named_children()
        if name in names
    }


def _merge(mixed: Tensor, bypass: Tensor, k: int) -> Tensor:
    """:func:`merge_channels`, of maps of any dimensions."""
    if mixed.dim() == 4:
        return merge_channels(mixed, bypass, k)
    merged = merge_channels(mixed.flatten(2).unsqueeze(2), bypass.flatten(2).unsqueeze(2), k)
    return merged.reshape(len(mixed), -1, *mixed.shape[2:])


def _weigh(states: Sequence[Tensor], coefficients: Tensor | None) -> Tensor:
    if coefficients is not None:
        return mixed_sum(states, coefficients)
    total = states[0]
    for state in states[1:]:
        total = total + state
    return total
