"""The network that a training builds, and its size."""

from typing import Any, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

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


def parameter_groups(network: nn.Module, config: RetrainConfig) -> list[dict[str, Any]]:
    """The weights, those of batch normalisation apart where they do not decay."""
    if config.decay_norms:
        return [{"params": list(network.parameters())}]
    norms = {id(p) for m in network.modules() if isinstance(m, _BatchNorm) for p in m.parameters()}
    decaying, others = ([p for p in network.parameters() if (id(p) in norms) == apart] for apart in (False, True))
    return [{"params": decaying}, {"params": others, "weight_decay": 0.0}]


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
