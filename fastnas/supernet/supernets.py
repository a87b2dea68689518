"""Supernets: ``logits = supernet(images, mix)``, a pure function of weights, coefficients and images.

No supernet holds architecture logits: its parameters are network weights, all of them, and nothing else.
"""

from collections.abc import Callable, Sequence
from functools import singledispatch
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from fastnas.errors import invalid
from fastnas.spaces.cell_space import DARTS, NASBENCH201, CellSpace
from fastnas.spaces.chain_space import ChainSpace
from fastnas.spaces.graph_space import GraphSpace
from fastnas.spaces.space import Space
from fastnas.supernet.candidates import find_operations
from fastnas.supernet.chain import ChainSupernet
from fastnas.supernet.dag import DagSupernet
from fastnas.supernet.layout import (
    CellPlace,
    FixedReduction,
    LargeStem,
    ResidualReduction,
    SmallStem,
    average,
    channels_last,
    lay_out,
    lay_out_darts,
)
from fastnas.supernet.mix import Mix, NodeMix, select_place, split_by_node
from fastnas.supernet.operations import batch_norm, in_dimensions, number_noise
from fastnas.supernet.recompute import State, Unit, Word, run_units
from fastnas.supernet.search_cell import SearchCell


class DartsSupernet(nn.Module):
    """The supernet of the DARTS space (Liu et al., 2019, arXiv:1806.09055), and of every space with two inputs. Where
    the reduction cell is not searched, it is that of GDAS.

    Args:
        num_classes: Size of the logits.
        channels: Channels of the first cells; they double at both reductions.
        cells: Depth.
        k: Candidates see ``1 / k`` of the channels (PC-DARTS); 1 for all.
        image_channels: 3 for colour, 1 for grey images.
        large: Begin with three strided convolutions, for images of hundreds of pixels.
        space: The cells.
        recompute: What is recomputed in the backward pass; see :mod:`fastnas.supernet.recompute`.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 16,
        cells: int = 8,
        k: int = 1,
        image_channels: int = 3,
        large: bool = False,
        space: CellSpace = DARTS,
        recompute: Sequence[Word] = ("none",),
    ) -> None:
        super().__init__()
        self.space, self.recompute, self.dense = space, tuple(recompute), False
        operations = find_operations(space)
        stem_channels = 3 * channels
        self.stem = (LargeStem if large else SmallStem)(image_channels, stem_channels, searching=True)
        places = lay_out_darts(cells, channels, stem_channels, len(space.concat), reduced_stem=large)
        self.types = [place.cell_type for place in places]

        def cell(place: CellPlace) -> nn.Module:
            inputs = place.prepare_inputs(searching=True)
            if place.cell_type not in space.cell_types:
                return FixedReduction(inputs, place.channels, searching=True)
            return SearchCell(space, operations, inputs, place.channels, place.stride, k, place.cell_type)

        self.cells = nn.ModuleList(map(cell, places))
        self.classifier = nn.Linear(len(space.concat) * places[-1].channels, num_classes)
        number_noise(self)
        lay_out(self)

    @property
    def units(self) -> list[nn.Module]:
        """The stem and the cells, which ``recompute`` has words for."""
        return [self.stem, *self.cells]

    def places(self, cell_type: str) -> list[int]:
        """Where the cells of a type stand, as :func:`fastnas.supernet.mix.select_place` counts."""
        return [place for place, name in enumerate(self.types) if name == cell_type]

    def forward(self, images: Tensor, mix: Mix) -> Tensor:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]``."""
        nodes = {cell_type: split_by_node(self.space, mix, cell_type) for cell_type in self.space.cell_types}
        units = [Unit((self.stem,), lambda modules, edges, state: tuple(modules[0](*state)))]
        for place, (cell, cell_type) in enumerate(zip(self.cells, self.types, strict=True)):
            units.append(_describe_cell(cell, nodes.get(cell_type), place))
        _, newer = run_units(units, self.recompute, channels_last(images, self.space.dimensions))
        return self.classifier(newer if self.dense else average(newer, self.space.dimensions))


def _describe_cell(cell: nn.Module, nodes: list[NodeMix] | None, place: int) -> Unit:
    """A cell that reads the last two states and becomes the last one; without ``nodes`` nothing in it is chosen."""

    def run(modules: Sequence[Callable[..., Any]], edges: bool, state: State) -> State:
        older, newer = state
        return newer, modules[0]([older, newer], *(() if nodes is None else (select_place(nodes, place), edges)))

    return Unit((cell,), run)


