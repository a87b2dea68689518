"""Spaces of full graphs, as of DSO-NAS: every operation of a block may read every operation before it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from fastnas.errors import invalid
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.space import Space

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
        if not self.blocks or not set(self.blocks) <= {"normal", "reduction"}:
            raise invalid("FullDag", "blocks must be names, each normal or reduction", self.blocks)
        if self.levels < 1:
            raise invalid("FullDag", "levels must be at least 1", self.levels)

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


def find_living_operations(nodes: Sequence[DagNode], kept: Sequence[Collection[int]]) -> frozenset[int]:
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


@dataclass(frozen=True, kw_only=True)
class GraphSpace(Space):
    """A full graph whose nodes are operations, and whose primitives say whether there is a connection.

    Args:
        name: What genotypes of this space call it.
        dag: The graph.
        shared: Whether its first block stands for any number of normal blocks, which share its connections.
    """

    dag: FullDag
    shared: bool = False
    primitives: tuple[str, ...] = field(default=("none", "connect"), init=False)
    num_inputs: int = field(default=1, init=False)
    num_nodes: int = field(default=1, init=False)
    cell_types: tuple[str, ...] = field(default=("normal",), init=False)
    kept_edges: int | None = field(default=None, init=False)
    concat: tuple[int, ...] = field(default=(1,), init=False)
    edge_primitives: None = field(default=None, init=False)

    no_partial_channels = "Its operations are nodes, around which no channels could pass."
    no_edge_costs = (
        "Its operations are paid once, however many connections lead to them: no sum over connections is the cost."
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_nodes", len(self.dag.sources))
        object.__setattr__(self, "concat", (self.num_nodes,))
        super().__post_init__()

    def sources(self, target: int) -> range:
        return self.dag.sources[target - self.num_inputs]

    @property
    def no_large_images(self) -> str:
        return "Its network halves the resolution only twice."

    @property
    def depth(self) -> int | None:
        return None if self.shared else self.dag.blocks.count("normal") // STAGES

    @property
    def no_alignment(self) -> str:
        return super().no_alignment or "Its supernet takes the same coefficients in all blocks."

    def with_depth(self, cells: int) -> GraphSpace:
        return dso(cells) if self == DSO_FULL else super().with_depth(cells)

    @property
    def bridges(self) -> frozenset[int]:
        spans = zip(self.dag.blocks, self.dag.spans, strict=True)
        return frozenset(self.num_inputs + span[-1] for kind, span in spans if kind == "reduction")

    def title(self, cell_type: str) -> str:
        return "full graph"

    def block_title(self, block: int) -> str:
        """What a heading calls a block."""
        kinds = self.dag.blocks
        number = kinds[: block + 1].count(kinds[block])
        if kinds[block] == "reduction":
            return f"reduction {number}"
        return f"block {number}" if kinds.count("normal") > 1 else "every block"

    def describe(self, genotype: Genotype) -> Iterator[str]:
        for block, (kind, span) in enumerate(zip(self.dag.blocks, self.dag.spans, strict=True)):
            nodes, found = self.dag.nodes_of(kind), genotype.normal.nodes[span.start : span.stop]
            yield from (self.block_title(block), f"  {'node':<5}{'operation':<14}reads")
            for state, (node, genes) in enumerate(zip(nodes, found, strict=True), 1):
                kept = [0] if node.level == 1 else [g.source - span.start for g in genes if g.primitive != "none"]
                is_output = node.operation == "output"
                name = "out" if is_output else _state_name(nodes, state)
                reads = " ".join(_state_name(nodes, source) for source in kept)
                yield f"  {name:<5}{'' if is_output else node.operation:<14}{reads or '-'}"
            yield ""


def _state_name(nodes: Sequence[DagNode], state: int) -> str:
    """What a text calls a state of a block: its level and its place in there."""
    if state == 0:
        return "in"
    level = nodes[state - 1].level
    return f"{level}.{sum(node.level == level for node in nodes[:state])}"


def dso(blocks: int | None = None) -> GraphSpace:
    """The full graph of DSO-NAS (Zhang et al., 2018, arXiv:1811.01567): every connection is there or not.

    Four levels of four operations; each reads any of the block's input and of the operations of lower levels, and all
    may reach the block's output: 124 connections. Two blocks that halve the resolution choose between two convolutions.

    Args:
        blocks: In each of three stages, with connections of their own (paper: 8), ``dso_full`` or
            ``dso_full_<blocks>``; ``None`` for any number of blocks that share theirs, ``dso``.
    """
    if blocks is None:
        return GraphSpace(name="dso", dag=FullDag(("normal", "reduction", "reduction")), shared=True)
    if blocks < 1:
        raise invalid("dso", "blocks must be at least 1 in a stage", blocks)
    full = (("reduction",) + ("normal",) * blocks) * STAGES  # the first one is cut off
    return GraphSpace(name="dso_full" if blocks == PAPER_BLOCKS else f"dso_full_{blocks}", dag=FullDag(full[1:]))


DSO, DSO_FULL = dso(), dso(PAPER_BLOCKS)
"""Zhang et al., 2018, arXiv:1811.01567: the connections of all blocks shared, and those of every block its own."""
