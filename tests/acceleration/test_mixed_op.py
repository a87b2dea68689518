import copy
import io

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from fastnas import MixedOp


def images(channels=8, size=6):
    return torch.randn(2, channels, size, size, dtype=torch.float64)


def written_out(operation, x, weights):
    """The candidates evaluated by torch, one after the other."""
    k = operation.k
    first, rest = x[:, : x.shape[1] // k], x[:, x.shape[1] // k :]
    outputs = []
    for candidate in operation._ops:
        if isinstance(candidate, nn.ModuleDict):
            rectified = first.relu()
            halves = [candidate["conv_1"](rectified), candidate["conv_2"](rectified[:, :, 1:, 1:])]
            outputs.append(candidate["bn"](torch.cat(halves, 1)))
        else:
            outputs.append(candidate(first))
    mixed = sum(w * y for w, y in zip(weights, outputs, strict=True))
    if k == 1:
        return mixed
    rest = nn.functional.max_pool2d(rest, 2, 2) if operation.stride == 2 else rest
    joined = torch.cat([mixed, rest], 1)
    n, c, h, w = joined.shape
    return joined.reshape(n, k, c // k, h, w).transpose(1, 2).reshape(n, c, h, w)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_equals_its_candidates_added_up(stride, k, training):
    operation = MixedOp(8, stride, partial_channels=k).double()
    for part in operation.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    twin = copy.deepcopy(operation)
    x, weights = images().requires_grad_(), torch.rand(8, dtype=torch.float64, requires_grad=True)
    mine = operation.train(training)(x, weights)
    theirs = written_out(twin.train(training), x, weights)
    results = []
    for module, y in ((operation, mine), (twin, theirs)):
        variables = [x, weights, *module.parameters()]
        results.append([y, *torch.autograd.grad((y**3).sum(), variables), *module.buffers()])
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()  # the same sums in another order


@pytest.mark.parametrize("k", [1, 2])
def test_derivatives_are_exact_to_second_order(k):
    primitives = ("skip_connect", "none", "sep_conv_3x3")
    operation = MixedOp(2 * k, 2, primitives, k).double()
    names = list(dict(operation.named_parameters()))

    def evaluate(x, weights, *values):
        return torch.func.functional_call(operation, dict(zip(names, values, strict=True)), (x, weights))

    weights = torch.rand(3, dtype=torch.float64, requires_grad=True)
    inputs = [images(2 * k, 4).requires_grad_(), weights, *operation.parameters()]
    assert gradcheck(evaluate, inputs, fast_mode=True)
    assert gradgradcheck(evaluate, inputs, fast_mode=True)


def test_the_primitives_may_come_in_any_order_and_without_parameters():
    operation = MixedOp(4, 1, ("skip_connect", "none", "max_pool_3x3")).double()
    assert not list(operation.parameters())
    x, weights = images(4), torch.tensor([2.0, 5.0, 0.0], dtype=torch.float64)
    assert torch.equal(operation(x, weights), 2 * x)


def test_coefficients_may_be_numbers():
    operation, x = MixedOp(4, 1, ("skip_connect", "max_pool_3x3")).double(), images(4)
    assert torch.equal(operation(x, [0.5, 0.0]), 0.5 * x)


def test_has_the_names_that_checkpoints_of_the_family_have():
    keys = set(MixedOp(8, 2).state_dict())
    assert {"_ops.1.1.running_mean", "_ops.3.conv_1.weight", "_ops.3.bn.running_var", "_ops.4.op.5.weight"} <= keys


def test_survives_a_deep_copy_and_a_pickle():
    operation = MixedOp(4, 1).double()
    file = io.BytesIO()
    torch.save(operation, file)
    file.seek(0)
    x, weights = images(4), torch.rand(8, dtype=torch.float64)
    expected = operation(x, weights)
    for twin in (copy.deepcopy(operation), torch.load(file, weights_only=False)):
        assert torch.equal(twin(x, weights), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 1, ("none", "conv_9x9")), r"MixedOp: primitives must be among \['none', .*got \['conv_9x9'\]"),
        ((8, 1, ("none",)), "MixedOp: primitives must not all be none, got"),
        ((8, 3), "MixedOp: stride must be 1 or 2, got 3"),
        ((6, 1, ("max_pool_3x3",), 4), r"MixedOp: channels / k must be a whole number \(k = 4\), got 6 channels"),
        ((3, 2, ("skip_connect",)), r"MixedOp: channels / k must be an even number \(k = 1\), got 3 channels"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MixedOp(*arguments)


def test_what_cannot_be_evaluated_is_refused():
    operation, weights = MixedOp(8, 1).double(), torch.rand(8, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"MixedOp: x must have shape \[2, 8, 6, 6\] .*got \[2, 4, 6, 6\]"):
        operation(images(4), weights)
    with pytest.raises(ValueError, match=r"MixedOp: x must be images \[N, C, H, W\], got \[8, 6, 6\]"):
        operation(images()[0], weights)
    with pytest.raises(ValueError, match="MixedOp: weights must be 8, got 7"):
        operation(images(), weights[:7])
    operation._ops[4].register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="MixedOp: candidates must be left to the engine, got a hook sits on"):
        operation(images(), weights)
