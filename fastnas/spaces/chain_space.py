"""Spaces of chains: a whole network, every block of which has choices of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fastnas.errors import invalid
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.space import Space


@dataclass(frozen=True, kw_only=True)
class ChainSpace(Space):
    """A chain of blocks, each of which reads the one before it and has a row of alpha.

    Args:
        name: What genotypes of this space call it.
        primitives: Candidates; their order is the order of alpha's columns and breaks ties.
        stages: Blocks in each stage, whose first block changes channels or resolution.
        edge_primitives: The candidates of each block where they differ: a tuple that holds one tuple with an entry a
            block.
    """

    stages: tuple[int, ...]
    num_inputs: int = field(default=1, init=False)
    num_nodes: int = field(default=1, init=False)
    cell_types: tuple[str, ...] = field(default=("normal",), init=False)
    kept_edges: int | None = field(default=None, init=False)
    concat: tuple[int, ...] = field(default=(1,), init=False)

    no_partial_channels = "Its blocks change their channels, so that none can pass by."
    no_edge_weights = "A block has one edge: nothing to weigh."

    def __post_init__(self) -> None:
        if not self.stages or min(self.stages) < 1:
            raise invalid(self._where, "stages must be numbers of blocks, each at least 1", self.stages)
        object.__setattr__(self, "num_nodes", sum(self.stages))
        object.__setattr__(self, "concat", (sum(self.stages),))
        super().__post_init__()

    def sources(self, target: int) -> range:
        return range(target - 1, target)

    @property
    def depth(self) -> int:
        return self.stages[0]

    def with_depth(self, cells: int) -> ChainSpace:
        return proxyless(cells) if self == PROXYLESS else super().with_depth(cells)

    @property
    def places(self) -> list[tuple[int, int]]:
        """The stage of every block and its place in there, both from 1, in the order of alpha's rows."""
        return [(stage, block + 1) for stage, blocks in enumerate(self.stages, 1) for block in range(blocks)]

    def edge_title(self, row: int) -> str:
        return "stage {}, block {}".format(*self.places[row])

    def title(self, cell_type: str) -> str:
        return "chain of blocks"

    def describe(self, genotype: Genotype) -> Iterator[str]:
        yield from (self.title("normal"), f"  {'stage':<7}{'block':<7}primitive")
        for (stage, block), genes in zip(self.places, genotype.normal.nodes, strict=True):
            for gene in genes:
                yield f"  {stage if block == 1 else '':<7}{block:<7}{gene.primitive}"
        yield ""


_MBCONVS = tuple(f"mbconv_{kernel}x{kernel}_e{expansion}" for kernel in (3, 5, 7) for expansion in (3, 6))


def proxyless(blocks: int = 4) -> ChainSpace:
    """The chain of mobile inverted bottlenecks of ProxylessNAS (Cai et al., 2019, arXiv:1812.00332).

    Six stages, the last of one block. Every block chooses one of kernels of 3, 5 and 7 pixels and expansions of 3 and
    6; blocks that keep channels and resolution add their input to the output, and may choose ``none``: the block is
    then left out. Genotypes of the published depth belong to the space ``proxyless``, others to ``proxyless_<blocks>``.

    Args:
        blocks: In each of the first five stages (paper: 4, 21 blocks in all and 141 candidates).
    """
    if blocks < 1:
        raise invalid("proxyless", "blocks must be at least 1 in a stage", blocks)
    stages = (blocks,) * 5 + (1,)
    first_and_others = [(_MBCONVS,) + ((*_MBCONVS, "none"),) * (stage - 1) for stage in stages]
    return ChainSpace(
        name="proxyless" if blocks == 4 else f"proxyless_{blocks}",
        primitives=(*_MBCONVS, "none"),
        edge_primitives=(sum(first_and_others, ()),),
        stages=stages,
    )


PROXYLESS = proxyless()
"""Cai et al., 2019, arXiv:1812.00332: 21 blocks, 6 or 7 primitives, 2e17 architectures."""
