"""What every candidate costs at the place where it stands in a derived network.

Costs add up: that of a derived network is the constant of a table and the entries of the edges that were kept.
Shape suffixes: E edges of a cell, K candidates of an edge.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, singledispatch
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastnas.costs.counts import activation_bytes, multiply_adds, num_parameters
from fastnas.errors import invalid
from fastnas.networks.derived import build_network
from fastnas.networks.network import DerivedNetwork
from fastnas.spaces.cell_space import CellSpace
from fastnas.spaces.chain_space import ChainSpace
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.sampling import random_genotype
from fastnas.spaces.space import Edge, Space
from fastnas.supernet.candidates import build_candidate
from fastnas.supernet.chain import MBCONV_OPERATIONS
from fastnas.supernet.layout import Resolution, height_and_width, lay_out_chain, lay_out_darts, shape_proxyless, shrink
from fastnas.supernet.mix import list_built

MOST: Mapping[str, int] = {
    "channels": 2**14,
    "cells": 1000,
    "resolution": 4096,
    "image_channels": 1024,
    "num_classes": 2**20,
    "batch_size": 2**20,
}
"""Beyond these nothing exists that could run."""


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """The size of the derived network whose cost is meant: usually not that of the supernet.

    Args:
        channels: Channels of the first cells, or of the first block of a chain.
        cells: Depth, or cells in a stage where reductions are fixed (nasbench201), or blocks in a stage of a chain.
        resolution: Height and width of the images in pixels, or the side of square ones.
        image_channels: 3 for colour, 1 for grey images.
        num_classes: Size of the logits.
        large: Begin with three strided convolutions, for images of hundreds of pixels.
        batch_size: Images of one pass, for activation bytes and latency; the other costs are those of one image.
    """

    channels: int = 16
    cells: int = 8
    resolution: Resolution = 32
    image_channels: int = 3
    num_classes: int = 10
    large: bool = False
    batch_size: int = 1

    def __post_init__(self) -> None:
        height, width = height_and_width(self.resolution)
        if not 1 <= min(height, width) <= max(height, width) <= MOST["resolution"]:
            rule = f"resolution must lie between 1 and {MOST['resolution']} pixels"
            raise invalid("NetworkSize", rule, self.resolution)
        if height == width:  # one spelling of a square, so that equal sizes are equal
            object.__setattr__(self, "resolution", height)
        for name in ("channels", "cells", "image_channels", "num_classes", "batch_size"):
            if getattr(self, name) < 1:
                raise invalid("NetworkSize", f"{name} must be positive", getattr(self, name))
            if getattr(self, name) > MOST[name]:
                rule = f"{name} must be at most {MOST[name]}"
                raise invalid("NetworkSize", rule, getattr(self, name))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of one image."""
        return (self.image_channels, *height_and_width(self.resolution))

    def build(self, genotype: Genotype, own: Space | None = None) -> DerivedNetwork:
        """The derived network of ``genotype``, without auxiliary head; ``own`` is its space, if it is no known one."""
        sizes = self.num_classes, self.channels, self.cells, self.image_channels, self.resolution, self.large
        return build_network(genotype, *sizes, False, own)


class Candidate(NamedTuple):
    """A primitive at a place; two of the same values cost the same. ``size`` is the height and width of its input,
    and ``outputs`` its output channels where they are not bound to be those that it reads."""

    primitive: str
    channels: int
    stride: int
    size: tuple[int, int]
    outputs: int | None = None

    def build(self, space: Space) -> nn.Module:
        """As it stands in a derived network."""
        if self.outputs is not None:
            return MBCONV_OPERATIONS[self.primitive](self.channels, self.outputs, self.stride, False)
        return build_candidate(space, self.primitive, self.channels, self.stride, False)


class _Cell(NamedTuple):
    """A cell of the network, or all blocks of a chain."""

    cell_type: str
    candidates: Sequence[tuple[int, int, Candidate]]  # with the row and column in alpha


