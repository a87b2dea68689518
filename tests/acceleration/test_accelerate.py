"""An accelerated network against itself before: equality is what the drop-in promises."""

import copy
import io
import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fastnas import accelerate, restore
from fastnas.acceleration.stand_in import StandIn

EXACT = 1e-10
"""Relative, in float64: what fastnas promises for foreign networks; rounding alone stays below 1e-12."""


# Where the shape of a cell is nothing to what is tested: one that is replaced whole, with shares, and one by its edges
FEW = pytest.mark.parametrize(
    "pair",
    [
        "WeightedBlock",
        "OddBlock",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("Block", "TwiceBlock", "NestedBlock")),
    ],
    indirect=True,
)


def images(size=8, dtype=torch.float64):
    return torch.randn(4, 3, size, size, dtype=dtype)


def loss_of(network, x):
    logits = network(x)
    return logits, (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum()


def gradients(network, x, create_graph=False):
    logits, loss = loss_of(network, x)
    parameters = list(network.parameters())
    of_parameters = torch.autograd.grad(
        loss, parameters, create_graph=create_graph, materialize_grads=True, allow_unused=True
    )
    return logits, list(of_parameters)


def error(mine, theirs):
    return ((mine - theirs).abs().max() / theirs.abs().max().clamp_min(1e-300)).item() if mine.numel() else 0.0


def assert_alike(mine, theirs):
    for m, t in zip(mine, theirs, strict=True):
        assert error(m, t) <= EXACT


def block_arguments():
    return torch.randn(2, 8, 6, 6).double(), torch.randn(2, 8, 6, 6).double(), torch.rand(5, 8).double()


def test_cells_are_replaced_whole_and_a_cell_of_another_kind_edge_by_edge(pair):
    network, twin, report = pair
    levels = [entry.level for entry in report.replaced]
    if type(network.blocks[0]).__name__ == "OddBlock":
        assert levels == ["edge"] * 15
        assert [entry.name for entry in report.left] == ["blocks.0", "blocks.1", "blocks.2"]
        assert all("its output differs by" in entry.reason for entry in report.left)
    else:
        assert levels == ["cell"] * 3
        assert report.left == ()
    assert sum(isinstance(m.__dict__.get("forward"), StandIn) for m in twin.modules()) == len(levels)


def test_outputs_gradients_and_running_statistics_are_equal_over_training_steps(pair):
    network, twin, _ = pair
    for _ in range(3):
        x = images()
        (theirs, of_theirs), (mine, of_mine) = gradients(network, x), gradients(twin, x)
        assert_alike([mine, *of_mine], [theirs, *of_theirs])
        assert_alike(list(twin.buffers()), list(network.buffers()))
        with torch.no_grad():
            for parameters, steps in ((network.parameters(), of_theirs), (twin.parameters(), of_mine)):
                for parameter, step in zip(parameters, steps, strict=True):
                    parameter.sub_(0.01 * step)


def test_eval_mode_uses_the_running_statistics_of_every_single_normalisation(pair):
    network, twin, _ = pair
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    twin.load_state_dict(network.state_dict())
    before = [buffer.clone() for buffer in network.buffers()]
    x = images()
    (theirs, of_theirs), (mine, of_mine) = gradients(network.eval(), x), gradients(twin.eval(), x)
    assert_alike([mine, *of_mine], [theirs, *of_theirs])
    assert all(map(torch.equal, twin.buffers(), before))


def test_second_derivatives_are_equal(pair):
    network, twin, _ = pair
    x, results = images(), []
    for net in (network, twin):
        _, firsts = gradients(net, x, create_graph=True)
        total = sum((g * torch.linspace(-1, 1, g.numel(), dtype=g.dtype).view_as(g)).sum() for g in firsts)
        results.append(torch.autograd.grad(total, list(net.parameters()), materialize_grads=True, allow_unused=True))
    assert_alike(results[1], results[0])


def test_float32_is_at_most_twice_as_inaccurate_as_the_network_itself(pair):
    network, twin = (network.float() for network in pair[:2])
    exact = copy.deepcopy(network).double()  # of the same rounded weights
    names = [name for name, _ in network.named_parameters()]
    squares = torch.zeros(2, 3, dtype=torch.float64)  # [the network, the engine] x [output, alphas, all gradients]
    for _ in range(4):
        x = images(dtype=torch.float32)
        truth, of_truth = gradients(exact, x.double())
        for row, net in enumerate((network, twin)):
            logits, of_net = gradients(net, x)
            of_each = torch.stack([((a - b) ** 2).sum() for a, b in zip(of_net, of_truth, strict=True)])
            is_alpha = torch.tensor([name.startswith("alphas") for name in names])
            squares[row] += torch.stack([((logits - truth) ** 2).sum(), of_each[is_alpha].sum(), of_each.sum()])
    theirs, mine = squares.detach().sqrt()
    assert (mine <= 2 * theirs).all()


def test_parameters_stay_the_same_objects_and_checkpoints_load_both_ways(make_block):
    network = make_block()
    parameters, keys = list(network.parameters()), list(network.state_dict())
    accelerate(network)
    assert list(network.state_dict()) == keys
    assert all(mine is before for mine, before in zip(network.parameters(), parameters, strict=True))
    other, arguments = make_block(), block_arguments()
    other.load_state_dict(network.state_dict())
    assert error(network(*arguments), other(*arguments)) <= EXACT
    network.load_state_dict(other.state_dict())


def test_restoring_gives_back_everything(make_block):
    network, arguments = make_block(), block_arguments()
    attributes = {name: set(module.__dict__) for name, module in network.named_modules()}
    expected = copy.deepcopy(network)(*arguments)
    accelerate(network)
    restore(network)
    restore(network)
    assert {name: set(module.__dict__) for name, module in network.named_modules()} == attributes
    assert torch.equal(network(*arguments), expected)


@FEW
def test_accelerating_twice_changes_nothing_and_reports_the_same(pair):
    _, twin, report = pair
    before = {name: module.__dict__.get("forward") for name, module in twin.named_modules()}
    again = accelerate(twin)
    assert again.replaced == report.replaced
    assert {name: module.__dict__.get("forward") for name, module in twin.named_modules()} == before


@FEW
def test_a_deep_copy_evaluates_its_own_weights_and_moves_its_own_statistics(pair):
    network, twin, _ = pair
    child = copy.deepcopy(twin)
    with torch.no_grad():
        for parameter in itertools.chain(child.parameters(), network.parameters()):
            parameter.mul_(1.5)
    before = [buffer.clone() for buffer in twin.buffers()]
    x = images()
    assert error(child(x), network(x)) <= EXACT
    assert all(map(torch.equal, twin.buffers(), before))


@FEW
def test_a_functional_call_uses_the_parameters_and_buffers_that_it_is_given(pair):
    network, twin, _ = pair
    x = images()
    given = {name: 1.1 * value.detach() for name, value in network.named_parameters()}
    given |= {name: buffer.clone() for name, buffer in network.named_buffers()}
    theirs, mine = ({name: value.clone() for name, value in given.items()} for _ in range(2))
    before = [buffer.clone() for buffer in twin.buffers()]
    assert error(functional_call(twin, mine, (x,)), functional_call(network, theirs, (x,))) <= EXACT
    assert_alike([value for name, value in sorted(mine.items())], [value for name, value in sorted(theirs.items())])
    assert all(map(torch.equal, twin.buffers(), before))


@FEW
def test_a_pickled_network_comes_back_accelerated(pair):
    _, twin, report = pair
    file = io.BytesIO()
    torch.save(twin, file)
    file.seek(0)
    back = torch.load(file, weights_only=False)
    x = images()
    assert accelerate(back).replaced == report.replaced
    assert torch.equal(back(x), twin(x))


def test_wrappers_are_looked_into_and_replicas_evaluate_themselves(make_block):
    block, arguments = make_block(), block_arguments()
    expected = copy.deepcopy(block)(*arguments)
    wrapped = nn.DataParallel(block)
    assert [entry.name for entry in accelerate(wrapped).replaced] == ["module"]
    assert error(wrapped(*arguments), expected) <= EXACT
    replica = block._replicate_for_data_parallel()
    assert replica.forward.module is replica
    assert block.forward.module is block


@FEW
def test_a_network_may_change_precision_afterwards(pair):
    network, twin, _ = pair
    x = images(dtype=torch.float32)
    single, ours = network.float()(x), twin.float()(x)
    assert ours.dtype == torch.float32
    assert error(ours, single) < 1e-3  # conditioned like the network itself: see the test against float64


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_running_statistics_follow_every_momentum(make_block, momentum):
    block = make_block()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    twin = copy.deepcopy(block)
    assert [entry.level for entry in accelerate(twin).replaced] == ["cell"]
    for _ in range(3):
        arguments = block_arguments()
        assert error(twin(*arguments), block(*arguments)) <= EXACT
    assert_alike(list(twin.buffers()), list(block.buffers()))


def test_normalisations_without_running_statistics_use_the_batch_in_eval_mode_too(make_block):
    block = make_block()
    for module in list(block.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.BatchNorm2d(child.num_features, affine=False, track_running_stats=False))
    twin = copy.deepcopy(block)
    assert [entry.level for entry in accelerate(twin).replaced] == ["cell"]
    arguments = block_arguments()
    for training in (True, False):
        assert error(twin.train(training)(*arguments), block.train(training)(*arguments)) <= EXACT


def test_edges_are_weighed_without_partial_channels_too(make_block):
    block = make_block("WholeWeightedBlock", 2)
    twin = copy.deepcopy(block)
    assert [entry.level for entry in accelerate(twin).replaced] == ["cell"]
    shares = torch.rand(5, dtype=torch.float64, requires_grad=True)
    theirs, mine = (module(*arguments, shares) for arguments in [block_arguments()] for module in (block, twin))
    assert_alike([mine], [theirs])
    assert_alike(*(torch.autograd.grad((y**3).sum(), shares) for y in (mine, theirs)))


@pytest.mark.parametrize("kind", ["cell", "edge"])
def test_what_stands_behind_may_change_the_maps_in_place(make_block, make_blend, kind):
    """As the drop-path of the family does."""
    own = make_block() if kind == "cell" else make_blend()
    fast, (a, b, table) = copy.deepcopy(own), block_arguments()
    accelerate(fast)
    results = []
    for module in (own, fast):
        weights = table.clone().requires_grad_()
        y = module(a, b, weights) if kind == "cell" else module(a, weights[0])
        y.div_(0.8).mul_(0.5)
        results.append(torch.autograd.grad((y**3).sum(), [weights, *module.parameters()], materialize_grads=True,
                                           allow_unused=True))  # fmt: skip
    assert_alike(results[1], results[0])


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"accelerate: network must be a torch\.nn\.Module, got dict"):
        accelerate({})
