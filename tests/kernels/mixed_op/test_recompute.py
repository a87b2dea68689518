import pytest
import torch

from fastnas_kernels.checkpoint import checkpointed
from fastnas_kernels.mixed_op.definition import reference_cell


def assert_equal(mine, theirs):
    assert all(torch.equal(m, t) for m, t in zip(mine, theirs, strict=True))


def function(x, w):
    return ((x * w).relu() @ w).sin()


@pytest.fixture
def arguments():
    return [torch.randn(4, 4, requires_grad=True) for _ in range(2)]


def test_gradients_of_both_orders_are_the_same_bits(arguments):
    def gradients(y):
        first = torch.autograd.grad(y.sum(), arguments, create_graph=True)
        return [*first, *torch.autograd.grad((first[0] * first[1]).sum(), arguments)]

    assert_equal(gradients(checkpointed(function, *arguments)), gradients(function(*arguments)))


def test_the_function_runs_again_only_when_a_gradient_is_asked_for(arguments):
    calls = []

    def counted(x, w):
        calls.append(torch.is_grad_enabled())
        return function(x, w)

    y = checkpointed(counted, *arguments)
    assert calls == [True]
    y.sum().backward()
    assert calls == [True, True]
    with torch.no_grad():
        checkpointed(counted, *arguments)
    assert calls == [True, True, False]


def test_transforms_of_functions_get_the_plain_call(arguments):
    x, w = (a.detach() for a in arguments)
    mine, theirs = (torch.func.grad(lambda w, f=f: f(x, w).sum())(w) for f in (again, function))
    assert torch.equal(mine, theirs)


def again(x, w):
    return checkpointed(function, x, w)


def saved_bytes(forward):
    kept = {}

    def pack(x):
        kept[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = forward()
    del y
    return sum(kept.values())


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("name", ["complete", "pruned"])
@pytest.mark.parametrize(("stride", "k"), [(1, 1), (2, 1), (2, 2)])
def test_a_cell_has_the_same_gradients_and_keeps_less(case, plans, name, stride, k, batched):
    plan = plans[name](stride=stride, k=k)
    _, states, weights, mix, edge_mix = case(plan, 6, 3, k > 1)
    variables = [*states, mix, *weights, *([edge_mix] if k > 1 else [])]

    def evaluate(recompute):
        return reference_cell(states, weights, mix, edge_mix, plan, None, batched, recompute)

    (mine, my_statistics), (theirs, their_statistics) = (evaluate(recompute) for recompute in (True, False))
    dy = torch.randn_like(theirs)
    assert_equal([mine, my_statistics], [theirs, their_statistics])
    assert_equal(*(torch.autograd.grad(y, variables, dy) for y in (mine, theirs)))
    little, much = (saved_bytes(lambda r=r: evaluate(r)[0]) for r in (True, False))
    assert little < 0.75 * much