@dataclass(frozen=True, eq=False)
class CostTable:
    """The cost of every candidate, and of what every derived network has.

    Args:
        space: Whose candidates these are.
        unit: What the numbers count: ``"parameters"``, ``"multiply-adds"``, ``"bytes"``, ``"seconds"``.
        cells: The type of every cell of the network and the costs of its candidates, float64 ``[E, K]``; 0 where an
            edge does not have a candidate.
        constant: What stem, preprocessing, fixed reductions and classifier cost together.
    """

    space: Space
    unit: str
    cells: Sequence[tuple[str, Tensor]]
    constant: float

    @cached_property
    def candidates(self) -> Mapping[str, Tensor]:
        """The costs ``[E, K]`` of each cell type, summed over its cells: what a choice for the type costs."""
        zero = torch.zeros(len(self.space.edges), len(self.space.primitives), dtype=torch.float64)
        return {t: sum((cost for of, cost in self.cells if of == t), zero) for t in self.space.cell_types}


def parameter_table(space: Space, size: NetworkSize) -> CostTable:
    """Trained scalars; the sum is exact."""
    return _by_difference(space, size, "parameters", lambda module, shape: num_parameters(module))


def multiply_add_table(space: Space, size: NetworkSize) -> CostTable:
    """Multiply-adds of one image; the sum is exact. As :func:`fastnas.costs.counts.multiply_adds` counts them."""
    return _by_difference(space, size, "multiply-adds", multiply_adds)


def activation_table(space: Space, size: NetworkSize) -> CostTable:
    """Bytes that a training pass keeps for its backward pass, measured from what autograd saves.

    The sum is exact as long as no two edges save one tensor. Two pools that read the same state do: they both count
    it, so the sum is then an upper bound.
    """

    def cost_of(candidate: Candidate) -> float:
        with torch.device("meta"):
            x = torch.empty(size.batch_size, candidate.channels, *candidate.size)
            return activation_bytes(candidate.build(space), x.to(memory_format=torch.channels_last))

    with torch.device("meta"):
        network = size.build(random_genotype(space, 0), space)
        in_edges = list(network.operations())
        constant = activation_bytes(network, torch.empty(size.batch_size, *size.image_shape), in_edges)
    return tabulate(space, size, "bytes", cost_of, constant)


def weighted_sum(tables: Sequence[CostTable], weights: Sequence[float], unit: str) -> CostTable:
    """One cost of several, as SNAS adds parameters, operations and memory accesses (Xie et al., 2019,
    arXiv:1812.09926).

    Args:
        tables: Of one space and one network.
        weights: One for each table, in ``unit`` for each of the table's units.
        unit: What to call the sum.
    """
    where = "weighted_sum"
    if not tables:
        raise invalid(where, "tables must not be empty", "none")
    if len(weights) != len(tables):
        raise invalid(where, f"weights must be {len(tables)}, one for each table", len(weights))
    layouts = {(table.space, tuple(cell_type for cell_type, _ in table.cells)) for table in tables}
    if len(layouts) != 1:
        raise invalid(where, "tables must be of one space and depth", f"{len(layouts)} different ones")
    weighted = list(zip(weights, tables, strict=True))
    cells = [
        (cell_type, torch.stack([weight * table.cells[i][1] for weight, table in weighted]).sum(0))
        for i, (cell_type, _) in enumerate(tables[0].cells)
    ]
    return CostTable(tables[0].space, unit, cells, sum(weight * table.constant for weight, table in weighted))


def tabulate(
    space: Space, size: NetworkSize, unit: str, cost_of: Callable[[Candidate], float], constant: float
) -> CostTable:
    """Ask ``cost_of`` once for every different candidate of the network and write the answers into a table."""
    known = {candidate: cost_of(candidate) for candidate in list_distinct_candidates(space, size)}
    cells = []
    for cell in _cells(space, size):
        costs = torch.zeros(len(space.edges), len(space.primitives), dtype=torch.float64)
        for row, column, candidate in cell.candidates:
            costs[row, column] = known[candidate]
        cells.append((cell.cell_type, costs))
    return CostTable(space, unit, cells, constant)


def list_distinct_candidates(space: Space, size: NetworkSize) -> list[Candidate]:
    """The candidates of the network that differ in anything that decides their cost, in the order of the network.
    ``none`` is left out where derivation cannot keep it, and where its block is then left out."""
    return list(dict.fromkeys(candidate for cell in _cells(space, size) for _, _, candidate in cell.candidates))


