import weakref
from contextlib import nullcontext

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastnas_kernels.cpu import launch as cpu_launch
from fastnas_kernels.mixed_op import launch, launch_backward
from fastnas_kernels.mixed_op.derivative import fused_cell
from fastnas_kernels.mixed_op.dual import launch as launch_dual
from fastnas_kernels.mixed_op.dual import launch_backward as launch_dual_backward
from fastnas_kernels.mixed_op.operators import workspace_bytes
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan

CANDIDATES = (
    Candidate("max_pool"),
    Candidate("avg_pool"),
    Candidate("skip"),
    Candidate("depthwise", 3, 1, 2),
    Candidate("depthwise", 5, 2, 1),
)


def a_plan(channels, stride, k):
    edges = tuple(EdgePlan(source, target, CANDIDATES) for target in (2, 3) for source in range(target))
    return CellPlan(channels, 2, 2, edges, stride, k)


class Calls(TorchDispatchMode):
    """Notes what the cells of a computation say that they hold."""

    def __init__(self):
        super().__init__()
        self.said = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if said := workspace_bytes(function, arguments, on_gpu=False):
            self.said.append(said)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize(("channels", "stride", "k"), [(8, 1, 1), (8, 2, 1), (16, 1, 4)])
def test_what_the_compiled_code_says_without_running_is_what_it_takes(monkeypatch, channels, stride, k, dual):
    plan, taken = a_plan(channels, stride, k), []
    states = [torch.randn(2, channels, 8, 8, requires_grad=True) for _ in range(2)]
    weights = [torch.randn(shape, requires_grad=True) for shapes in plan.weight_shapes.values() for shape in shapes]
    mix = torch.rand(plan.num_coefficients, requires_grad=True)
    plain = cpu_launch._function

    def watched(*arguments):
        function = plain(*arguments)

        def call(cell, memory):
            found = function(cell, memory)
            taken.extend([found] if memory is not None else [])
            return found

        return call

    monkeypatch.setenv("FASTNAS_BACKEND", "cpu")
    with Calls() as calls, forward_ad.dual_level() if dual else nullcontext():
        monkeypatch.setattr(cpu_launch, "_function", watched)
        if dual:
            mix = forward_ad.make_dual(mix, torch.ones_like(mix))
        fused_cell(states, weights, mix, None, plan, None)[0].sum().backward()
    assert len(taken) == 2
    assert calls.said == taken


class Alive(TorchDispatchMode):
    """The most bytes of what was allocated inside and was alive at once, beside what was given."""

    def __init__(self, *given):
        super().__init__()
        self.sizes, self.highest = {x.untyped_storage()._cdata: 0 for x in given}, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        results = function(*arguments, **(options or {}))
        for x in tree_leaves(results):
            storage = x.untyped_storage() if isinstance(x, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.sizes.pop, storage._cdata)
        self.highest = max(self.highest, sum(self.sizes.values()))
        return results


class Nothing:
    """A kernel that does not run."""

    def __getitem__(self, grid):
        return lambda **arguments: None


@pytest.fixture
def nothing_runs(monkeypatch):
    """Kernels for GPUs, that is."""
    for module in (launch, launch_backward, launch_dual, launch_dual_backward):
        for name in dir(module):
            for kernel in dir(getattr(module, name)) if name.endswith("kernels") else ():
                if kernel.endswith("_kernel"):
                    monkeypatch.setattr(getattr(module, name), kernel, Nothing())


def arguments_for(plan):
    inputs = torch.zeros(2, 4, 32, 32, plan.channels)
    weights = [torch.zeros(shape) for shapes in plan.weight_shapes.values() for shape in shapes]
    return inputs, weights, torch.zeros(plan.num_coefficients), torch.zeros(len(plan.edges))


def held(alive, results):
    """Beside the results."""
    return alive.highest - sum(x.numel() * x.element_size() for x in results)


SIZES = pytest.mark.parametrize(("channels", "stride", "k"), [(16, 1, 1), (16, 2, 1), (64, 1, 4)])
NEEDS = [True, True, True, True]


@SIZES
def test_the_kernels_of_a_gpu_hold_no_more_than_their_bound(nothing_runs, channels, stride, k):
    plan = a_plan(channels, stride, k)
    inputs, weights, mix, edge_mix = arguments_for(plan)
    launch.run_forward(inputs, weights, mix, edge_mix, None, plan)  # tables stay for the next one
    given = (inputs, *weights, mix, edge_mix)
    with Alive(*given) as forward:
        nodes, stats, packed, _ = results = launch.run_forward(inputs, weights, mix, edge_mix, None, plan)
    dnodes = torch.zeros_like(nodes)
    with Alive(*given, dnodes, nodes, stats, packed) as backward:
        gradients = launch_backward.run_backward(
            dnodes, inputs, nodes, packed, mix, edge_mix, stats, False, NEEDS, plan
        )
    ops = torch.ops.fastnas
    bound = workspace_bytes(ops.mixed_cell.default, (inputs, None, None, None, None, plan.text), on_gpu=True)
    assert 0.5 * bound < held(forward, results) <= bound
    said = (None, inputs, *[None] * 5, False, NEEDS, plan.text)
    bound = workspace_bytes(ops.mixed_cell_backward.default, said, on_gpu=True)
    assert 0.5 * bound < held(backward, gradients) <= bound


@SIZES
def test_those_for_numbers_with_tangents_do_neither(nothing_runs, channels, stride, k):
    plan = a_plan(channels, stride, k)
    inputs, weights, mix, edge_mix = arguments_for(plan)
    pairs = [inputs, inputs.clone()], weights, weights, [mix, mix], [edge_mix, edge_mix]
    launch_dual.run_dual_forward(*pairs, None, plan)
    given = (*pairs[0], *weights, mix, edge_mix)
    with Alive(*given) as forward:
        nodes, tangent, stats, packed, _ = results = launch_dual.run_dual_forward(*pairs, None, plan)
    with Alive(*given, nodes, tangent, stats, packed) as backward:
        gradients = launch_dual_backward.run_dual_backward(
            [nodes, tangent], pairs[0], [nodes, tangent], packed, *pairs[3:], stats, False, NEEDS, plan
        )
    ops = torch.ops.fastnas
    bound = workspace_bytes(ops.mixed_cell_dual.default, ([inputs], *[None] * 5, plan.text), on_gpu=True)
    assert 0.5 * bound < held(forward, results) <= bound
    said = (None, [inputs], *[None] * 5, False, NEEDS, plan.text)
    bound = workspace_bytes(ops.mixed_cell_dual_backward.default, said, on_gpu=True)
    assert 0.5 * bound < held(backward, gradients) <= bound
