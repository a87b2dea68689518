import pytest
import torch
import triton

from fastnas_audit.cell_cases import DARTS, OF_OLDEST, cases, launches, plan_of, with_budgets

pytestmark = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="the process compiles")


def test_a_recorded_cell_launches_every_kernel():
    found = launches(plan_of(DARTS, 2, 16, 2), torch.float32)
    assert {launch.name.removesuffix("_kernel") for launch in found} == {
        "stage", "finalise", "pool_statistics", "node", "shared_sums", "pointwise_backward",
        "depthwise_weights", "depthwise_backward", "pool_backward", "gather", "bypass_backward",
    }  # fmt: skip


def test_the_alpha_step_computes_no_gradient_of_a_filter():
    found = launches(plan_of(DARTS, 1, 16, 1), torch.float32)
    steps = [launch.arguments["WEIGHTS"] for launch in found if launch.name == "pointwise_backward_kernel"]
    assert steps[: len(steps) // 2] == [True] * (len(steps) // 2)
    assert steps[len(steps) // 2 :] == [False] * (len(steps) // 2)


@pytest.mark.parametrize(("channels", "again"), [(16, True), (32, False)])
def test_raw_outputs_are_computed_again_in_the_weight_step_where_products_are_whole(channels, again):
    found = launches(plan_of(DARTS, 1, channels, 1), torch.float32)
    of = {True: set(), False: set()}
    for launch in found:
        if launch.name == "pointwise_backward_kernel":
            of[launch.arguments["WEIGHTS"]].add(launch.arguments["AGAIN"])
    assert of == {True: {again}, False: {False}}


def test_what_is_computed_again_is_not_stored():
    found = launches(plan_of(DARTS, 1, 16, 1), torch.float32)
    kept = [launch.arguments["KEEP"] for launch in found if launch.name == "stage_kernel"]
    forward, weight_step, alpha_step = (set(kept[i : i + 10]) for i in (0, 10, 20))
    assert (forward, weight_step, alpha_step) == ({True}, {False}, {True})


def test_sizes_do_not_decide_over_code():
    integers = {name for case in cases("cuda") for name, kind in case.signature.items() if kind in ("i32", "i64")}
    assert integers  # or the next line says nothing
    assert not [case.name for case in cases("cuda") if integers & set(case.divisible_by_16)]
    assert not [case.name for case in cases("cuda") if integers & set(case.constants) - {"GROUPS"}]


def test_products_are_of_a_kind_that_the_vendor_has():
    precisions = {backend: {case.constants.get("PRECISION") for case in cases(backend)} for backend in ("cuda", "hip")}
    assert precisions == {"cuda": {None, "ieee", "tf32", "tf32x3"}, "hip": {None, "ieee"}}


def test_registers_are_limited_for_the_compiler_that_knows_the_limit():
    limits = {backend: {case.maxnreg for case in cases(backend)} for backend in ("cuda", "hip")}
    assert limits == {"cuda": {None, 128, 168}, "hip": {None}}
    assert {case.maxnreg for case in cases("cuda", (torch.float64,))} == {None, 128, 168}


def test_programs_have_as_many_threads_on_both():
    threads = {case.name: 32 * case.num_warps for case in cases("cuda")}
    of_amd = {case.name: 64 * case.num_warps for case in cases("hip")}
    assert threads == {name: of_amd[name] for name in threads}  # AMD's products are whole with more channels, too


def test_budgets_are_looser_for_the_oldest_triton_where_they_are_said_to_be(monkeypatch):
    now = cases("cuda")
    monkeypatch.setattr(triton, "__version__", "3.6.0")
    loose = {case.kernel.__name__ for case in now if with_budgets(case).budget_on("sm_90") != case.budget_on("sm_90")}
    assert loose <= set(OF_OLDEST)
    assert {"stage_kernel", "gather_kernel", "pool_backward_kernel"} <= loose
