"""The derived network of a genotype, by the kind of its space."""

from collections.abc import Callable
from functools import singledispatch

from torch import nn

from fastnas.errors import invalid
from fastnas.networks.cells import DartsNetwork, NasBench201Network
from fastnas.networks.chain import ChainNetwork
from fastnas.networks.graph import GraphNetwork
from fastnas.networks.network import DerivedNetwork, OwnNetwork
from fastnas.spaces.cell_space import CellSpace
from fastnas.spaces.chain_space import ChainSpace
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.graph_space import GraphSpace
from fastnas.spaces.registry import space_by_name
from fastnas.spaces.space import Space
from fastnas.supernet.layout import Sizes
from fastnas.supernet.operations import in_dimensions
from fastnas.user_code import run_user_code


def build_network(
    genotype: Genotype,
    num_classes: int,
    channels: int,
    cells: int,
    image_channels: int,
    resolution: Sizes,
    large: bool,
    auxiliary: bool,
    own: Space | None = None,
) -> DerivedNetwork:
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


BuildNetwork = Callable[[Genotype], nn.Module]
"""From a genotype to a network of one's own, from images to logits."""


def build_own_network(build: BuildNetwork, genotype: Genotype, where: str = "retrain") -> OwnNetwork:
    """The network that a function of one's own makes for ``genotype``."""
    module = run_user_code(lambda: build(genotype), "network(genotype)", None, where)
    if not isinstance(module, nn.Module):
        raise invalid(where, "network must be a function from a genotype to a module", type(module).__name__)
    return OwnNetwork(module)


@singledispatch
def derived_network(
    space: Space,
    genotype: Genotype,
    num_classes: int,
    channels: int,
    cells: int,
    image_channels: int,
    resolution: Sizes,
    large: bool,
    auxiliary: bool,
) -> DerivedNetwork:
    """The same, where the space is at hand. A space of a kind of your own registers its own."""
    raise TypeError(f"no derived network for a {type(space).__name__}")


@derived_network.register
def _(
    space: CellSpace, genotype, num_classes, channels, cells, image_channels, resolution, large, auxiliary
) -> DerivedNetwork:
    space.require_network()
    with in_dimensions(space.dimensions):
        if space.num_inputs == 1:
            return NasBench201Network(genotype, num_classes, channels, cells, image_channels, space)
        return DartsNetwork(
            genotype, num_classes, channels, cells, image_channels, large, auxiliary, None, resolution, space
        )


@derived_network.register
def _(
    space: ChainSpace, genotype, num_classes, channels, cells, image_channels, resolution, large, auxiliary
) -> DerivedNetwork:
    return ChainNetwork(genotype, num_classes, channels, image_channels, large, space)


@derived_network.register
def _(
    space: GraphSpace, genotype, num_classes, channels, cells, image_channels, resolution, large, auxiliary
) -> DerivedNetwork:
    return GraphNetwork(genotype, num_classes, channels, cells, image_channels, space)
