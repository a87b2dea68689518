"""The coefficients that a supernet mixes with."""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from fastnas.spaces.space import Space
from fastnas.supernet.noise import EdgeNoise, NoiseSource

Columns = tuple[tuple[int, ...], ...]
"""For every edge of a cell type the candidates that run, as columns of its coefficients in ascending order."""
NOTHING: Mapping = MappingProxyType({})


class Mix(NamedTuple):
    """Coefficients of every cell type.

    Args:
        candidates: Coefficients of the candidates of every edge, ``[E, K]``, dimensionless.
        edges: Coefficients of the edges, ``[E]``; empty where edges are added up as they are.
        alive: Which candidates run, known on the host; a cell type that is missing runs all of them. The others are
            not evaluated, whatever their coefficient is.
        offsets: Numbers ``[E]`` that are added to every pixel of an edge's output; a cell type that is missing has
            none.
        noise: What is dropped at random, if anything.
        seed: What the primitive ``noise`` draws from in this evaluation; a search takes another one in every step.
        shifts: What is added to the coefficients ``[E, K]`` of a cell type in single cells, by their places.
    """

    candidates: Mapping[str, Tensor]
    edges: Mapping[str, Tensor]
    alive: Mapping[str, Columns] = NOTHING
    offsets: Mapping[str, Tensor] = NOTHING
    noise: EdgeNoise | None = None
    seed: int = 0
    shifts: Mapping[str, Mapping[int, Tensor]] = NOTHING


class NodeMix(NamedTuple):
    """What one node needs of a :class:`Mix`.

    Args:
        candidates: One coefficient for every candidate that runs, edge by edge.
        edges: Coefficients of its edges, if they have any.
        alive: The names of the candidates that run on each of its edges; ``None`` for all.
        offset: A number to add to every pixel, if there is one.
        noise: What drops outputs, the same object in all nodes of a cell; see :func:`at_place`.
        seed: That of the mix.
        at: The candidates' coefficients in single cells, by their places, where they differ.
    """

    candidates: Tensor
    edges: Tensor | None
    alive: tuple[tuple[str, ...], ...] | None = None
    offset: Tensor | None = None
    noise: NoiseSource | None = None
    seed: int = 0
    at: Mapping[int, Tensor] = NOTHING


def node_mixes(space: Space, mix: Mix, cell_type: str) -> list[NodeMix]:
    """Cut the coefficients of a cell type into nodes; ``none``, whose output is zero, is left out."""
    nodes, shifts = _node_mixes(space, mix, cell_type), mix.shifts.get(cell_type, NOTHING)
    moved = {}
    for place, shift_EK in shifts.items():
        at_place = {**mix.candidates, cell_type: mix.candidates[cell_type] + shift_EK}
        moved[place] = _node_mixes(space, mix._replace(candidates=at_place), cell_type)
    if not moved:
        return nodes
    return [n._replace(at={p: those[i].candidates for p, those in moved.items()}) for i, n in enumerate(nodes)]


def _node_mixes(space: Space, mix: Mix, cell_type: str) -> list[NodeMix]:
    mix_EK = mix.candidates[cell_type]
    edge_mix_E, offset_E = mix.edges.get(cell_type), mix.offsets.get(cell_type)
    if edge_mix_E is not None:
        mix_EK = mix_EK * edge_mix_E[:, None]
        offset_E = None if offset_E is None else offset_E * edge_mix_E
    first = int(space.primitives[0] == "none")
    noise = None if mix.noise is None else NoiseSource(mix.noise, cell_type, mix_EK.device)
    alive = mix.alive.get(cell_type, _unlike_a_block(space, cell_type))
    living = None if alive is None else _Living(space, alive, mix_EK)
    nodes = []
    for target in space.targets:
        rows = space.rows(target)
        part = slice(rows.start, rows.stop)
        coefficients, names = (mix_EK[part, first:].flatten(), None) if living is None else living.of_node(rows)
        edges = None if edge_mix_E is None else edge_mix_E[part]
        offset = None if offset_E is None else offset_E[part].sum()
        nodes.append(NodeMix(coefficients, edges, names, offset, noise, mix.seed))
    return nodes


def at_place(nodes: list[NodeMix], place: int) -> list[NodeMix]:
    """``nodes`` for the cell at ``place`` of a network, with its own coefficients; its noise begins anew."""
    if place in nodes[0].at:
        nodes = [node._replace(candidates=node.at[place]) for node in nodes]
    noise = nodes[0].noise
    if noise is None:
        return nodes
    fresh = noise.at(place)
    return [node._replace(noise=fresh) for node in nodes]


def _unlike_a_block(space: Space, cell_type: str) -> Columns | None:
    """The candidates of every edge; ``None`` where they are the same block of columns on all of them."""
    if space.rectangular and "none" not in space.primitives[1:]:
        return None
    return tuple(tuple(k for k, alive in enumerate(row) if alive) for row in space.alive(cell_type))


def built_on(space: Space, cell_type: str, row: int) -> tuple[str, ...]:
    """The candidates of an edge that a supernet builds: all but ``none``, whose output is zero."""
    return tuple(primitive for primitive in space.candidates(cell_type, row) if primitive != "none")


@lru_cache(maxsize=256)
def _places(runs: Columns, width: int, device: torch.device) -> Tensor:
    """Where the coefficients of the candidates that run lie among all; on the device, once for what is alive."""
    places = [row * width + k for row, run in enumerate(runs) for k in run]
    return torch.tensor(places, dtype=torch.long).to(device)


class _Living:
    """The coefficients of the candidates that run, gathered for all edges of a cell type at once."""

    def __init__(self, space: Space, alive: Columns, mix_EK: Tensor) -> None:
        self.runs = [[k for k in row if space.primitives[k] != "none"] for row in alive]
        self.names = [tuple(space.primitives[k] for k in row) for row in self.runs]
        places = _places(tuple(map(tuple, self.runs)), len(space.primitives), mix_EK.device)
        self.coefficients = mix_EK.flatten()[places]

    def of_node(self, rows: range) -> tuple[Tensor, tuple[tuple[str, ...], ...]]:
        before = sum(len(run) for run in self.runs[: rows.start])
        count = sum(len(self.runs[row]) for row in rows)
        return self.coefficients[before : before + count], tuple(self.names[row] for row in rows)


def uniform_mix(space: Space, device: torch.device | None = None) -> Mix:
    """Every candidate of every edge with the same coefficient: where a search begins."""

    def even(cell_type: str) -> Tensor:
        alive = torch.tensor(space.alive(cell_type), dtype=torch.get_default_dtype(), device=device)
        return alive / alive.sum(-1, keepdim=True)

    return Mix({cell_type: even(cell_type) for cell_type in space.cell_types}, {})
