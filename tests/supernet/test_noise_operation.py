import torch

from fastnas.networks.derived import build_network
from fastnas.networks.training_pass import TrainingPass
from fastnas.spaces.cell_space import S4
from fastnas.spaces.sampling import random_genotype
from fastnas.supernet.operations import Noise
from fastnas.supernet.supernets import build_supernet
from tests.helpers import uniform_mix


def modules(net):
    return [module for module in net.modules() if isinstance(module, Noise)]


def test_noise_has_the_strided_shape_and_ignores_the_image():
    x = torch.randn(2, 3, 5, 5)
    assert Noise(1)(x, 7).shape == (2, 3, 5, 5)
    assert Noise(2)(x, 7).shape == (2, 3, 3, 3)
    assert torch.equal(Noise(2)(x, 7), Noise(2)(-x, 7))


def test_a_supernet_with_noise_is_a_pure_function_of_weights_coefficients_images_and_seed():
    net, images, mix = build_supernet(S4, 10, 4, 3, 1, 3, False), torch.randn(4, 3, 8, 8), uniform_mix(S4)
    assert not list(net.buffers())
    assert torch.equal(net(images, mix), net(images, mix))
    assert not torch.equal(net(images, mix), net(images, mix._replace(seed=1)))


def test_every_edge_of_every_cell_draws_other_noise():
    net, x = build_supernet(S4, 10, 4, 3, 1, 3, False), torch.zeros(1, 1, 2, 2)
    noises = modules(net)
    assert len(noises) == 3 * 14
    assert (
        len({noise(x, 3)[0, 0, 0, 0].item() if noise.stride == 2 else noise(x, 3).sum().item() for noise in noises})
        == 42
    )


def test_a_derived_network_draws_new_noise_with_every_seed():
    genotype = next(g for g in (random_genotype(S4, seed) for seed in range(9)) if g.normal.count("noise") == 4)
    net = build_network(genotype, 10, 4, 3, 3, 8, False, False)
    assert modules(net)
    images = torch.randn(2, 3, 8, 8)
    same, other = TrainingPass(net)(images, 0.0, 1)[0], TrainingPass(net)(images, 0.0, 2)[0]
    assert torch.equal(same, TrainingPass(net)(images, 0.0, 1)[0])
    assert not torch.equal(same, other)
