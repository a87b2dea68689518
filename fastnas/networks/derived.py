"""Networks built of a genotype, to be trained from scratch.

``logits, auxiliary_logits = network(images, drop_path, seed)``; the second is ``None`` without an auxiliary head,
and outside of training.
"""

from collections.abc import Mapping, Sequence
from functools import singledispatch
from itertools import pairwise

import torch
from torch import Tensor, nn

from fastnas.errors import invalid
from fastnas.spaces.cell_space import DARTS, NASBENCH201, CellSpace
from fastnas.spaces.chain_space import ChainSpace
from fastnas.spaces.genotype import CellGenotype, Genotype
from fastnas.spaces.graph_space import GraphSpace
from fastnas.spaces.registry import space_by_name
from fastnas.spaces.space import Space
from fastnas.supernet.candidates import operations_of
from fastnas.supernet.chain import ChainNetwork
from fastnas.supernet.dag import DagNetwork
from fastnas.supernet.drop_path import DropPath
from fastnas.supernet.fixed_reduction import FixedReduction
from fastnas.supernet.layout import CellPlace, LargeStem, ResidualReduction, SmallStem, darts_layout
from fastnas.supernet.noise_operation import call, number_noise
from fastnas.supernet.operations import BuildOperation, Convolution, batch_norm
from fastnas_kernels.check import require


class DerivedCell(nn.Module):
    """One cell of a genotype.

    Args:
        space: The graph.
        cell: The kept edges.
        operations: How each primitive is built.
        inputs: One module for each input state, which brings it to ``channels``.
        channels: Channels of every state inside the cell.
        stride: 2 in a cell that halves the resolution, otherwise 1.
    """

    def __init__(
        self,
        space: Space,
        cell: CellGenotype,
        operations: Mapping[str, BuildOperation],
        inputs: Sequence[nn.Module],
        channels: int,
        stride: int,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.inputs = nn.ModuleList(inputs)
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                operations[primitive](channels, stride if source < space.num_inputs else 1, False)
                for primitive, source in genes
            )
            for genes in cell.nodes
        )

    def forward(self, inputs: Sequence[Tensor], drop_path: DropPath | None = None, seed: int = 0) -> Tensor:
        """From the input states ``[N, *, H, W]`` to ``[N, len(concat) * channels, H / stride, W / stride]``."""
        states = [prepare(x) for prepare, x in zip(self.inputs, inputs, strict=True)]
        for genes, operations in zip(self.cell.nodes, self.nodes, strict=True):
            total = None
            for (_, source), operation in zip(genes, operations, strict=True):  # type: ignore[arg-type]
                y = call(operation, states[source], seed)
                if drop_path is not None and not isinstance(operation, nn.Identity):
                    y = drop_path(y)
                total = y if total is None else total + y
            assert total is not None, "a node has at least one edge"
            states.append(total)
        concat = self.cell.concat
        return states[concat[0]] if len(concat) == 1 else torch.cat([states[i] for i in concat], dim=1)


