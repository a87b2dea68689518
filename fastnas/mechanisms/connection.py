"""How an edge is connected to its node (axis J)."""

from dataclasses import dataclass

from fastnas_kernels.check import require


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Which channels an edge mixes and how the edges of a node are weighted.

    Args:
        k: Candidates see ``1 / k`` of the channels, the others pass by and a shuffle interleaves them
            (Xu et al., 2020, arXiv:1907.05737, section 3.2). 1 mixes all channels.
        edge_normalisation: Weigh the edges of a node by a softmax over edge logits beta (section 3.3); otherwise
            they are added up.
        joint_inputs: Draw which states a node reads, as many as derivation keeps and all of them at once, with logits
            of their own (Casale et al., 2019, arXiv:1902.05116). Nothing in spaces that keep all edges.
    """

    k: int = 1
    edge_normalisation: bool = False
    joint_inputs: bool = False

    def __post_init__(self) -> None:
        require(self.k >= 1, "Connection", "k must be at least 1", self.k)
        alone = not self.joint_inputs or (self.k == 1 and not self.edge_normalisation)
        rule = "joint_inputs must stand without k and edge_normalisation, which add up all edges of a node"
        require(alone, "Connection", rule, f"k={self.k}, edge_normalisation={self.edge_normalisation}")
