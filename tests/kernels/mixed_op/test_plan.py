import dataclasses

import pytest

from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan, Norm

POOL, SKIP = Candidate("max_pool"), Candidate("skip")


def plan_of(*edges, channels=8, num_nodes=1, **options):
    return CellPlan(channels, 2, num_nodes, tuple(EdgePlan(*edge) for edge in edges), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plan_of((0, 2, (POOL,)), stride=3), "CellPlan: stride must be 1 or 2, got 3"),
        (lambda: plan_of((0, 2, (POOL,)), k=3), r"channels / k must be a whole number \(k = 3\), got 8 channels"),
        (lambda: plan_of((0, 2, (POOL,)), k=0), "partial channels k must be at least 1, got 0"),
        (lambda: plan_of((0, 2, (SKIP,)), stride=2, k=8), r"an even number \(k = 8\), got 8 channels"),
        (lambda: plan_of((2, 2, (POOL,))), r"edges must lead from a state to a later node, got \(2, 2\)"),
        (lambda: plan_of((-1, 2, (POOL,))), r"edges must lead from a state to a later node, got \(-1, 2\)"),
        (lambda: plan_of((0, 1, (POOL,))), r"edges must lead from a state to a later node, got \(0, 1\)"),
        (lambda: plan_of((0, 3, (POOL,))), r"edges must lead from a state to a later node, got \(0, 3\)"),
        (lambda: plan_of((0, 2, (Candidate("depthwise", 4),))), "kernel must be odd, got 4"),
        (
            lambda: plan_of((0, 3, (POOL,)), (0, 2, (POOL,)), num_nodes=2),
            r"edges must be ordered by target, got \[3, 2\]",
        ),
        (
            lambda: plan_of((0, 2, ()), (0, 3, (POOL,)), num_nodes=2),
            r"every node must have a live candidate, got none into \[2\]",
        ),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_skip_of_stride_one_may_have_an_odd_number_of_channels():
    assert plan_of((0, 2, (SKIP,)), channels=3).mixed_channels == 3


def test_plans_are_values():
    first, second = (plan_of((0, 2, (POOL, SKIP))) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.stride = 2


def test_weights_and_statistics_are_listed_edge_by_edge_and_stage_by_stage(plans):
    plan = plans["pruned"](stride=2, k=2)
    depthwise, halves = [(4, 1, 3, 3), (4, 4, 1, 1)], [(2, 4, 1, 1)] * 2
    assert [shapes for shapes in plan.weight_shapes.values() if shapes] == [
        depthwise * 2,
        halves,
        halves,
        [(4, 1, 5, 5), (4, 4, 1, 1)],
        depthwise * 2,
    ]
    assert [tuple(norm) for norm in plan.norms] == [
        *[(0, 0, 0), (0, 0, 1), (0, 1, 0)],
        (1, 0, 0),
        *[(3, 0, 0), (3, 1, 0), (3, 2, 0)],
        *[(4, 0, 0), (4, 1, 0), (4, 1, 1)],
    ]
    assert plan.first_coefficient == (0, 2, 3, 3, 6, 8)
    assert plan.num_coefficients == 8


def test_an_identity_has_neither_weights_nor_statistics():
    plan = plan_of((0, 2, (SKIP,)))
    assert plan.norms == ()
    assert plan.weight_shapes == {(0, 0): []}


def test_only_pools_share_a_row_and_only_while_the_batch_gives_the_statistics(plans):
    plan = plans["pruned"]()
    first, second = Norm(1, 0, 0), Norm(3, 2, 0)  # both avg_pool of state 1
    assert plan.row(second, shared=True) == plan.norms.index(first)
    assert plan.row(second, shared=False) == plan.norms.index(second)
    convolution = Norm(4, 1, 1)
    assert plan.row(convolution, shared=True) == plan.norms.index(convolution)


def test_odd_maps_are_rounded_up_and_only_inputs_are_halved(plans):
    plan = plans["complete"](stride=2)
    assert plan.size_after(7, 8) == (4, 4)
    assert [plan.stride_of(source) for source in range(3)] == [2, 2, 1]
    assert plan.leaving(1) == [1, 3]
    assert plan.entering(3) == [2, 3, 4]


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([["max_pool"]], False),
        ([["skip"], ["skip"]], False),
        ([["max_pool", "skip"]], True),
        ([["max_pool"], ["skip"]], True),
    ],
)
def test_one_candidate_or_identities_alone_are_no_mixture(candidates, expected):
    edges = tuple(EdgePlan(source, 2, tuple(map(Candidate, kinds))) for source, kinds in enumerate(candidates))
    assert CellPlan(4, 2, 1, edges).mixes == expected
