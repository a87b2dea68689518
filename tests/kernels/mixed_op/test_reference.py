import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastnas_kernels.mixed_op.definition import reference_cell
from fastnas_kernels.mixed_op.plan import Candidate

EXACT = 1e-12
"""Relative to the largest value, in float64: a few hundred roundings of 1e-16 each."""


def assert_alike(mine, theirs):
    for m, t in zip(mine, theirs, strict=True):
        assert m.shape == t.shape
        assert (m - t).abs().max() <= EXACT * max(1e-3, t.abs().max().item())


def compare(case, plan, batched, size=6, with_edges=False, batch=3):
    cell, states, weights, mix, edge_mix = case(plan, size, batch, with_edges)
    theirs = cell(states, mix, edge_mix)
    mine, statistics = reference_cell(states, weights, mix, edge_mix, plan, batched=batched)
    assert_alike([mine], [theirs])
    variables = [*states, mix, *weights, *([edge_mix] if with_edges else [])]
    dy = torch.randn_like(theirs)
    assert_alike(*(torch.autograd.grad(y, variables, dy) for y in (mine, theirs)))
    return cell, statistics


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("name", ["complete", "pruned"])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_equals_the_cell_written_out_edge_by_edge(case, plans, stride, k, name, batched):
    compare(case, plans[name](stride=stride, k=k), batched, with_edges=k > 1)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("size", [7, 1, (5, 8)])
@pytest.mark.parametrize(("stride", "k"), [(1, 1), (2, 1), (2, 2)])
def test_odd_maps_and_single_pixels_are_treated_alike(case, plans, stride, k, size, batched):
    compare(case, plans["complete"](stride=stride, k=k), batched, size, batch=5)


@pytest.mark.parametrize("k", [2, 4])
def test_without_coefficients_the_channels_that_pass_by_are_added_up(case, plans, k):
    compare(case, plans["complete"](k=k), False, with_edges=False)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_returns_the_mean_and_the_biased_variance_of_every_normalisation(case, plans, stride, batched):
    plan = plans["complete"](stride=stride)
    cell, states, weights, mix, _ = case(plan)
    seen = []
    for norm in cell.norms():
        norm.register_forward_hook(lambda _, args, __: seen.append(torch.var_mean(args[0], (0, 2, 3), correction=0)))
    cell(states, mix, None)
    _, statistics = reference_cell(states, weights, mix, None, plan, batched=batched)
    assert statistics.shape == (len(plan.norms), 2, 8)
    assert not statistics.requires_grad
    for row, (var, mean) in zip(statistics, seen, strict=True):
        assert_alike(row, [mean, var])


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("name", "stride", "k"), [("complete", 1, 1), ("complete", 2, 2), ("pruned", 2, 1)])
def test_given_statistics_take_the_place_of_those_of_the_batch_on_every_edge(case, plans, name, stride, k, batched):
    plan = plans[name](stride=stride, k=k)
    cell, states, weights, mix, _ = case(plan)
    cell.eval()
    for norm in cell.norms():  # also pools, which share what the batch gives, may have been given different ones
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    given = torch.stack([torch.stack([norm.running_mean, norm.running_var]) for norm in cell.norms()])
    theirs = cell(states, mix, None)
    mine, returned = reference_cell(states, weights, mix, None, plan, given, batched)
    assert torch.equal(returned, given)
    dy = torch.randn_like(theirs)
    variables = [*states, mix, *weights]
    assert_alike([mine], [theirs])
    assert_alike(*(torch.autograd.grad(y, variables, dy) for y in (mine, theirs)))


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("k", [1, 2])
def test_derivatives_are_exact_to_second_order(case, plans, k, batched):
    candidates = (Candidate("avg_pool"), Candidate("skip"), Candidate("depthwise", 3, 1, 2))
    plan = plans["complete"](2 * k, stride=2, k=k, candidates=candidates, num_nodes=1)
    _, states, weights, mix, edge_mix = case(plan, 4, 2, k > 1)
    inputs = [*states, mix, *weights, *([edge_mix] if k > 1 else [])]

    def evaluate(first, second, mix, *others):
        weights, edges = (others[:-1], others[-1]) if k > 1 else (others, None)
        return reference_cell([first, second], weights, mix, edges, plan, batched=batched)[0]

    assert gradcheck(evaluate, inputs, fast_mode=True)
    assert gradgradcheck(evaluate, inputs, fast_mode=True)


def test_autocast_and_low_precision_keep_the_dtype_of_the_states(case, plans):
    plan = plans["complete"]()
    _, states, weights, mix, _ = case(plan)
    expected, _ = reference_cell(states, weights, mix, None, plan)
    low = [[t.detach().bfloat16() for t in tensors] for tensors in (states, weights)]
    y, _ = reference_cell(*low, mix.float(), None, plan)
    assert y.dtype == torch.bfloat16
    # Two nodes of up to four roundings each, of sums in which the largest value is normalised to a few units
    assert (y - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("k", [1, 4])
def test_float32_is_at_most_twice_as_inaccurate_as_the_cell_written_out(case, plans, k):
    plan = plans["complete"](k=k)
    cell, states, _, mix, _ = case(plan, 24, 8)
    with torch.no_grad():
        low = cell.float()
        states, mix = [state.float() for state in states], mix.float()
        eager = low(states, mix, None)
        mine, _ = reference_cell(states, low.weights(), mix, None, plan)
        truth = low.double()([state.double() for state in states], mix.double(), None)
    assert (mine - truth).norm() <= 2 * (eager - truth).norm()