@singledispatch
def _cells(space: Space, size: NetworkSize) -> list[_Cell]:
    """Where costs arise in a derived network."""
    rule = f"the space must be one whose costs add up over edges, which {space.name} is not"
    raise invalid("cost", rule, f"a {type(space).__name__}", space.no_edge_costs)


@_cells.register
def _(space: ChainSpace, size: NetworkSize) -> list[_Cell]:
    return [_Cell("normal", list(_count_chain(space, size)))]


@_cells.register
def _(space: CellSpace, size: NetworkSize) -> list[_Cell]:
    area = height_and_width(size.resolution)
    if space.num_inputs == 1:
        return [
            _Cell("normal", list(_count_cell(space, "normal", size.channels << stage, 1, shrink(area, 1 << stage))))
            for stage in range(3)
            for _ in range(size.cells)
        ]
    area, cells = shrink(area, 8) if size.large else area, []
    for place in lay_out_darts(size.cells, size.channels, size.channels, len(space.concat), size.large):
        if place.cell_type in space.cell_types:  # what is fixed is part of the constant
            candidates = _count_cell(space, place.cell_type, place.channels, place.stride, area)
            cells.append(_Cell(place.cell_type, list(candidates)))
        area = shrink(area, place.stride)
    return cells


def _count_cell(
    space: Space, cell_type: str, channels: int, cell_stride: int, cell_size: tuple[int, int]
) -> Iterator[tuple[int, int, Candidate]]:
    """The row and column in alpha of every candidate that a genotype may hold, and where it stands.

    Args:
        space: The graph.
        cell_type: Whose candidates.
        channels: Of every state inside the cell.
        cell_stride: 2 in a cell that halves the resolution, otherwise 1.
        cell_size: Height and width of the input states in pixels, once they are brought to the cell's channels.
    """
    for row, edge in enumerate(space.edges):
        strided = edge.source < space.num_inputs
        stride, area = (cell_stride, cell_size) if strided else (1, shrink(cell_size, cell_stride))
        for primitive in space.derivable_on(cell_type, row):
            yield row, space.primitives.index(primitive), Candidate(primitive, channels, stride, area)


def _count_chain(space: ChainSpace, size: NetworkSize) -> Iterator[tuple[int, int, Candidate]]:
    """The same for the blocks of a chain."""
    space.require_depth(size.cells)
    area = shrink(height_and_width(size.resolution), 2 if size.large else 1)
    for row, place in enumerate(lay_out_chain(space, shape_proxyless(size.channels))):
        for primitive in list_built(space, "normal", row):
            candidate = Candidate(primitive, place.inputs, place.stride, area, place.outputs)
            yield row, space.primitives.index(primitive), candidate
        area = shrink(area, place.stride)


def _by_difference(
    space: Space, size: NetworkSize, unit: str, count: Callable[[nn.Module, tuple[int, int, int]], int]
) -> CostTable:
    """A table of a cost that adds up exactly: its constant is what one network has beyond its edges."""

    def cost_of(candidate: Candidate) -> float:
        with torch.device("meta"):
            return count(candidate.build(space), (candidate.channels, *candidate.size))

    genotype = random_genotype(space, 0)
    with torch.device("meta"):
        whole = count(size.build(genotype, space), size.image_shape)
    table = tabulate(space, size, unit, cost_of, 0.0)
    return CostTable(space, unit, table.cells, whole - derived_cost(genotype, table))


def derived_cost(genotype: Genotype, table: CostTable) -> float:
    """What the derived network of ``genotype`` costs, in the unit of ``table``.

    Raises:
        ValueError: If the genotype is not one of the table's space.
    """
    space = table.space
    space.check(genotype)
    total = table.constant  # added up in the order of alpha's rows, as the search for a genotype within a limit does
    for cell_type, cell in genotype.cells.items():
        costs = table.candidates[cell_type].tolist()
        for target, genes in zip(space.targets, cell.nodes, strict=True):
            for primitive, source in sorted(genes, key=lambda gene: gene.source):
                total += costs[space.row(Edge(source, target))][space.primitives.index(primitive)]
    return total
