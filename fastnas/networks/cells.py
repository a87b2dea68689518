"""Derived networks of cells: the networks of DARTS and of NAS-Bench-201."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fastnas.networks.network import DerivedNetwork
from fastnas.spaces.cell_space import DARTS, NASBENCH201, CellSpace
from fastnas.spaces.genotype import CellGenotype, Genotype
from fastnas.supernet.candidates import find_operations
from fastnas.supernet.layout import (
    CellPlace,
    FixedReduction,
    LargeStem,
    ResidualReduction,
    Sizes,
    SmallStem,
    average,
    channels_last,
    height_and_width,
    lay_out_darts,
    shrink,
)
from fastnas.supernet.operations import BuildOperation, batch_norm, convolution, number_noise
from fastnas_kernels.check import invalid


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
        space: CellSpace,
        cell: CellGenotype,
        operations: Mapping[str, BuildOperation],
        inputs: Sequence[nn.Module],
        channels: int,
        stride: int,
    ) -> None:
        super().__init__()
        self.cell, self.concat = cell, list(cell.concat)
        self.sources = [[source for _, source in genes] for genes in cell.nodes]
        self.inputs = nn.ModuleList(inputs)
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                operations[primitive](channels, stride if source < space.num_inputs else 1, False)
                for primitive, source in genes
            )
            for genes in cell.nodes
        )

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """From the input states ``[N, *, H, W]`` to ``[N, len(concat) * channels, H / stride, W / stride]``."""
        states: list[Tensor] = []
        for i, prepare in enumerate(self.inputs):
            states.append(prepare(inputs[i]))
        for i, node in enumerate(self.nodes):
            summands: list[Tensor] = []
            for j, operation in enumerate(node):  # type: ignore[arg-type]
                summands.append(operation(states[self.sources[i][j]]))
            total = summands[0]
            for y in summands[1:]:
                total = total + y
            states.append(total)
        kept = [states[i] for i in self.concat]
        return kept[0] if len(kept) == 1 else torch.cat(kept, dim=1)

    def operations(self) -> Iterator[nn.Module]:
        """What stands on the edges."""
        return (operation for node in self.nodes for operation in node.children())

    def droppable(self) -> Iterator[nn.Module]:
        """The operations that drop-path may leave out."""
        return (operation for operation in self.operations() if not isinstance(operation, nn.Identity))


class AuxiliaryHead(nn.Module):
    """A second classifier in the middle of a network (Liu et al., 2019, arXiv:1806.09055, appendix A.2).

    Args:
        channels: Channels of the state that it reads.
        num_classes: Size of the logits.
        resolution: Height and width of that state in pixels.
        large: Pool with stride 2 instead of 3, as for ImageNet.
        last_norm: Normalise before the last ReLU; the ImageNet networks of DARTS and PC-DARTS do not.
    """

    def __init__(
        self, channels: int, num_classes: int, resolution: tuple[int, int], large: bool, last_norm: bool
    ) -> None:
        super().__init__()
        stride = 2 if large else 3
        needed = 5 + stride  # two pooled pixels a side, for the 2x2 convolution
        if min(resolution) < needed:
            remedy = "Retrain without --retrain.auxiliary on images this small."
            rule = f"the state under it must measure at least {needed} pixels"
            raise invalid("auxiliary head", rule, min(resolution), remedy)
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride, count_include_pad=False),
            convolution(channels, 128, 1, searching=False),
            batch_norm(128, searching=False),
            nn.ReLU(),
            convolution(128, 768, 2, searching=False),
            batch_norm(768, searching=False) if last_norm else nn.Identity(),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class DartsNetwork(DerivedNetwork):
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
        resolution: Height and width of the images in pixels, or the side of square ones; only the auxiliary head
            depends on it.
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
        resolution: Sizes = 32,
        space: CellSpace = DARTS,
    ) -> None:
        super().__init__()
        space.check(genotype)
        self.dimensions = space.dimensions
        operations = find_operations(space)
        stem_channels = channels if large else 3 * channels
        self.stem = (LargeStem if large else SmallStem)(image_channels, stem_channels, searching=False)
        places = lay_out_darts(cells, channels, stem_channels, len(space.concat), reduced_stem=large)

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
            area = shrink(height_and_width(resolution), 32 if large else 4)
            last_norm = not large if auxiliary_norm is None else auxiliary_norm
            self.auxiliary = AuxiliaryHead(width, num_classes, area, large, last_norm)
        self.num_features = len(space.concat) * places[-1].channels
        self.classifier = nn.Linear(self.num_features, num_classes)
        number_noise(self)

    def forward(self, images: Tensor) -> Tensor:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]``."""
        older, newer = self.stem(channels_last(images, self.dimensions))
        for cell in self.cells:
            older, newer = newer, cell([older, newer])
        return self.classifier(newer if self.dense else average(newer, self.dimensions))

    def units(self) -> list[nn.Module]:
        return [self.stem, *self.cells]

    def operations(self) -> Iterator[nn.Module]:
        return (one for cell in self.cells if isinstance(cell, DerivedCell) for one in cell.operations())

    def droppable(self) -> Iterator[nn.Module]:
        for cell in self.cells:
            yield from cell.thin if isinstance(cell, FixedReduction) else cell.droppable()  # type: ignore[operator]


class NasBench201Network(DerivedNetwork):
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
        self.dimensions = space.dimensions
        operations = find_operations(space)
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
        self.num_features = widths[-1]
        self.classifier = nn.Linear(self.num_features, num_classes)
        number_noise(self)

    def forward(self, images: Tensor) -> Tensor:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]``."""
        state = self.stem(channels_last(images, self.dimensions))[0]
        for i, stage in enumerate(self.stages):
            for j, reduction in enumerate(self.reductions):  # TorchScript takes no index that is computed
                if j == i - 1:
                    state = reduction(state)
            for cell in stage:  # type: ignore[union-attr]
                state = cell([state])
        maps = self.norm(state).relu()
        return self.classifier(maps if self.dense else average(maps, self.dimensions))

    def units(self) -> list[nn.Module]:
        return [self.stem, *(cell for stage in self.stages for cell in stage.children())]

    def operations(self) -> Iterator[nn.Module]:
        return (one for cell in self.stages.modules() if isinstance(cell, DerivedCell) for one in cell.operations())

    def droppable(self) -> Iterator[nn.Module]:
        return (one for cell in self.stages.modules() if isinstance(cell, DerivedCell) for one in cell.droppable())
