"""The model of a launch's time, on machine code of few lines, and the record of what it says of the kernels."""

import json
from pathlib import Path
from types import SimpleNamespace

import kernel_instructions
import pytest
import triton

from fastnas_audit.assembly import Assembly
from fastnas_audit.floor import floors
from fastnas_audit.instructions import HALF_RATE, Stretch
from fastnas_audit.recorder import Launch
from fastnas_audit.time_model import Machine, programs_a_multiprocessor, seconds, work_of

RESULTS = Path(__file__).parents[3] / "profiling" / "results"
TWO = Machine(bandwidth=1e9, multiprocessors=2, clock=1e6, issue=4, half_rate=2)


def code(*stretches, registers=64, shared=0):
    return Assembly("some_kernel", "sm_90", registers, 0, 0, shared, {}, {}, 0, 0, 0, 0, 0, 0, 0, stretches)


def launch(name="some_kernel", grid=(2, 1, 1), **arguments):
    return Launch(SimpleNamespace(__name__=name), grid, arguments, {"num_warps": 4})


def test_a_loop_counts_as_often_as_its_range_says_and_programs_and_warps_multiply():
    outside = Stretch((), (), {"memory": 5, HALF_RATE: 0})
    inside = Stretch(("3", "0, last, STEP"), (), {"multiply-add": 2, "integer and address": 1, HALF_RATE: 1})
    work = work_of(launch(last=7, STEP=2), code(outside, inside), None, 1, TWO)
    assert work.mix == {"memory": 40, "multiply-add": 8 * 24, "integer and address": 8 * 12, HALF_RATE: 8 * 12}
    assert work.issued == 40 + 8 * 36
    assert work.issue == pytest.approx(work.issued / 2 / 4 / 1e6)
    assert work.half_rate == pytest.approx(96 / 2 / 2 / 1e6)


def test_tiles_are_dealt_out_among_the_programs_of_an_axis():
    work = work_of(launch(num_tiles=9), code(Stretch(("split, num_tiles, tl.num_programs(0)",), (), {"memory": 1})),
                   None, 1, TWO)  # fmt: skip
    assert work.issued == 9 * 4


def test_stretches_of_a_dilated_filter_may_fill_more_tiles():
    branches = [SimpleNamespace(kernel=5, dilation=dilation) for dilation in (1, 2)]
    inside = Stretch(("0, stretch_tiles + (DILATION - 1) * more_tiles",), (), {"memory": 1})
    found = launch("gather_kernel", first=0, middle=2, stretch_tiles=7, more_tiles=2)
    assert work_of(found, code(inside), SimpleNamespace(branches=branches), 1, TWO).issued == (7 + 9) * 4


def test_an_unrolled_loop_leaves_some_trips_to_another():
    nests = ("first, last, unrolled=4", "first, last, rest=4")
    stretches = (Stretch((nest,), (), {kind: 1}) for nest, kind in zip(nests, ("memory", "control"), strict=True))
    assert work_of(launch(first=3, last=14), code(*stretches), None, 1, TWO).mix == {"memory": 2 * 8, "control": 3 * 8}


def test_the_last_round_of_programs_takes_as_long_as_a_full_one():
    three, four = (work_of(launch(grid=(n, 1, 1)), code(Stretch((), (), {"memory": 8})), None, 1, TWO) for n in (3, 4))
    assert three.issue == pytest.approx(four.issue)
    assert (three.few, four.few) == (1, 0)


def test_only_the_code_for_the_size_of_a_filter_is_passed():
    branches = [SimpleNamespace(kernel=kernel, dilation=1) for kernel in (3, 5)]
    of_three = Stretch(("kernel",), (("kernel == 3", True),), {"multiply-add": 1})
    of_others = Stretch(("kernel",), (("kernel == 3", False),), {"memory": 1})
    found = launch("gather_kernel", first=0, middle=2)
    work = work_of(found, code(of_three, of_others), SimpleNamespace(branches=branches), 1, TWO)
    assert work.mix["multiply-add"] == 3 * 4  # half of two programs, four warps
    assert work.mix["memory"] == 5 * 4


def test_nor_is_that_for_another_dilation():
    branches = [SimpleNamespace(kernel=5, dilation=dilation) for dilation in (1, 2, 2)]
    near, far = (
        Stretch((), (("dilation == 1", one), ("kernel == 5", True)), {kind: 1})
        for one, kind in ((True, "memory"), (False, "control"))
    )
    work = work_of(launch("gather_kernel", (3,), first=0, middle=3), code(near, far),
                   SimpleNamespace(branches=branches), 1, TWO)  # fmt: skip
    assert (work.mix["memory"], work.mix["control"]) == (4, 2 * 4)


