import re
from dataclasses import replace

import pytest
import torch
import triton

from fastnas_audit.cell_cases import DARTS, OF_OLDEST, cases, launches, plan_of, with_budgets
from fastnas_kernels.mixed_op.lowering import lower
from fastnas_kernels.mixed_op.plan import Candidate
from fastnas_kernels.mixed_op.tables import shipped_table, tiles_for, tiles_from_json, whole_entry

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


@pytest.mark.parametrize("channels", [16, 32])
def test_depthwise_outputs_are_stored_for_the_gradients_of_filters_alone(channels):
    found = launches(plan_of(DARTS, 1, channels, 1), torch.float32)
    kept = [launch.arguments["KEEP_T"] for launch in found if launch.name == "stage_kernel"]
    assert kept == [False] * 10 + [True] * 10 + [False] * 10


def test_a_filter_that_reads_another_branch_may_be_dilated():
    dilated = Candidate("depthwise", 3, 2, 2)
    for candidates, dense in ((DARTS, {True}), ((*DARTS, dilated), {False})):
        found = launches(plan_of(candidates, 1, 16, 1), torch.float32)
        stages = [launch.arguments for launch in found if launch.name == "stage_kernel"]
        assert {arguments["DENSE"] for arguments in stages if arguments["NORMALISED"]} == dense
        gradients = [launch for launch in found if launch.name.startswith("depthwise")]
        of_second_halves = [one.arguments for one in gradients if one.arguments.get("NORMALISED", True)]
        assert {arguments["DENSE"] for arguments in of_second_halves} == dense


@pytest.mark.parametrize(("most", "each"), [(1, 1), (2, 2), (3, 2), (4, 4), (5, 4)])
def test_edges_are_shared_out_evenly_among_programs(most, each):
    bundles = lower(plan_of(DARTS, 1, 16, 1)).bundles(0, most)  # four edges leave the first state
    assert {number for _, number in bundles} == {each}
    assert [first for first, _ in bundles] == list(range(0, 16, each))


@pytest.mark.parametrize(("channels", "of_gradients"), [(4, 16), (8, 16), (16, 16), (32, 8)])
def test_a_thread_has_several_pixels_except_of_windows(channels, of_gradients):
    tiles = tiles_for(channels, torch.float32)
    found = [tile.pixels * tile.channels // (32 * tile.warps) for tile in (tiles.stage, tiles.gradients, tiles.states)]
    assert found == [16, of_gradients, 8]


def test_sizes_do_not_decide_over_code():
    integers = {name for case in cases("sm_90") for name, kind in case.signature.items() if kind in ("i32", "i64")}
    assert integers  # or the next line says nothing
    assert not [case.name for case in cases("sm_90") if integers & set(case.divisible_by_16)]
    assert not [case.name for case in cases("sm_90") if integers & set(case.constants) - {"GROUPS"}]


def test_products_are_of_a_kind_that_the_vendor_has():
    precisions = {target: {case.constants.get("PRECISION") for case in cases(target)} for target in ("sm_90", "gfx942")}
    assert precisions == {"sm_90": {None, "ieee", "tf32", "tf32x3"}, "gfx942": {None, "ieee"}}


def test_registers_are_limited_for_the_compiler_that_knows_the_limit():
    limits = {target: {case.maxnreg for case in cases(target)} for target in ("sm_90", "gfx942")}
    assert limits == {"sm_90": {None, 128, 168, 200}, "gfx942": {None}}
    assert {case.maxnreg for case in cases("sm_90", (torch.float64,))} == {None, 128, 168}


@pytest.mark.parametrize("target", ["sm_80", "sm_100"])
def test_a_target_has_tiles_and_limits_of_its_own_where_the_table_names_it(target):
    own = [entry for entry in shipped_table() if entry.get("target") == target]
    assert own
    for entry in own:
        dtype = getattr(torch, entry["dtype"])
        there = tiles_for(entry["channels"], dtype, target)
        whole = whole_entry(entry["channels"], entry["dtype"], target)
        assert all(whole[key] == value for key, value in entry.items())
        beside = {"precision": "", "abreast_of_filters": 1}  # which no entry decides alone
        assert replace(tiles_from_json(whole), **beside) == replace(there, **beside)
        assert there != tiles_for(entry["channels"], dtype)


def test_programs_have_as_many_threads_on_both():
    def named(case):  # filters' gradients of AMD's have no pixels abreast
        return re.sub(r" abreast=\d", "", case.name) if "depthwise_weights" in case.name else case.name

    threads = {named(case): 32 * case.num_warps for case in cases("sm_90")}
    of_amd = {named(case): 64 * case.num_warps for case in cases("gfx942")}
    # On AMD's wider warps several pixels spill, except in the gradients of filters
    fewer = {case.name for case in cases("sm_90") if case.num_warps == 2 and "depthwise_weights" not in case.name}
    both = threads.keys() & of_amd.keys()  # AMD's products are whole with more channels, too, and no output is read
    of_bfloat16_there = {"finalise c=32 abreast=1 float32", "finalise c=32 abreast=4 float32"}
    others = threads.keys() - both - of_bfloat16_there
    assert all("keep=1 t=1" in name for name in others)
    assert {name: of_amd[name] // threads[name] for name in both} == {name: 1 + (name in fewer) for name in both}


def test_budgets_are_looser_for_the_oldest_triton_where_they_are_said_to_be(monkeypatch):
    now = cases("sm_90")
    monkeypatch.setattr(triton, "__version__", "3.6.0")
    loose = {case.kernel.__name__ for case in now if with_budgets(case).budget_on("sm_90") != case.budget_on("sm_90")}
    assert loose <= set(OF_OLDEST)
    assert {"stage_kernel", "gather_kernel", "pool_backward_kernel"} <= loose
