"""Derived networks of chains of blocks (ProxylessNAS, Cai et al., 2019, arXiv:1812.00332)."""

from collections.abc import Iterator

from torch import Tensor, nn

from fastnas.networks.network import DerivedNetwork
from fastnas.spaces.chain_space import PROXYLESS, ChainSpace
from fastnas.spaces.genotype import Genotype
from fastnas.supernet.chain import MBCONV_OPERATIONS, chain_stem, conv_norm_relu6, initialise_chain
from fastnas.supernet.layout import BlockPlace, ChainShape, channels_last, lay_out_chain, shape_proxyless
from fastnas_kernels.check import invalid
from fastnas_kernels.convolution import Geometry


class DerivedBlock(nn.Module):
    """One block of a genotype.

    Args:
        primitive: What it does; ``none`` leaves the block out.
        place: Where it stands.
    """

    def __init__(self, primitive: str, place: BlockPlace) -> None:
        super().__init__()
        self.shortcut = place.shortcut
        if primitive == "none" and not place.shortcut:
            raise invalid("DerivedBlock", "none must stand where a shortcut is", place)
        self.operation = (
            None
            if primitive == "none"
            else MBCONV_OPERATIONS[primitive](place.inputs, place.outputs, place.stride, False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """From ``[N, inputs, H, W]`` to ``[N, outputs, H / stride, W / stride]``."""
        if self.operation is None:
            return x
        y = self.operation(x)
        return x + y if self.shortcut else y


class ChainNetwork(DerivedNetwork):
    """The network of a chain's genotype.

    Args:
        genotype: A genotype of ``space``.
        num_classes: Size of the logits.
        channels: Channels of the first block, 16 in the paper.
        image_channels: 3 for colour, 1 for grey images.
        large: Halve the resolution in the stem, for images of hundreds of pixels.
        space: The chain.
        shape: Channels and strides, where they are not those of the search space at ``channels``; the networks that
            the authors published have widths of their own.
    """

    def __init__(
        self,
        genotype: Genotype,
        num_classes: int,
        channels: int = 16,
        image_channels: int = 3,
        large: bool = False,
        space: ChainSpace = PROXYLESS,
        shape: ChainShape | None = None,
    ) -> None:
        super().__init__()
        space.check(genotype)
        shape = shape_proxyless(channels) if shape is None else shape
        self.stem = chain_stem(shape, image_channels, large, searching=False)
        self.primitives = [primitive for ((primitive, _),) in genotype.normal.nodes]
        self.blocks = nn.ModuleList(map(DerivedBlock, self.primitives, lay_out_chain(space, shape)))
        self.head = conv_norm_relu6(shape.stages[-1], shape.head, 1, Geometry(), searching=False)
        self.num_features = shape.head
        self.classifier = nn.Linear(self.num_features, num_classes)
        initialise_chain(self)

    def forward(self, images: Tensor) -> Tensor:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]``."""
        state = self.stem(channels_last(images))
        for block in self.blocks:
            state = block(state)
        return self.classifier(self.head(state).mean((2, 3)))

    def operations(self) -> Iterator[nn.Module]:
        return (block.operation for block in self.blocks if block.operation is not None)  # type: ignore[misc]

    def units(self) -> list[nn.Module]:
        return [self.stem, *self.blocks]

    def droppable(self) -> Iterator[nn.Module]:
        for block in self.blocks:
            if block.shortcut and block.operation is not None:
                yield block.operation  # type: ignore[misc]
