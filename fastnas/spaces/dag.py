"""The graph of DSO-NAS: every operation of a block may read every operation before it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from fastnas_kernels.check import require

OPERATIONS = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
HALVING = ("conv_1x1", "conv_3x3")  # the operations of a block that halves the resolution
STAGES = 3
PAPER_BLOCKS = 8  # in a stage, on small images


class DagNode(NamedTuple):
    """A state that a block computes.

    Args:
        operation: What is done to the sum of what it reads; ``"output"`` for the block's own output.
        level: From 1, and one more than the last level for the output.
        reads: The states between which it chooses, within its block: 0 is the block's input, others are operations.
            None for operations of the first level, which read the input as it is.
    """

    operation: str
    level: int
    reads: range


@dataclass(frozen=True)
class FullDag:
    """Blocks one behind the other, each a graph without a connection missing (Zhang et al., 2018, arXiv:1811.01567).

    Args:
        blocks: The kinds of the blocks that have connections of their own, ``"normal"`` or ``"reduction"``: all blocks
            of the network, or one normal block that stands for all of them, and the reductions.
        levels: Of operations in a normal block (paper: 4).
    """

    blocks: tuple[str, ...]
    levels: int = 4

    def __post_init__(self) -> None:
        named = len(self.blocks) > 0 and set(self.blocks) <= {"normal", "reduction"}
        require(named, "FullDag", "blocks must be names, each normal or reduction", self.blocks)
        require(self.levels >= 1, "FullDag", "levels must be at least 1", self.levels)

    def nodes_of(self, kind: str) -> tuple[DagNode, ...]:
        """The states that a block of ``kind`` computes, in their order."""
        if kind == "reduction":
            halving = [DagNode(operation, 1, range(0)) for operation in HALVING]
            return (*halving, DagNode("output", 2, range(1, 1 + len(HALVING))))
        width = len(OPERATIONS)
        inside = [
            DagNode(operation, level, range(1 + width * (level - 1)) if level > 1 else range(0))
            for level in range(1, self.levels + 1)
            for operation in OPERATIONS
        ]
        return (*inside, DagNode("output", self.levels + 1, range(1, 1 + width * self.levels)))

    @cached_property
    def spans(self) -> tuple[range, ...]:
        """The nodes of every block, counted through; a block's input is the state before its first node."""
        return tuple(self._spans())

    def _spans(self) -> Iterator[range]:
        first = 0
        for kind in self.blocks:
            yield range(first, first + len(self.nodes_of(kind)))
            first += len(self.nodes_of(kind))

    @cached_property
    def sources(self) -> tuple[range, ...]:
        """For every node the states that it may read; the first block's input is the state 0."""
        return tuple(
            range(span.start + node.reads.start, span.start + node.reads.stop)
            for kind, span in zip(self.blocks, self.spans, strict=True)
            for node in self.nodes_of(kind)
        )


def living_operations(nodes: Sequence[DagNode], kept: Sequence[Collection[int]]) -> frozenset[int]:
    """The operations of a block that something enters and that something reads, all else being structure to remove.

    Args:
        nodes: Of the block, the output last.
        kept: For every node the states of the block that it reads; those of the first level read the input anyway.

    Returns:
        Their states within the block, from 1.
    """
    fed: set[int] = set()
    for state, (node, sources) in enumerate(zip(nodes[:-1], kept[:-1], strict=True), 1):
        if node.level == 1 or any(source == 0 or source in fed for source in sources):
            fed.add(state)
    used = set(kept[-1])
    for state in reversed(range(1, len(nodes))):
        if state in used:
            used |= set(kept[state - 1])
    return frozenset(fed & used)
