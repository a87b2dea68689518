"""The cell against itself written out edge by edge, and the identities that tie the methods together."""

import dataclasses
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastnas.spaces.cell_space import DARTS, NASBENCH201, S1, S3
from fastnas.supernet.candidates import find_operations
from fastnas.supernet.mix import Mix, split_by_node
from fastnas.supernet.operations import DARTS_OPERATIONS, NASBENCH201_OPERATIONS, Convolution
from fastnas.supernet.search_cell import SearchCell
from tests.helpers import only_candidates

CHANNELS = 8


WIDE = dataclasses.replace(DARTS, name="wide", primitives=("skip_connect", "sep_conv_7x7", "dil_conv_3x3"))


def make_cell(stride=1, k=1, space=DARTS):
    operations = NASBENCH201_OPERATIONS if space is NASBENCH201 else DARTS_OPERATIONS
    identities = [nn.Identity() for _ in range(space.num_inputs)]
    return SearchCell(space, operations, identities, CHANNELS, stride, k).double()


def make_inputs(space=DARTS, size=6):
    return [
        torch.randn(2, CHANNELS, size, size, dtype=torch.float64, requires_grad=True) for _ in range(space.num_inputs)
    ]


def make_mix(space=DARTS, with_edges=False):
    alpha = torch.randn(len(space.edges), len(space.primitives), dtype=torch.float64).softmax(-1).requires_grad_()
    beta = torch.rand(len(space.edges), dtype=torch.float64).requires_grad_() if with_edges else None
    return alpha, beta


def run(cell, inputs, alpha, beta=None):
    mix = Mix({"normal": alpha}, {} if beta is None else {"normal": beta})
    return cell(inputs, split_by_node(cell.space, mix, "normal"))


def plain(module, x):
    """A candidate evaluated with torch's own operations on the candidate's own weights."""
    if isinstance(module, nn.Sequential):
        for part in module:
            x = plain(part, x)
        return x
    if isinstance(module, Convolution):
        return F.conv2d(x, module.weight, module.bias, *module.geometry)
    if isinstance(module, nn.BatchNorm2d):
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        return (x - mean) / (var + module.eps).sqrt()
    if type(module).__name__ == "FactorizedReduce":
        x = x.relu()
        halves = [F.conv2d(x, module.first.weight, stride=2), F.conv2d(x[:, :, 1:, 1:], module.second.weight, stride=2)]
        return plain(module.norm, torch.cat(halves, 1))
    return module(x)


