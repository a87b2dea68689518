import pytest
import torch

from fastnas_kernels.mixed_op.cell import mixed_cell
from fastnas_kernels.mixed_op.definition import reference_cell
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan


def test_equals_the_reference(case, plans):
    plan = plans["complete"](k=2)
    _, states, weights, mix, edge_mix = case(plan, with_edges=True)
    results = [cell(states, weights, mix, edge_mix, plan) for cell in (mixed_cell, reference_cell)]
    for mine, theirs in zip(*results, strict=True):
        assert (mine - theirs).abs().max() <= 1e-12 * theirs.abs().max()


def test_the_kernels_leave_no_statistic_to_what_lay_in_memory(poison, monkeypatch):
    plan = CellPlan(4, 1, 1, (EdgePlan(0, 1, (Candidate("max_pool"), Candidate("depthwise"))),))
    states, weights = [torch.randn(1, 4, 3, 3)], [torch.randn(4, 1, 3, 3), torch.randn(4, 4, 1, 1)]
    found = []
    for backend in ("reference", "triton"):
        monkeypatch.setenv("FASTNAS_BACKEND", backend)
        found.append(mixed_cell(states, weights, torch.ones(2), None, plan)[1])
    # Statistics of order one, in float32, of nine pixels
    assert (found[0] - found[1]).abs().max() <= 1e-5


def without(key, value):
    return lambda given: {**given, key: value(given[key])}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("states", lambda s: s[:1]), "mixed_cell: states must be 2, got 1"),
        (
            without("states", lambda s: [x[:, :4] for x in s]),
            r"states must have shape \[N, 8, H, W\], got \[2, 4, 6, 6\]",
        ),
        (without("states", lambda s: [x[0] for x in s]), r"states must have shape \[N, 8, H, W\], got \[8, 6, 6\]"),
        (without("states", lambda s: [s[0], s[1][..., :5]]), r"all input states are alike\), got \[2, 8, 6, 5\]"),
        (without("weights", lambda w: w[1:]), "weights must be 30, got 29"),
        (without("weights", lambda w: [w[0].transpose(0, 1), *w[1:]]), r"weights\[0\] must have shape \[4, 1, 3, 3\]"),
        (without("mix", lambda m: m[:-1]), r"mix must have shape \[25\] \(one coefficient for each .*got \[24\]"),
        (without("edge_mix", lambda e: e[:-1]), r"edge_mix must have shape \[5\] .*got \[4\]"),
        (
            without("statistics", lambda _: torch.zeros(3, 2, 4)),
            r"statistics must have shape \[25, 2, 4\] .*got \[3, 2, 4\]",
        ),
        (
            without("states", lambda s: [s[0], s[1].float()]),
            r"states must have the dtype of the states, torch.float64, got",
        ),
        (without("states", lambda s: [x.long() for x in s]), r"states must have a floating dtype, got torch.int64\."),
        (
            without("weights", lambda w: [w[0].float(), *w[1:]]),
            r"weights\[0\] must have the dtype of the states, torch.f.*",
        ),
        (
            without("statistics", lambda _: torch.zeros(25, 2, 4)),
            r"statistics must have the dtype of the .*float64, got",
        ),
        (without("mix", lambda m: m.long()), r"mix must have a floating dtype, got torch.int64\."),
        (without("mix", lambda m: m.to("meta")), r"mix must be on the device of the states, cpu, got meta\."),
        (
            without("weights", lambda w: [*w[:-1], w[-1].to("meta")]),
            r"weights\[29\] must be on the device .*got meta\.",
        ),
        (without("mix", lambda m: m.detach() * float("nan")), r"mix must not hold NaN, got \[nan"),
        (without("edge_mix", lambda e: e.detach() * float("nan")), r"edge_mix must not hold NaN, got \[nan"),
    ],
)
def test_names_the_argument_the_rule_and_the_value(case, plans, spoil, message):
    plan = plans["complete"](k=2)
    _, states, weights, mix, edge_mix = case(plan, with_edges=True)
    given = {"states": states, "weights": weights, "mix": mix, "edge_mix": edge_mix, "statistics": None}
    with pytest.raises(ValueError, match=message):
        mixed_cell(**spoil(given), plan=plan)


def test_edge_coefficients_without_partial_channels_are_refused(case, plans):
    plan = plans["complete"]()
    _, states, weights, mix, edge_mix = case(plan, with_edges=True)
    with pytest.raises(ValueError, match=r"mixed_cell: edge_mix must be None without partial channels, got \[5\]"):
        mixed_cell(states, weights, mix, edge_mix, plan)


def test_beside_bfloat16_statistics_may_be_float32_and_coefficients_anything(case, plans):
    plan = plans["complete"]()
    _, states, weights, mix, _ = case(plan)
    low = [[x.bfloat16() for x in xs] for xs in (states, weights)]
    nodes, _ = mixed_cell(*low, mix, None, plan, torch.ones(len(plan.norms), 2, 8))
    assert nodes.dtype == torch.bfloat16
    with pytest.raises(
        ValueError, match=r"the dtype of the states, torch.bfloat16, or torch.float32, got torch.float64"
    ):
        mixed_cell(*low, mix, None, plan, torch.ones(len(plan.norms), 2, 8).double())


def test_channels_that_do_not_divide_are_refused(plans):
    with pytest.raises(ValueError, match=r"CellPlan: .*got"):
        plans["complete"](channels=6, k=4)


def test_a_backend_that_is_not_there_is_refused(monkeypatch, case, plans):
    plan = plans["complete"]()
    _, states, weights, mix, _ = case(plan)
    monkeypatch.setenv("FASTNAS_BACKEND", "nowhere")
    with pytest.raises(RuntimeError, match="FASTNAS_BACKEND must be triton, cpu or reference, got 'nowhere'"):
        mixed_cell(states, weights, mix, None, plan)
