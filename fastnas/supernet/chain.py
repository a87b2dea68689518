"""The supernet that is a chain of blocks, each with a primitive of its own (ProxylessNAS,
Cai et al., 2019, arXiv:1812.00332).

A stem, a first block that is not searched, the searched blocks, and a head. Images of hundreds of pixels are halved
by the stem; smaller ones are not, since the blocks alone divide their side by 16.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastnas.spaces.chain_space import PROXYLESS, ChainSpace
from fastnas.supernet.layout import BlockPlace, ChainShape, lay_out_chain, shape_proxyless
from fastnas.supernet.mix import Mix, NodeMix, list_built, select_place, split_by_node
from fastnas.supernet.operations import convolution
from fastnas.supernet.recompute import State, Unit, Word, checkpoint, run_units
from fastnas_kernels.convolution import Geometry
from fastnas_kernels.mixture import mixed_sum
from fastnas_kernels.normalisation import BatchNorm2d

BuildBlock = Callable[[int, int, int, bool], nn.Module]
"""``(inputs, outputs, stride, searching)`` to a module from ``[N, inputs, H, W]`` to ``[N, outputs, H / stride,
W / stride]``, odd maps rounded up."""


def chain_norm(channels: int, searching: bool) -> nn.BatchNorm2d:
    """Batch normalisation as the published code of ProxylessNAS has it: an epsilon of 1e-3, and scale and shift also
    while searching. By the statistics of the batch while searching, by running ones in a derived network."""
    if not searching:
        return nn.BatchNorm2d(channels, eps=1e-3)
    return BatchNorm2d(channels, eps=1e-3, track_running_stats=False)


def conv_norm_relu6(inputs: int, outputs: int, kernel: int, geometry: Geometry, searching: bool) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU6: the order of the blocks of a chain."""
    body = convolution(inputs, outputs, kernel, geometry, searching=searching)
    return nn.Sequential(body, chain_norm(outputs, searching), nn.ReLU6())


