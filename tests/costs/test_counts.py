import torch
from torch import nn

from fastnas.costs.counts import multiply_adds, num_parameters
from fastnas.networks.cells import DartsNetwork, NasBench201Network
from fastnas.spaces.formats import read_genotype


def test_multiply_adds_of_a_network_counted_by_hand():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Flatten(),
        nn.Linear(128, 5),
    )
    assert multiply_adds(net, (3, 8, 8)) == 16 * 8 * 27 + 16 * 8 * 9 + 128 * 5


def test_multiply_adds_of_a_derived_network_counted_by_hand():
    text = "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|"
    net = NasBench201Network(read_genotype(text), 10, channels=4, cells=2)
    stem = 64 * 4 * 3 * 9
    cells = sum(2 * pixels * (c * c * 9 + c * c) for pixels, c in ((64, 4), (16, 8), (4, 16)))
    reductions = sum(pixels * (4 * c * c * 9 // 2 + 4 * c * c * 9 + 2 * c * c) for pixels, c in ((16, 4), (4, 8)))
    assert multiply_adds(net, (3, 8, 8)) == stem + cells + reductions + 16 * 10


def test_counting_leaves_mode_and_statistics_alone():
    net = DartsNetwork(read_genotype("DARTS_V2"), 10, 4, 3, auxiliary=True).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert multiply_adds(net, (3, 32, 32)) > 0
    assert net.training
    assert all(module.training for module in net.modules())
    multiply_adds(net.eval(), (3, 32, 32))
    assert not net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_the_auxiliary_head_is_not_counted():
    with_head, without = (DartsNetwork(read_genotype("DARTS_V2"), 10, 4, 3, auxiliary=a) for a in (True, False))
    assert num_parameters(with_head) == num_parameters(without)
