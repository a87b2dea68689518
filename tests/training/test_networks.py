"""Which weights of a network decay."""

import pytest
from torch import nn

from fastnas.training.config import RetrainConfig
from fastnas.training.networks import parameter_groups


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
def test_normalisations_of_any_dimension_may_be_left_out_of_the_decay(norm):
    network = nn.Sequential(nn.Linear(2, 3), norm(3))
    decaying, others = parameter_groups(network, RetrainConfig(decay_norms=False))
    assert [p.shape for p in decaying["params"]] == [(3, 2), (3,)]
    assert others == {"params": list(network[1].parameters()), "weight_decay": 0.0}
    (everything,) = parameter_groups(network, RetrainConfig())
    assert everything == {"params": list(network.parameters())}
