"""From architecture logits to the coefficients that mix candidates (axis A) and edges (axis J).

Shape suffixes: E edges of a cell, K candidates of an edge.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def softmax(alpha_EK: Tensor) -> Tensor:
    """Softmax over the candidates of each edge (Liu et al., 2019, arXiv:1806.09055, eq. 2)."""
    return alpha_EK.softmax(-1)


def edge_softmax(beta_E: Tensor, rows: Sequence[range]) -> Tensor:
    """Softmax over the edges into each node: PC-DARTS's edge normalisation (Xu et al., 2020, arXiv:1907.05737, eq. 4).

    Args:
        beta_E: Edge logits of one cell type, ``[E]``.
        rows: The rows of each node's incoming edges, node by node; together they are all of ``range(E)``.

    Returns:
        Edge coefficients ``[E]`` that sum to one at every node.
    """
    return torch.cat([beta_E[row.start : row.stop].softmax(0) for row in rows])


def entropy(mix_EK: Tensor) -> Tensor:
    """Mean over the edges of the entropy of their coefficients, in nats: ``log K`` at the start, 0 when decided."""
    return torch.special.entr(mix_EK).sum(-1).mean()
