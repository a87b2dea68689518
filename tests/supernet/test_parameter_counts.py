"""The counts of the reference implementations, weights only."""

import pytest
import torch

from fastnas.costs.counts import num_parameters
from fastnas.networks.cells import DartsNetwork, NasBench201Network
from fastnas.spaces.formats import read_genotype
from fastnas.supernet.supernets import DartsSupernet, NasBench201Supernet


def count(build):
    with torch.device("meta"):
        return sum(p.numel() for p in build().parameters())


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: DartsSupernet(10), 1_930_618),
        (lambda: DartsSupernet(10, k=4), 299_578),
        (lambda: DartsSupernet(1000, k=2, large=True), 956_512),
        (lambda: NasBench201Supernet(10), 1_692_826),
    ],
    ids=["darts", "pc_darts", "pc_darts imagenet", "nasbench201"],
)
def test_supernets(build, expected):
    assert count(build) == expected


@pytest.mark.parametrize(("primitive", "expected"), [("nor_conv_3x3", 1_531_546), ("skip_connect", 73_306)])
def test_nasbench201_networks(primitive, expected):
    text = "+".join("|" + "".join(f"{primitive}~{source}|" for source in range(node)) for node in (1, 2, 3))
    assert count(lambda: NasBench201Network(read_genotype(text), 10)) == expected


CIFAR = {
    "DARTS_V1": 3_169_414,
    "DARTS_V2": 3_349_342,
    "PC_DARTS_cifar": 3_634_678,
    "PC_DARTS_image": 3_721_510,
    "PDARTS": 3_433_798,
}
IMAGENET = {
    "DARTS_V1": (4_510_432, 5_771_208),
    "DARTS_V2": (4_718_752, 5_979_528),
    "PC_DARTS_cifar": (5_270_560, 6_531_336),
    "PC_DARTS_image": (5_342_464, 6_603_240),
    "PDARTS": (4_944_352, 6_206_664),  # its authors normalise in the auxiliary head
}


@pytest.mark.parametrize(("name", "expected"), CIFAR.items())
def test_cifar_networks(name, expected):
    assert count(lambda: DartsNetwork(read_genotype(name), 10)) == expected


@pytest.mark.parametrize(("name", "expected"), [("DARTS_V1", 3_645_840), ("DARTS_V2", 3_825_768)])
def test_cifar_networks_with_auxiliary_head(name, expected):
    assert count(lambda: DartsNetwork(read_genotype(name), 10, auxiliary=True)) == expected
    with torch.device("meta"):
        assert num_parameters(DartsNetwork(read_genotype(name), 10, auxiliary=True)) == CIFAR[name]


@pytest.mark.parametrize(("name", "expected"), IMAGENET.items())
def test_imagenet_networks_without_and_with_auxiliary_head(name, expected):
    def build(auxiliary):
        norm = True if name == "PDARTS" else None
        genotype = read_genotype(name)
        return DartsNetwork(genotype, 1000, 48, 14, 3, True, auxiliary, auxiliary_norm=norm, resolution=224)

    assert (count(lambda: build(False)), count(lambda: build(True))) == expected
