"""What a launch costs in Python before Triton is asked, in calls: no other process on the machine changes these."""

import sys
from collections import Counter

import pytest
import torch
import triton
from triton.runtime.interpreter import InterpretedFunction

from fastnas_audit.cell_cases import DARTS, plan_of
from fastnas_audit.interpreter import replaced
from fastnas_kernels.mixed_op import launch, launch_backward

pytestmark = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="launches are replaced where they interpret")
LAUNCHES = {1: 79, 2: 84}
"""Of a DARTS cell forward and backward, without and with partial channels."""
CALLS = 28
"""Of functions, Python's and C's, for each launch of the cell, PyTorch's operations included."""


def passes(plan):
    """A cell forward and backward whose kernels do nothing."""
    inputs = torch.zeros(2, 1, 4, 4, plan.channels)
    weights = [torch.zeros(shape) for shape in plan.filter_shapes]
    mix, edge_mix = torch.zeros(plan.num_coefficients), torch.zeros(len(plan.edges))

    def run():
        nodes, stats, packed, _ = launch.run_forward(inputs, weights, mix, edge_mix, None, plan)
        needs = (True, True, True, plan.k > 1)
        launch_backward.run_backward(nodes, inputs, nodes, packed, mix, edge_mix, stats, False, needs, plan)

    return run


@pytest.mark.parametrize("k", LAUNCHES)
def test_a_cell_keeps_to_its_budget_of_launches_and_of_calls_for_each(k):
    launched, called, of_triton = Counter(), Counter(), Counter()

    def count(function, *given, **named):
        launched[function.fn.__name__] += 1

    def note(frame, event, argument):
        if event in ("call", "c_call"):
            called[event] += 1
            if event == "call" and "/triton/" in frame.f_code.co_filename:
                of_triton[frame.f_code.co_name] += 1

    run = passes(plan_of(DARTS, k, 16, 1))
    with replaced(InterpretedFunction, run=count):
        run()  # what depends on plan, size and dtype alone is worked out here
        launched.clear()
        sys.setprofile(note)
        try:
            run()
        finally:
            sys.setprofile(None)
    assert launched.total() <= LAUNCHES[k]
    assert called.total() - launched.total() <= CALLS * launched.total()
    # Nothing but the launch itself: `triton.cdiv` and its like take 4 microseconds
    assert set(of_triton) <= {"__getitem__", "<lambda>"}


def test_a_cell_at_the_same_size_is_the_same_launcher():
    plan, inputs = plan_of(DARTS, 1, 16, 1), torch.zeros(2, 1, 4, 4, 16)
    same = plan_of(DARTS, 1, 16, 1)
    assert launch.launcher(inputs, plan, False) is launch.launcher(inputs.clone(), same, False)
    assert launch.launcher(inputs, plan, False) is not launch.launcher(inputs, plan, True)
    assert launch.launcher(inputs.double(), plan, False) is not launch.launcher(inputs, plan, False)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 256])
def test_integers_are_as_triton_rounds_them(n):
    assert launch.power_of_2(n) == triton.next_power_of_2(n)
    assert launch.ceil_div(n, 3) == triton.cdiv(n, 3)


def test_a_filters_gradient_is_shared_by_enough_programs_for_the_device():
    inputs = torch.empty(2, 64, 32, 32, 16, device="meta")
    with replaced(launch, multiprocessors=lambda device: 132):
        run = launch.launcher(inputs, plan_of(DARTS, 1, 16, 1), False)
        assert [run.splits(branches) for branches in (16, 8, 4, 2)] == [32, 33, 66, 132]
        assert run.most_splits == 132
        few = launch.launcher(torch.empty(2, 1, 8, 8, 16, device="meta"), plan_of(DARTS, 1, 16, 1), False)
        assert few.splits(2) == 1  # no more than there are tiles