class AuxiliaryHead(nn.Module):
    """A second classifier in the middle of a network (Liu et al., 2019, arXiv:1806.09055, appendix A.2).

    Args:
        channels: Channels of the state that it reads.
        num_classes: Size of the logits.
        resolution: Side of that state in pixels, at least 5.
        large: Pool with stride 2 instead of 3, as for ImageNet.
        last_norm: Normalise before the last ReLU; the ImageNet networks of DARTS and PC-DARTS do not.
    """

    def __init__(self, channels: int, num_classes: int, resolution: int, large: bool, last_norm: bool) -> None:
        super().__init__()
        stride = 2 if large else 3
        needed = 5 + stride  # two pooled pixels a side, for the 2x2 convolution
        remedy = "Retrain without --retrain.auxiliary on images this small."
        rule = f"the state under it must measure at least {needed} pixels"
        require(resolution >= needed, "auxiliary head", rule, resolution, remedy)
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride, count_include_pad=False),
            Convolution(channels, 128, 1),
            batch_norm(128, searching=False),
            nn.ReLU(),
            Convolution(128, 768, 2),
            batch_norm(768, searching=False) if last_norm else nn.Identity(),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class DartsNetwork(nn.Module):
    """The network in which DARTS genotypes are compared, for small or for large images.

    Args:
        genotype: A genotype of ``space``.
        num_classes: Size of the logits.
        channels: Channels of the first cells; they double at both reductions.
        cells: Depth.
        image_channels: 3 for colour, 1 for grey images.
        large: Begin with three strided convolutions, for images of hundreds of pixels.
        auxiliary: Add a second classifier after the second reduction.
        auxiliary_norm: Normalise before its last ReLU; ``None`` for the choice of DARTS: on small images.
        resolution: Side of the images in pixels; only the auxiliary head depends on it.
        space: DARTS, or another space with two inputs.
    """

    def __init__(
        self,
        genotype: Genotype,
        num_classes: int,
        channels: int = 36,
        cells: int = 20,
        image_channels: int = 3,
        large: bool = False,
        auxiliary: bool = False,
        auxiliary_norm: bool | None = None,
        resolution: int = 32,
        space: CellSpace = DARTS,
    ) -> None:
        super().__init__()
        space.check(genotype)
        operations = operations_of(space)
        stem_channels = channels if large else 3 * channels
        self.stem = (LargeStem if large else SmallStem)(image_channels, stem_channels, searching=False)
        places = darts_layout(cells, channels, stem_channels, len(space.concat), reduced_stem=large)

        def cell(place: CellPlace) -> nn.Module:
            inputs, found = place.prepare_inputs(searching=False), genotype.cells.get(place.cell_type)
            if found is None:
                return FixedReduction(inputs, place.channels, searching=False)
            return DerivedCell(space, found, operations, inputs, place.channels, place.stride)

        self.cells = nn.ModuleList(map(cell, places))
        self.auxiliary_after = 2 * cells // 3
        self.auxiliary = None
        if auxiliary:
            width = len(space.concat) * places[self.auxiliary_after].channels
            side = -(-resolution // (32 if large else 4))
            last_norm = not large if auxiliary_norm is None else auxiliary_norm
            self.auxiliary = AuxiliaryHead(width, num_classes, side, large, last_norm)
        self.classifier = nn.Linear(len(space.concat) * places[-1].channels, num_classes)
        number_noise(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, drop_path: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor | None]:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]`` and the auxiliary ones."""
        drop = DropPath(drop_path, seed, images.device) if self.training and drop_path > 0 else None
        older, newer = self.stem(images.contiguous(memory_format=torch.channels_last))
        auxiliary_logits = None
        for position, cell in enumerate(self.cells):
            fixed = isinstance(cell, FixedReduction)
            older, newer = newer, cell([older, newer], drop) if fixed else cell([older, newer], drop, seed)
            if position == self.auxiliary_after and self.auxiliary is not None and self.training:
                auxiliary_logits = self.auxiliary(newer)
        return self.classifier(newer.mean((2, 3))), auxiliary_logits


class NasBench201Network(nn.Module):
    """The network in which NAS-Bench-201 compares its architectures (Dong and Yang, 2020, arXiv:2001.00326).

    Args:
        genotype: A genotype of ``space``.
        num_classes: Size of the logits.
        channels: Channels of the first stage; they double from stage to stage.
        cells: Cells in each of the three stages.
        image_channels: 3 for colour, 1 for grey images.
        space: NAS-Bench-201's, or another space with one input, one cell type and one output state.
    """

    def __init__(
        self,
        genotype: Genotype,
        num_classes: int,
        channels: int = 16,
        cells: int = 5,
        image_channels: int = 3,
        space: CellSpace = NASBENCH201,
    ) -> None:
        super().__init__()
        space.check(genotype)
        operations = operations_of(space)
        self.stem = SmallStem(image_channels, channels, searching=False)
        widths = [channels, 2 * channels, 4 * channels]
        self.stages = nn.ModuleList(
            nn.ModuleList(
                DerivedCell(space, genotype.normal, operations, [nn.Identity()], width, 1) for _ in range(cells)
            )
            for width in widths
        )
        self.reductions = nn.ModuleList(ResidualReduction(width, searching=False) for width, _ in pairwise(widths))
        self.norm = batch_norm(widths[-1], searching=False)
        self.classifier = nn.Linear(widths[-1], num_classes)
        number_noise(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, drop_path: float = 0.0, seed: int = 0) -> tuple[Tensor, None]:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]``; there is no auxiliary head."""
        drop = DropPath(drop_path, seed, images.device) if self.training and drop_path > 0 else None
        state, _ = self.stem(images.contiguous(memory_format=torch.channels_last))
        for position, stage in enumerate(self.stages):
            if position:
                state = self.reductions[position - 1](state)
            for cell in stage:  # type: ignore[union-attr]
                state = cell([state], drop, seed)
        return self.classifier(self.norm(state).relu().mean((2, 3))), None


def build_network(
    genotype: Genotype,
    num_classes: int,
    channels: int,
    cells: int,
    image_channels: int,
    resolution: int,
    large: bool,
    auxiliary: bool,
    own: Space | None = None,
) -> nn.Module:
    """The derived network of ``genotype`` at a given size; see the classes for the arguments.

    ``cells`` of a chain are the blocks in a stage, as many as the genotype has; likewise of a full graph whose blocks
    have connections of their own.

    Args:
        own: The space of the genotype, if it is not registered.
    """
    space = space_by_name(genotype.space, own)
    if auxiliary and not space.has_auxiliary_head:
        rule = f"auxiliary must be off for {space.name} genotypes"
        raise invalid("retrain", rule, auxiliary, "Their network has no auxiliary head.")
    space.require_depth(cells)
    return derived_network(space, genotype, num_classes, channels, cells, image_channels, resolution, large, auxiliary)


@singledispatch
def derived_network(
    space: Space,
    genotype: Genotype,
    num_classes: int,
    channels: int,
    cells: int,
    image_channels: int,
    resolution: int,
    large: bool,
    auxiliary: bool,
) -> nn.Module:
    """The same, where the space is at hand. A space of a kind of your own registers its own."""
    raise TypeError(f"no derived network for a {type(space).__name__}")


@derived_network.register
def _(
    space: CellSpace, genotype, num_classes, channels, cells, image_channels, resolution, large, auxiliary
) -> nn.Module:
    space.require_network()
    if space.num_inputs == 1:
        return NasBench201Network(genotype, num_classes, channels, cells, image_channels, space)
    return DartsNetwork(
        genotype, num_classes, channels, cells, image_channels, large, auxiliary, None, resolution, space
    )


@derived_network.register
def _(
    space: ChainSpace, genotype, num_classes, channels, cells, image_channels, resolution, large, auxiliary
) -> nn.Module:
    return ChainNetwork(genotype, num_classes, channels, image_channels, large, space)


@derived_network.register
def _(
    space: GraphSpace, genotype, num_classes, channels, cells, image_channels, resolution, large, auxiliary
) -> nn.Module:
    return DagNetwork(genotype, num_classes, channels, cells, image_channels, space)
