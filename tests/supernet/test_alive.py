"""Candidates that are off are not evaluated, and what is left equals the whole cell with zeros in their place."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastnas.spaces.cell_space import DARTS, NASBENCH201
from fastnas.supernet.mix import EdgeNoise, Mix, NoiseSource, split_by_node
from fastnas.supernet.operations import DARTS_OPERATIONS, NASBENCH201_OPERATIONS
from fastnas.supernet.search_cell import SearchCell

CHANNELS = 4


def make_cell(space=DARTS, stride=1, k=1):
    operations = DARTS_OPERATIONS if space is DARTS else NASBENCH201_OPERATIONS
    return SearchCell(space, operations, [nn.Identity()] * space.num_inputs, CHANNELS, stride, k).double()


def make_inputs(space=DARTS):
    return [torch.randn(2, CHANNELS, 5, 5, dtype=torch.float64) for _ in range(space.num_inputs)]


def run(cell, inputs, mix):
    return cell(inputs, split_by_node(cell.space, mix, "normal"))


def executed(cell):
    """Names of the candidates that run from now on, in order."""
    names = []
    for group in (*cell.edges, *cell.shared):
        for name, candidate in group.named_children():
            candidate.register_forward_hook(lambda *_, name=name: names.append(name))
    return names


@pytest.mark.parametrize(("stride", "k"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_what_runs_equals_the_whole_cell_with_zeros_elsewhere(stride, k):
    cell, inputs = make_cell(stride=stride, k=k), make_inputs()
    keep = torch.rand(14, 8) < 0.3
    keep[2:5] = False  # a node that nothing enters
    mix_EK = torch.rand(14, 8, dtype=torch.float64) * keep
    alive = tuple(tuple(row.nonzero().flatten().tolist()) for row in keep)
    whole, part = (run(cell, inputs, Mix({"normal": mix_EK}, {}, of)) for of in ({}, {"normal": alive}))
    torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12)  # the same terms, summed in another order


class Convolutions(TorchDispatchMode):
    """Counts the filters that are applied, however many of them one call applies."""

    def __init__(self):
        super().__init__()
        self.filters = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            self.filters += args[1].shape[0]
        return function(*args, **kwargs or {})


def test_one_candidate_an_edge_means_one_evaluation_an_edge(monkeypatch):
    monkeypatch.setenv("FASTNAS_BACKEND", "reference")  # in kernels no operation of PyTorch is to be counted
    cell, inputs = make_cell(), make_inputs()
    sep = DARTS.primitives.index("sep_conv_3x3")
    alive = {"normal": ((sep,),) * 14}
    mix_EK = torch.zeros(14, 8, dtype=torch.float64)
    mix_EK[:, sep] = 1
    with Convolutions() as counted:
        y = run(cell, inputs, Mix({"normal": mix_EK}, {}, alive))
    # two depthwise convolutions an edge; those that share a state run as one and their 1x1 ones as a matrix product
    assert counted.filters == 14 * 2 * CHANNELS + 2 * CHANNELS  # the last state has one edge, so its 1x1 count
    named = dict(cell.named_parameters())
    gradients = torch.autograd.grad(y.sum(), list(named.values()), allow_unused=True)
    assert {name for name, g in zip(named, gradients, strict=True) if g is not None} == {
        name for name in named if "sep_conv_3x3" in name
    }


def test_a_choice_of_none_runs_nothing_and_gives_zeros():
    cell, inputs = make_cell(NASBENCH201), make_inputs(NASBENCH201)
    ran = executed(cell)
    mix_EK = torch.zeros(6, 5, dtype=torch.float64)
    mix_EK[:, 0] = 1
    assert run(cell, inputs, Mix({"normal": mix_EK}, {}, {"normal": ((0,),) * 6})).abs().max() == 0
    assert ran == []


def test_an_offset_is_added_to_every_pixel_of_its_node():
    cell, inputs = make_cell(NASBENCH201), make_inputs(NASBENCH201)
    mix_EK, offset_E = torch.zeros(6, 5, dtype=torch.float64), torch.arange(6, dtype=torch.float64)
    y = run(cell, inputs, Mix({"normal": mix_EK}, {}, {"normal": ((0,),) * 6}, {"normal": offset_E}))
    assert torch.equal(y, torch.full_like(y, 3 + 4 + 5))


def test_noise_repeats_itself_and_keeps_the_mean():
    x = torch.ones(4000, 2, 2, 2)
    noise = EdgeNoise(drop_path=0.25, skip_dropout=0.5, seed=3)

    def drop(cell_type, stride=1):
        return NoiseSource(noise, cell_type, x.device).drop(["skip_connect", "max_pool_3x3"], [x, x], stride)

    skip, pool = drop("normal")
    assert all(torch.equal(*pair) for pair in zip(drop("normal"), (skip, pool), strict=True))
    assert not torch.equal(drop("reduction")[0], skip)
    # standard errors: 4,000 paths of deviation 0.58 each, and 32,000 elements of at most 1.3
    assert abs(pool.mean() - 1) < 0.04
    assert abs(skip.mean() - 1) < 0.04
    assert pool.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert torch.equal(pool, pool[:, :1, :1, :1].expand_as(pool))
    assert torch.equal(*drop("normal", stride=2))  # only skips that keep the resolution have dropout


def test_a_cell_drops_different_paths_in_each_of_its_evaluations_but_the_same_ones_again():
    cell, inputs = make_cell(), make_inputs()
    mix_EK = torch.full((14, 8), 0.125, dtype=torch.float64)
    mix = Mix({"normal": mix_EK}, {}, noise=EdgeNoise(0.5, 0.0, 1))
    nodes = split_by_node(DARTS, mix, "normal")
    first, second = cell(inputs, nodes), cell(inputs, nodes)
    assert not torch.equal(first, second)
    assert torch.equal(run(cell, inputs, mix), first)
