"""Which cells of our supernets are evaluated as a whole, and the plan of those that are."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from fastnas.spaces.space import Space
from fastnas.supernet.mix import NodeMix
from fastnas.supernet.operations import DARTS_OPERATIONS, BuildOperation
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan

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


def is_planned(name: str, build: BuildOperation) -> bool:
    """Whether the kernels know the operation that ``build`` makes."""
    return name in CANDIDATES and build is DARTS_OPERATIONS.get(name)


def running(nodes: Sequence[NodeMix], everything: Names) -> Names | None:
    """The primitives that run on every edge, or ``None`` where a node needs more than a weighted sum of them."""
    if any(node.offset is not None or node.noise is not None or not len(node.candidates) for node in nodes):
        return None
    if nodes[0].alive is None:
        return everything
    return tuple(names for node in nodes for names in node.alive or ())


@lru_cache(maxsize=256)
def plan_of(space: Space, channels: int, stride: int, k: int, names: Names) -> CellPlan | None:
    """The plan of a cell on whose edges ``names`` run; ``None`` where the kernels do not know one of them."""
    if not {name for of_edge in names for name in of_edge} <= set(CANDIDATES):
        return None
    edges = tuple(
        EdgePlan(edge.source, edge.target, tuple(CANDIDATES[name] for name in of_edge))
        for edge, of_edge in zip(space.edges, names, strict=True)
    )
    return CellPlan(channels, space.num_inputs, space.num_nodes, edges, stride, k)
