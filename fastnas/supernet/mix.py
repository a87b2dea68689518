"""The coefficients that a supernet mixes with, and what it drops at random on its edges."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from fastnas.seeds import stream
from fastnas.spaces.genotype import CellGenotype, Genotype
from fastnas.spaces.space import Edge, Space
from fastnas_kernels.mixed_op.drawn import DrawnPaths


class EdgeNoise(NamedTuple):
    """Rates of what is dropped, and the seed that decides what.

    Args:
        drop_path: Probability, for each image and edge, that the edge's mixed output is zero; the others are divided
            by the probability of staying (Zela et al., 2020, arXiv:1909.09656, section 5.1).
        skip_dropout: Probability that an element of a skip connection's output is zero where it keeps the resolution;
            the others are divided likewise (Chen et al., 2019, arXiv:1904.12760, section 3.3).
        seed: Decides what is dropped.
    """

    drop_path: float
    skip_dropout: float
    seed: int


class NoiseSource:
    """Drops outputs in the order in which it is asked, always the same from a fresh source.

    Args:
        noise: Rates and seed.
        cell_type: Each cell type has streams of its own.
        device: Where the outputs are.
        place: Which of the network's cells asks; each has a stream of its own, so that it can be recomputed by
            itself.
    """

    def __init__(self, noise: EdgeNoise, cell_type: str, device: torch.device, place: int = 0) -> None:
        self.noise, self.cell_type, self.device = noise, cell_type, device
        self.generator = torch.Generator(device).manual_seed(stream(noise.seed, cell_type, place))

    def at(self, place: int) -> "NoiseSource":
        """The fresh source of the cell at ``place``."""
        return NoiseSource(self.noise, self.cell_type, self.device, place)

    def drop(self, names: Sequence[str], outputs: Sequence[Tensor], stride: int) -> list[Tensor]:
        """The outputs of one edge's candidates after both kinds of noise."""
        dropped = list(outputs)
        if self.noise.skip_dropout > 0 and stride == 1 and "skip_connect" in names:
            position = names.index("skip_connect")
            dropped[position] = dropped[position] * self._kept(
                dropped[position].shape, self.noise.skip_dropout, outputs
            )
        if self.noise.drop_path > 0 and dropped:
            kept = self._kept((len(dropped[0]), *[1] * (dropped[0].dim() - 1)), self.noise.drop_path, outputs)
            dropped = [x * kept for x in dropped]
        return dropped

    def _kept(self, shape: Sequence[int], rate: float, like: Sequence[Tensor]) -> Tensor:
        empty = like[0].new_empty(tuple(shape), dtype=torch.get_default_dtype())
        mask = empty.bernoulli_(1 - rate, generator=self.generator)
        return (mask / (1 - rate)).to(like[0].dtype)


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
        drawn: What runs in the cells of a type, where the host does not know: kernels pick it on the device.
    """

    candidates: Mapping[str, Tensor]
    edges: Mapping[str, Tensor]
    alive: Mapping[str, Columns] = NOTHING
    offsets: Mapping[str, Tensor] = NOTHING
    noise: EdgeNoise | None = None
    seed: int = 0
    shifts: Mapping[str, Mapping[int, Tensor]] = NOTHING
    drawn: Mapping[str, DrawnPaths] = NOTHING


class NodeMix(NamedTuple):
    """What one node needs of a :class:`Mix`.

    Args:
        candidates: One coefficient for every candidate that runs, edge by edge.
        edges: Coefficients of its edges, if they have any.
        alive: The names of the candidates that run on each of its edges; ``None`` for all.
        offset: A number to add to every pixel, if there is one.
        noise: What drops outputs, the same object in all nodes of a cell; see :func:`select_place`.
        seed: That of the mix.
        at: The candidates' coefficients in single cells, by their places, where they differ.
        drawn: What runs in the cell, where the host does not know.
    """

    candidates: Tensor
    edges: Tensor | None
    alive: tuple[tuple[str, ...], ...] | None = None
    offset: Tensor | None = None
    noise: NoiseSource | None = None
    seed: int = 0
    at: Mapping[int, Tensor] = NOTHING
    drawn: DrawnPaths | None = None


def split_by_node(space: Space, mix: Mix, cell_type: str) -> list[NodeMix]:
    """Cut the coefficients of a cell type into nodes; ``none``, whose output is zero, is left out."""
    nodes, shifts = _node_mixes(space, mix, cell_type), mix.shifts.get(cell_type, NOTHING)
    moved = {}
    for place, shift_EK in shifts.items():
        candidates = {**mix.candidates, cell_type: mix.candidates[cell_type] + shift_EK}
        moved[place] = _node_mixes(space, mix._replace(candidates=candidates), cell_type)
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
        nodes.append(NodeMix(coefficients, edges, names, offset, noise, mix.seed, drawn=mix.drawn.get(cell_type)))
    return nodes


def select_place(nodes: list[NodeMix], place: int) -> list[NodeMix]:
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


def list_built(space: Space, cell_type: str, row: int) -> tuple[str, ...]:
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


def select_path(space: Space, genotype: Genotype, edges: Mapping[str, Sequence[float]], device: torch.device) -> Mix:
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
