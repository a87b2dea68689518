from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastnas.checks.check import check
from fastnas.data import load_data
from fastnas.engine import search
from fastnas.methods.library import gdas, pc_darts
from fastnas.networks.derived import build_network
from fastnas.networks.training_pass import TrainingPass
from fastnas.spaces.cell_space import GDAS_FRC
from fastnas.spaces.formats import genotype_to_text, parse_genotype
from fastnas.supernet.layout import FixedReduction
from fastnas.supernet.supernets import build_supernet
from fastnas.training.config import SearchConfig

TINY = SearchConfig(channels=4, cells=3, epochs=1, warmup_epochs=0, batch_size=32, train_fraction=0.1, device="cpu")


@pytest.mark.parametrize("size", [8, 7])
def test_a_fixed_reduction_is_four_branches_side_by_side_and_rounds_odd_maps_up(size):
    torch.manual_seed(0)
    cell = FixedReduction([nn.Identity(), nn.Identity()], 8, searching=True).double()
    older, newer = torch.randn(2, 3, 8, size, size, dtype=torch.float64)
    out = cell([older, newer])
    assert out.shape == (3, 32, -(-size // 2), -(-size // 2))

    def norm(x):
        return F.batch_norm(x, None, None, training=True)

    def thin(x, branch):
        _, across, down, _, _, pointwise, _ = branch
        x = F.conv2d(x.relu(), across.weight, None, (1, 2), (0, 1), groups=8)
        x = norm(F.conv2d(x, down.weight, None, (2, 1), (1, 0), groups=8))
        return norm(F.conv2d(x.relu(), pointwise.weight))

    expected = [thin(x, branch) for x, branch in zip((older, newer), cell.thin, strict=True)]
    expected += [norm(F.max_pool2d(x, 3, 2, 1)) for x in (older, newer)]
    torch.testing.assert_close(out, torch.cat(expected, 1), rtol=1e-12, atol=1e-12)  # float64, few sums


@pytest.mark.parametrize("channels", [8, 16])
def test_its_weights_are_those_of_two_thin_branches_and_four_norms(channels):
    cell = FixedReduction([nn.Identity(), nn.Identity()], channels, searching=False)
    thin = 2 * 3 * channels * channels // 8 + channels**2 + 2 * 2 * channels
    assert sum(p.numel() for p in cell.parameters()) == 2 * (thin + 2 * channels)


def test_channels_that_its_groups_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"FixedReduction: channels must be a multiple of 8, got 4\. .*groups"):
        build_supernet(GDAS_FRC, 10, 2, 3, 1, 1, False)


def test_a_space_that_is_not_as_wide_as_the_fixed_reduction_is_refused():
    with pytest.raises(ValueError, match="a space without a reduction cell of its own must concatenate 4 states"):
        replace(GDAS_FRC, name="narrow", concat=(4, 5)).require_network()


@pytest.mark.parametrize("method", [gdas(), pc_darts(2)], ids=lambda method: method.name)
def test_a_search_beside_a_fixed_reduction_learns_the_normal_cell_alone(method):
    result = search(GDAS_FRC, method, load_data("digits"), TINY)
    assert {name.split(".")[1] for name in result.alpha} == {"normal"}
    genotype = result.genotype
    assert genotype.reduction is None
    assert parse_genotype(genotype_to_text(genotype)) == genotype
    kinds = [type(cell).__name__ for cell in result.supernet.cells]
    assert kinds == ["SearchCell", "FixedReduction", "FixedReduction"]
    network = build_network(genotype, 10, 4, 3, 1, 8, False, False)
    logits, _ = TrainingPass(network)(torch.rand(4, 1, 8, 8), 0.2, 0)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("method", [gdas(), pc_darts()], ids=lambda method: method.name)
def test_the_gradients_beside_a_fixed_reduction_are_those_that_are_claimed(method):
    report = check(GDAS_FRC, method)
    assert report.ok, report
