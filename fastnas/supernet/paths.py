"""Architectures as paths through a supernet."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastnas.spaces.genotype import CellGenotype, Genotype
from fastnas.spaces.space import Edge, Space
from fastnas.supernet.mix import Columns, Mix


def path_of(space: Space, genotype: Genotype, edges: Mapping[str, Sequence[float]], device: torch.device) -> Mix:
    """The coefficients of the supernet's path that is ``genotype``: one on what it keeps, zero elsewhere.

    Args:
        space: Of both.
        genotype: The architecture.
        edges: Coefficients ``[E]`` of edges, by cell type, if the supernet has some; those of dropped edges go to the
            edges that are kept at the same node.
        device: Of the supernet.
    """
    candidates, alive = {}, {}
    for cell_type, cell in genotype.cells.items():
        columns = _columns(space, cell)
        mix_EK = torch.zeros(len(space.edges), len(space.primitives), device=device)
        for row, of_edge in enumerate(columns):
            mix_EK[row, list(of_edge)] = 1.0
        candidates[cell_type], alive[cell_type] = mix_EK, columns
    kept = {name: _kept(space, values, candidates[name]) for name, values in edges.items()}
    return Mix(candidates, kept, alive)


def _columns(space: Space, cell: CellGenotype) -> Columns:
    columns: list[tuple[int, ...]] = [()] * len(space.edges)
    for node, genes in enumerate(cell.nodes):
        for primitive, source in genes:
            columns[space.row(Edge(source, space.num_inputs + node))] = (space.primitives.index(primitive),)
    return tuple(columns)


def _kept(space: Space, values: Sequence[float], mix_EK: Tensor) -> Tensor:
    edge_E = torch.tensor(values, device=mix_EK.device) * mix_EK.sum(-1)
    for target in space.targets:
        rows = slice(space.rows(target).start, space.rows(target).stop)
        edge_E[rows] /= edge_E[rows].sum().clamp_min(1e-12)
    return edge_E
