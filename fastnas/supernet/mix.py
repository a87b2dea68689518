"""The coefficients that a supernet mixes with."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fastnas.space.cell_space import CellSpace


class Mix(NamedTuple):
    """Coefficients of every cell type.

    Args:
        candidates: Coefficients of the candidates of every edge, ``[E, K]``, dimensionless.
        edges: Coefficients of the edges, ``[E]``; empty where edges are added up as they are.
    """

    candidates: Mapping[str, Tensor]
    edges: Mapping[str, Tensor]


class NodeMix(NamedTuple):
    """What one node needs of a :class:`Mix`: coefficients of all its candidates, and of its edges if they have any."""

    candidates: Tensor
    edges: Tensor | None


def node_mixes(space: CellSpace, mix: Mix, cell_type: str) -> list[NodeMix]:
    """Cut the coefficients of a cell type into nodes; ``none``, whose output is zero, is left out."""
    mix_EK = mix.candidates[cell_type]
    edge_mix_E = mix.edges.get(cell_type)
    if edge_mix_E is not None:
        mix_EK = mix_EK * edge_mix_E[:, None]
    columns = [k for k, primitive in enumerate(space.primitives) if primitive != "none"]
    first = columns[0]
    assert columns == list(range(first, len(space.primitives))), "none stands first"
    nodes = []
    for target in range(space.num_inputs, space.num_inputs + space.num_nodes):
        rows = space.rows(target)
        edges = None if edge_mix_E is None else edge_mix_E[rows.start : rows.stop]
        nodes.append(NodeMix(mix_EK[rows.start : rows.stop, first:].flatten(), edges))
    return nodes


def uniform_mix(space: CellSpace, device: torch.device | None = None) -> Mix:
    """Every candidate of every edge with the same coefficient: where a search begins."""
    num_edges, num_primitives = len(space.edges), len(space.primitives)
    coefficients = torch.full((num_edges, num_primitives), 1 / num_primitives, device=device)
    return Mix(dict.fromkeys(space.cell_types, coefficients), {})