def test_kernels_on_numbers_with_a_tangent_serve_the_same_branches_one_a_program():
    branches = [SimpleNamespace(kernel=kernel, dilation=1) for kernel in (3, 5, 7)]
    found = launch("dual_stage_kernel", (1, 2), launched=1)
    work = work_of(found, code(Stretch(("kernel",), (), {"memory": 1})), SimpleNamespace(branches=branches), 4, TWO)
    assert work.mix["memory"] == (5 + 7) * 4


def test_code_without_known_loops_is_refused():
    with pytest.raises(ValueError, match=r"^work_of: the loops of some_kernel on sm_90 must be known"):
        work_of(launch(), code(), None, 1, TWO)


def test_the_longest_of_three_is_the_time():
    work = work_of(launch(), code(Stretch((), (), {"memory": 8, HALF_RATE: 3})), None, 1, TWO)
    assert seconds(work, 0, TWO) == work.issue
    assert seconds(work, 1e9, TWO) == 1


def test_registers_warps_and_shared_memory_limit_the_programs_of_a_multiprocessor():
    assert programs_a_multiprocessor(code(registers=168), 4) == 3
    assert programs_a_multiprocessor(code(registers=16), 4) == 16
    assert programs_a_multiprocessor(code(shared=100 * 1024), 4) == 2


def test_floors_are_those_of_the_page_on_bytes():
    page = (RESULTS / "kernel-bytes.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if "_kernel | " in line and "partial sums" not in line]
    stated = [(row[0].removeprefix("| "), float(row[3])) for row in rows]
    cells = kernel_instructions.eight_cells(32, 1)[0], kernel_instructions.eight_cells(28, 2)[0]
    found = [floors(place.plan, images * place.side**2) for place, images in zip(cells, (64, 128), strict=True)]
    mine = [(name, round(value / 1e6, 1)) for counted in found for name, value in counted.items()]
    assert sorted(mine) == sorted(stated)


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="the process compiles")
@pytest.mark.parametrize(("kernel", "dtype"), [("gather_kernel", "float32"), ("depthwise_weights_kernel", "bfloat16")])
def test_figures_that_are_quick_to_make_are_those_of_the_record(monkeypatch, kernel, dtype):
    record = json.loads((RESULTS / "kernel-instructions.json").read_text())
    if f"Triton {triton.__version__}." not in (RESULTS / "kernel-instructions.md").read_text():
        pytest.skip("another compiler made the record")
    whole = kernel_instructions.launches
    monkeypatch.setattr(
        kernel_instructions, "launches", lambda *of: [launch for launch in whole(*of) if launch.name == kernel]
    )
    work = kernel_instructions.workloads()[0]
    code = kernel_instructions.compiled([work], [dtype], 2)
    found = kernel_instructions.rows(work, kernel_instructions.DTYPES[dtype], True, code)
    then = record[f"{work.name}, {dtype}, weight step"][kernel]
    assert kernel_instructions.figures(found)[kernel] == pytest.approx(then, rel=0.03)
    assert (
        found[kernel].work.issue > found[kernel].num_bytes / kernel_instructions.H100.bandwidth
    )  # or bytes would hide it


@pytest.mark.slow
@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="the process compiles")
def test_no_figure_is_worse_than_recorded():
    record = json.loads((RESULTS / "kernel-instructions.json").read_text())
    if f"Triton {triton.__version__}." not in (RESULTS / "kernel-instructions.md").read_text():
        pytest.skip("another compiler made the record")
    of_name = {work.name: work for work in kernel_instructions.workloads()}
    wanted = {name: of_name[name] for name in (key.rsplit(", ", 2)[0] for key in record)}
    dtypes = sorted({key.rsplit(", ", 2)[1] for key in record})
    code = kernel_instructions.compiled(list(wanted.values()), dtypes, 2)
    for key, then in record.items():
        name, dtype, phase = key.rsplit(", ", 2)
        weights = kernel_instructions.PHASES[phase]
        found = kernel_instructions.rows(wanted[name], kernel_instructions.DTYPES[dtype], weights, code)
        now = kernel_instructions.figures(found)
        assert {kernel: now[kernel] for kernel in then if now[kernel] > 1.03 * then[kernel]} == {}, key
