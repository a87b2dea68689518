"""The network that a training builds, and its size."""

from typing import cast

from fastnas.costs.tables import NetworkSize
from fastnas.data import ImageData
from fastnas.networks.derived import build_network
from fastnas.networks.network import DerivedNetwork
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.registry import space_by_name
from fastnas.spaces.space import Space
from fastnas.supernet.dense import fit_head
from fastnas.supernet.layout import Resolution
from fastnas.training.config import RetrainConfig


def build_network_for(
    data: ImageData, genotype: Genotype, config: RetrainConfig, own: Space | None = None
) -> DerivedNetwork:
    """The network of ``genotype`` that a training builds."""
    sizes = len(data.classes), config.channels, config.cells, data.channels, data.resolution, data.large
    network = build_network(genotype, *sizes, config.auxiliary > 0, own)
    return fit_head(network, data.task, space_by_name(genotype.space, own), data.resolution, data.large)


def find_size(training: RetrainConfig, data: ImageData) -> NetworkSize:
    """The size of the network that ``training`` makes for ``data``, whose cost is meant."""
    return NetworkSize(
        channels=training.channels,
        cells=training.cells,
        resolution=cast(Resolution, data.resolution),  # only images have costs
        image_channels=data.channels,
        num_classes=len(data.classes),
        large=data.large,
        batch_size=training.batch_size,
    )