@pytest.mark.parametrize("cell_type", ["normal", "reduction"])
def test_a_cell_whose_edges_differ_builds_and_mixes_what_each_edge_has(cell_type):
    stride = 2 if cell_type == "reduction" else 1
    identities = [nn.Identity(), nn.Identity()]
    cell = SearchCell(S1, find_operations(S1), identities, CHANNELS, stride, cell_type=cell_type).double()
    alive = torch.tensor(S1.alive(cell_type))
    inputs, alpha = make_inputs(), torch.randn(14, 6, dtype=torch.float64, requires_grad=True)

    def output(alpha):
        mix = only_candidates(S1, {f"alpha.{cell_type}": alpha})[f"alpha.{cell_type}"].softmax(-1)
        return cell(inputs, split_by_node(S1, Mix({cell_type: mix}, {}), cell_type)), mix

    y, mix = output(alpha)
    assert torch.equal(mix[~alive], torch.zeros(14 * 6 - 28, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(y.square().sum(), alpha)
    assert (gradient[~alive] == 0).all()
    assert (gradient[alive] != 0).all()
    states = list(inputs)
    for target in range(2, 6):
        total = 0
        for row in S1.rows(target):
            source = S1.edges[row].source
            for column, name in enumerate(S1.primitives):
                modules = cell.edges[row] if name in cell.edges[row] else cell.shared[source]
                if alive[row, column]:
                    total = total + mix[row, column] * plain(modules[name], states[source])
        states.append(total)
    assert (y - torch.cat(states[2:], 1)).abs().max() < 1e-12  # float64, values of order one


def test_none_may_stand_anywhere_among_the_primitives():
    primitives = ("skip_connect", "none", "sep_conv_3x3")
    space = dataclasses.replace(S3, name="turned", primitives=primitives, operations=DARTS_OPERATIONS)
    mix = torch.rand(14, 3)
    nodes = split_by_node(space, Mix({"normal": mix}, {}), "normal")
    assert torch.equal(torch.cat([node.candidates for node in nodes]), mix[:, [0, 2]].flatten())


def edge_by_edge(cell, inputs, alpha, beta):
    space, k = cell.space, cell.k
    states = list(inputs)
    for target in range(space.num_inputs, space.num_inputs + space.num_nodes):
        total = 0
        for row in space.rows(target):
            source = space.edges[row].source
            stride = cell.stride if source < space.num_inputs else 1
            first, rest = states[source][:, : CHANNELS // k], states[source][:, CHANNELS // k :]
            mixed = 0
            for column, name in enumerate(space.primitives):
                if name != "none":
                    modules = cell.edges[row] if name in cell.edges[row] else cell.shared[source]
                    mixed = mixed + alpha[row, column] * plain(modules[name], first)
            if k > 1:
                rest = F.max_pool2d(rest, 2, 2) if stride == 2 else rest
                joined = torch.cat([mixed, rest], 1)
                n, c, h, w = joined.shape
                mixed = joined.view(n, k, c // k, h, w).transpose(1, 2).reshape(n, c, h, w)
            total = total + (mixed if beta is None else beta[row] * mixed)
        states.append(total)
    return torch.cat([states[i] for i in space.concat], 1)


@pytest.mark.parametrize("with_edges", [False, True])
@pytest.mark.parametrize(
    ("space", "stride", "k"),
    [
        (DARTS, 1, 1),
        (DARTS, 1, 2),
        (DARTS, 2, 1),
        (DARTS, 2, 2),
        (NASBENCH201, 1, 1),
        (NASBENCH201, 1, 4),
        (WIDE, 1, 1),
    ],
)
def test_equals_the_cell_written_out_edge_by_edge(space, stride, k, with_edges):
    cell, inputs = make_cell(stride, k, space), make_inputs(space)
    alpha, beta = make_mix(space, with_edges)
    ours, reference = run(cell, inputs, alpha, beta), edge_by_edge(cell, inputs, alpha, beta)
    assert (ours - reference).abs().max() < 1e-12
    variables = [*inputs, alpha, *([beta] if with_edges else []), *cell.parameters()]
    dy = torch.randn_like(ours)
    for mine, theirs in zip(*(torch.autograd.grad(y, variables, dy) for y in (ours, reference)), strict=True):
        assert (mine - theirs).abs().max() <= 1e-12 * max(1, theirs.abs().max().item())


def test_edges_weighted_by_one_are_bit_equal_to_edges_added_up():
    cell, inputs = make_cell(), make_inputs()
    alpha, _ = make_mix()
    assert torch.equal(run(cell, inputs, alpha), run(cell, inputs, alpha, torch.ones(14, dtype=torch.float64)))


def test_even_edge_coefficients_halve_the_first_node_of_darts_exactly():
    cell, inputs = make_cell(), make_inputs()
    alpha, _ = make_mix()
    even = torch.cat([torch.full((n,), 1 / n, dtype=torch.float64) for n in (2, 3, 4, 5)])
    first = slice(0, CHANNELS)
    assert torch.equal(run(cell, inputs, alpha, even)[:, first], run(cell, inputs, alpha)[:, first] / 2)


def test_a_quarter_of_the_channels_is_mixed_and_the_others_pass_by_unchanged():
    cell, inputs = make_cell(k=4), make_inputs()
    alpha, _ = make_mix()
    one_edge = torch.zeros(14, dtype=torch.float64)
    one_edge[0] = 1
    node = run(cell, inputs, alpha, one_edge)[:, :CHANNELS]
    unchanged = [any(torch.equal(out, x) for x in inputs[0].unbind(1)) for out in node.unbind(1)]
    assert sum(unchanged) == CHANNELS - CHANNELS // 4


@pytest.mark.parametrize("k", [1, 4])
def test_odd_maps_are_rounded_up_on_every_path(k):
    y = run(make_cell(2, k), make_inputs(size=9), make_mix()[0])
    assert y.shape == (2, 4 * CHANNELS, 5, 5)


def test_channels_that_cannot_be_shared_out_are_refused():
    identities = [nn.Identity(), nn.Identity()]
    with pytest.raises(ValueError, match=r"SearchCell: channels / k must be a whole number \(k = 4\), got 6 channels"):
        SearchCell(DARTS, DARTS_OPERATIONS, identities, 6, 1, 4)
    with pytest.raises(ValueError, match=r"an even number \(k = 4\), got 12 channels\. Choose channels as a multiple"):
        SearchCell(DARTS, DARTS_OPERATIONS, identities, 12, 2, 4)


def test_a_copy_of_a_cell_uses_its_own_weights():
    cell, inputs, (alpha, _) = make_cell(), make_inputs(), make_mix()
    before, copy = run(cell, inputs, alpha), deepcopy(cell)
    with torch.no_grad():
        for weight in copy.parameters():
            weight.mul_(torch.rand_like(weight))
    assert torch.equal(run(cell, inputs, alpha), before)
    assert not torch.allclose(run(copy, inputs, alpha), before)