def mbconv(inputs: int, outputs: int, stride: int, searching: bool, *, kernel: int, expansion: int) -> nn.Sequential:
    """A mobile inverted bottleneck without its shortcut (Sandler et al., 2018, arXiv:1801.04381): more channels by a
    1x1 convolution, a depthwise one, and back to few channels with nothing behind it.

    Args:
        inputs: Channels read.
        outputs: Channels written.
        stride: Of the depthwise convolution.
        searching: See :func:`chain_norm`.
        kernel: Side of the depthwise kernel in pixels, odd.
        expansion: Channels in the middle for every channel read; 1 leaves the first convolution out.
    """
    middle = expansion * inputs
    expand = conv_norm_relu6(inputs, middle, 1, Geometry(), searching) if expansion > 1 else ()
    depthwise = conv_norm_relu6(middle, middle, kernel, Geometry(stride, kernel // 2, groups=middle), searching)
    project = convolution(middle, outputs, 1, searching=searching)
    return nn.Sequential(*expand, *depthwise, project, chain_norm(outputs, searching))


def initialise_chain(network: nn.Module) -> None:
    """Initialise as the published code of ProxylessNAS: filters by He with the fan-out (He et al., 2015,
    arXiv:1502.01852, for the backward pass), the bias of the classifier at zero; its weights stay as PyTorch has them.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


MBCONV_OPERATIONS: Mapping[str, BuildBlock] = {
    f"mbconv_{kernel}x{kernel}_e{expansion}": partial(mbconv, kernel=kernel, expansion=expansion)
    for kernel in (3, 5, 7)
    for expansion in (3, 6)
}
"""Cai et al., 2019, arXiv:1812.00332. ``none`` is absent: a block that chooses it is left out."""


class SearchBlock(nn.Module):
    """All candidates of one block, their weighted sum, and the shortcut around them.

    Where ``none`` is the active one of two paths, the other runs for the gradient of its gate, as in the paper; the
    published code leaves the whole block out and drops its gradient of alpha.

    Args:
        names: The candidates other than ``none``, whose block adds nothing to the shortcut.
        place: Where the block stands.
    """

    def __init__(self, names: tuple[str, ...], place: BlockPlace) -> None:
        super().__init__()
        self.place = place
        inputs, outputs, stride, _ = place
        self.candidates = nn.ModuleDict(
            {name: MBCONV_OPERATIONS[name](inputs, outputs, stride, True) for name in names}
        )

    def forward(self, x: Tensor, node: NodeMix, recompute: bool = False) -> Tensor:
        """From ``[N, inputs, H, W]`` to ``[N, outputs, H / stride, W / stride]``; only what is alive runs. With
        ``recompute`` one candidate after another is recomputed in the backward pass."""
        assert node.alive is not None, "the blocks of a chain differ in their candidates"
        (names,) = node.alive
        running = [self.candidates[name] for name in names]
        outputs = [checkpoint(one, x) if recompute else one(x) for one in running]
        if node.noise is not None and self.place.shortcut:  # elsewhere nothing would be left of the image
            outputs = node.noise.drop(names, outputs, self.place.stride)
        mixed = mixed_sum(outputs, node.candidates) if outputs else None
        if mixed is None and not self.place.shortcut:
            strided = x[:, :1, :: self.place.stride, :: self.place.stride]
            mixed = torch.zeros_like(strided).expand(-1, self.place.outputs, -1, -1)
        if node.offset is not None:
            mixed = node.offset if mixed is None else mixed + node.offset
        if not self.place.shortcut:
            assert mixed is not None
            return mixed
        return x if mixed is None else x + mixed


class ChainSupernet(nn.Module):
    """The supernet of a chain: one row of alpha for each of its blocks.

    Args:
        num_classes: Size of the logits.
        channels: Channels of the first block, 16 in the paper; see
            :func:`fastnas.supernet.layout.shape_proxyless`.
        image_channels: 3 for colour, 1 for grey images.
        large: Halve the resolution in the stem, for images of hundreds of pixels.
        space: The chain.
        recompute: What is recomputed in the backward pass; see :mod:`fastnas.supernet.recompute`. The head is
            never.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 16,
        image_channels: int = 3,
        large: bool = False,
        space: ChainSpace = PROXYLESS,
        recompute: Sequence[Word] = ("none",),
    ) -> None:
        super().__init__()
        self.space, self.recompute = space, tuple(recompute)
        shape = shape_proxyless(channels)
        self.stem = chain_stem(shape, image_channels, large, searching=True)
        self.blocks = nn.ModuleList(
            SearchBlock(list_built(space, "normal", row), place)
            for row, place in enumerate(lay_out_chain(space, shape))
        )
        self.head = conv_norm_relu6(shape.stages[-1], shape.head, 1, Geometry(), searching=True)
        self.classifier = nn.Linear(shape.head, num_classes)
        initialise_chain(self)
        self.to(memory_format=torch.channels_last)

    @property
    def units(self) -> list[nn.Module]:
        """The stem and the blocks, which ``recompute`` has words for."""
        return [self.stem, *self.blocks]

    def forward(self, images: Tensor, mix: Mix) -> Tensor:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]``."""
        units = [Unit((self.stem,), lambda modules, edges, state: (modules[0](*state),))]
        for place, (block, node) in enumerate(zip(self.blocks, split_by_node(self.space, mix, "normal"), strict=True)):
            units.append(_lay_out_block(block, node, place))
        (state,) = run_units(units, self.recompute, images.contiguous(memory_format=torch.channels_last))
        return self.classifier(self.head(state).mean((2, 3)))


def _lay_out_block(block: nn.Module, node: NodeMix, place: int) -> Unit:
    def run(modules: Sequence[Callable[..., Any]], edges: bool, state: State) -> State:
        (fresh,) = select_place([node], place)
        return (modules[0](*state, fresh, edges),)

    return Unit((block,), run)


def chain_stem(shape: ChainShape, image_channels: int, large: bool, searching: bool) -> nn.Sequential:
    """The first convolution and the first block, of expansion 1 and without a shortcut."""
    first = conv_norm_relu6(image_channels, shape.stem, 3, Geometry(2 if large else 1, 1), searching)
    return nn.Sequential(first, mbconv(shape.stem, shape.first, 1, searching, kernel=3, expansion=1))