class NasBench201Supernet(nn.Module):
    """The supernet of NAS-Bench-201 (Dong and Yang, 2020, arXiv:2001.00326), three stages of one cell, and of every
    space with one input, one cell type and one node for its output.

    Args:
        num_classes: Size of the logits.
        channels: Channels of the first stage; they double from stage to stage.
        cells: Cells in each stage.
        k: Candidates see ``1 / k`` of the channels; 1 for all.
        image_channels: 3 for colour, 1 for grey images.
        space: The cell.
        recompute: What is recomputed in the backward pass; see :mod:`fastnas.supernet.recompute`.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 16,
        cells: int = 5,
        k: int = 1,
        image_channels: int = 3,
        space: CellSpace = NASBENCH201,
        recompute: Sequence[Word] = ("none",),
    ) -> None:
        super().__init__()
        if cells < 1:
            raise invalid("NasBench201Supernet", "cells must be at least 1 in a stage", cells)
        self.space, self.recompute, self.dense = space, tuple(recompute), False
        operations = find_operations(space)
        self.stem = SmallStem(image_channels, channels, searching=True)
        widths = [channels, 2 * channels, 4 * channels]
        self.stages = nn.ModuleList(
            nn.ModuleList(SearchCell(space, operations, [nn.Identity()], width, 1, k) for _ in range(cells))
            for width in widths
        )
        self.reductions = nn.ModuleList(ResidualReduction(width, searching=True) for width, _ in pairwise(widths))
        self.norm = batch_norm(widths[-1], searching=True, affine=True)
        self.classifier = nn.Linear(widths[-1], num_classes)
        number_noise(self)
        lay_out(self)

    @property
    def units(self) -> list[nn.Module]:
        """The stem and the cells, which ``recompute`` has words for."""
        return [self.stem, *(cell for stage in self.stages for cell in stage.children())]

    def places(self, cell_type: str) -> list[int]:
        """Where the cells of a type stand, as :func:`fastnas.supernet.mix.select_place` counts."""
        return list(range(1, len(self.units)))

    def forward(self, images: Tensor, mix: Mix) -> Tensor:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]``."""
        nodes = split_by_node(self.space, mix, "normal")
        units = [Unit((self.stem,), lambda modules, edges, state: tuple(modules[0](*state))[:1])]
        for position, stage in enumerate(self.stages):
            for number, cell in enumerate(stage.children()):
                reduces = position > 0 and number == 0
                before = (self.reductions[position - 1],) if reduces else ()
                units.append(_after(before, cell, nodes, len(units)))
        (state,) = run_units(units, self.recompute, channels_last(images, self.space.dimensions))
        maps = self.norm(state).relu()
        return self.classifier(maps if self.dense else average(maps, self.space.dimensions))


def _after(before: tuple[nn.Module, ...], cell: nn.Module, nodes: list[NodeMix], place: int) -> Unit:
    """A cell that reads the last state alone, and what stands before it, if anything does."""

    def run(modules: Sequence[Callable[..., Any]], edges: bool, state: State) -> State:
        *first, last = modules
        (x,) = state
        for module in first:
            x = module(x)
        return (last([x], select_place(nodes, place), edges),)

    return Unit((*before, cell), run)


@singledispatch
def build_supernet(
    space: Space,
    num_classes: int,
    channels: int,
    cells: int,
    k: int,
    image_channels: int,
    large: bool,
    recompute: Sequence[Word] = ("none",),
) -> nn.Module:
    """The supernet of ``space`` at a given size; see the classes for the arguments.

    A space of a kind of your own registers its own: ``@build_supernet.register``. ``cells`` of a chain and of a full
    graph are the blocks in a stage, and decide the space of the supernet, see
    :meth:`fastnas.spaces.space.Space.with_depth`.
    """
    raise TypeError(f"no supernet for a {type(space).__name__}")


@build_supernet.register
def _(space: CellSpace, num_classes, channels, cells, k, image_channels, large, recompute=("none",)) -> nn.Module:
    space.require_network()
    with in_dimensions(space.dimensions):
        if space.num_inputs == 2:
            return DartsSupernet(num_classes, channels, cells, k, image_channels, large, space, recompute)
        _refuse_large(space, large)
        return NasBench201Supernet(num_classes, channels, cells, k, image_channels, space, recompute)


@build_supernet.register
def _(space: ChainSpace, num_classes, channels, cells, k, image_channels, large, recompute=("none",)) -> nn.Module:
    _refuse_partial(space, k)
    return ChainSupernet(num_classes, channels, image_channels, large, space.with_depth(cells), recompute)


@build_supernet.register
def _(space: GraphSpace, num_classes, channels, cells, k, image_channels, large, recompute=("none",)) -> nn.Module:
    _refuse_partial(space, k)
    _refuse_large(space, large)
    return DagSupernet(num_classes, channels, cells, image_channels, space.with_depth(cells), recompute)


def _refuse_partial(space: Space, k: int) -> None:
    if k != 1:
        rule = f"partial channels must be off (k=1) in the space {space.name}"
        raise invalid("search", rule, f"k={k}", space.no_partial_channels)


def _refuse_large(space: Space, large: bool) -> None:
    if large and space.no_large_images:
        rule = f"space {space.name!r} must search on images of at most 96 pixels"
        remedy = f"{space.no_large_images} Set --resolution to 32, or use a space with a reduction cell, as darts."
        raise invalid("search", rule, "large images", remedy)
