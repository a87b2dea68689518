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
        seed: What the primitive ``noise`` draws from in this evaluation; a search takes another one in every step.
    """

    candidates: Mapping[str, Tensor]
    edges: Mapping[str, Tensor]
    seed: int = 0


class NodeMix(NamedTuple):
    """What one node needs of a :class:`Mix`: coefficients of all its candidates but ``none``, edge by edge; of its
    edges, if they have any; and the seed."""

    candidates: Tensor
    edges: Tensor | None
    seed: int = 0


def node_mixes(space: CellSpace, mix: Mix, cell_type: str) -> list[NodeMix]:
    """Cut the coefficients of a cell type into nodes; ``none``, whose output is zero, is left out."""
    mix_EK = mix.candidates[cell_type]
    edge_mix_E = mix.edges.get(cell_type)
    if edge_mix_E is not None:
        mix_EK = mix_EK * edge_mix_E[:, None]
    nodes = []
    for target in range(space.num_inputs, space.num_inputs + space.num_nodes):
        rows = space.rows(target)
        edges = None if edge_mix_E is None else edge_mix_E[rows.start : rows.stop]
        nodes.append(NodeMix(_of_candidates(space, cell_type, mix_EK, rows), edges, mix.seed))
    return nodes


def _of_candidates(space: CellSpace, cell_type: str, mix_EK: Tensor, rows: range) -> Tensor:
    if space.rectangular and "none" not in space.primitives[1:]:
        first = int(space.primitives[0] == "none")
        return mix_EK[rows.start : rows.stop, first:].flatten()
    width = len(space.primitives)
    flat = [row * width + space.primitives.index(name) for row in rows for name in built_on(space, cell_type, row)]
    return mix_EK.flatten().index_select(0, torch.tensor(flat, device=mix_EK.device))


def built_on(space: CellSpace, cell_type: str, row: int) -> tuple[str, ...]:
    """The candidates of an edge that a supernet builds: all but ``none``, whose output is zero."""
    return tuple(primitive for primitive in space.candidates(cell_type, row) if primitive != "none")


def uniform_mix(space: CellSpace, device: torch.device | None = None) -> Mix:
    """Every candidate of every edge with the same coefficient: where a search begins."""

    def even(cell_type: str) -> Tensor:
        alive = torch.tensor(space.alive(cell_type), dtype=torch.get_default_dtype(), device=device)
        return alive / alive.sum(-1, keepdim=True)

    return Mix({cell_type: even(cell_type) for cell_type in space.cell_types}, {})
