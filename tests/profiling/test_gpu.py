"""The plumbing of the command for a GPU, on a machine that has none."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gpu
import pytest
import torch
import triton

from fastnas_kernels.mixture import derivative as mixture
from measuring import cells, correctness, device, memory, supernets, timing, warming
from measuring.counting import kept_bytes, moved_bytes
from measuring.device import HostDevice, Memory, device_named, exact_float32, forced, medians

interpreted = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="tries the script on a CPU")


class Counter(HostDevice):
    """A device that captures and counts memory, for the plumbing of both."""

    def captured(self, run):
        result = run()
        return lambda: result

    def memory(self, forward, backward):
        backward(forward())
        return Memory(123_000_000, 456_000_000)


@pytest.fixture
def small(monkeypatch):
    """Only what takes the interpreter a moment."""
    chosen = [s for s in correctness.subjects("tiny") if s.name.startswith(("mixed_sum", "gumbel_softmax, soft"))]
    monkeypatch.setattr(correctness, "subjects", lambda scale: chosen)
    monkeypatch.setattr(correctness, "small_subjects", lambda scale: [])
    for module in (timing, supernets, warming):
        monkeypatch.setattr(module, "PHASES", {"alpha step": (False, True)})
    monkeypatch.setattr(timing, "DTYPES", (torch.float32,))


def run(tmp_path, sections, **options):
    code = gpu.main(gpu.Gpu(device="cpu", size="tiny", sections=sections, runs=1, out=tmp_path, **options))
    (page,), (raw,) = tmp_path.glob("*.md"), tmp_path.glob("*.json")
    return code, page.read_text(), json.loads(raw.read_text())


@interpreted
def test_writes_a_page_with_its_origin_and_the_raw_numbers(tmp_path, small):
    code, page, raw = run(tmp_path, "correctness,ceilings,cells")
    assert code == 0
    for fact in ("# cpu ", "- date: 20", "- commit: ", "- versions: Python 3", f"torch {torch.__version__}", "command"):
        assert fact in page
    assert "| mixed_sum of 3 | float32 |" in page
    assert "| copy, read and written |" in page
    assert "a device must be a GPU to capture graphs" in page  # reported, and nothing ended
    of_cells = {record["how"]: record for record in raw["cells"]}
    eager = ("edge by edge", "edge by edge, NCHW")
    assert set(of_cells) == {*cells.CONTENDERS, *eager, "fused, graph", *(f"{name}, graph" for name in eager)}
    assert min(of_cells[name]["ratio"] for name in eager) == 1
    # Rounding in float32 of tensors of a hundred numbers
    assert all(of_cells[name]["difference"] < 1e-5 for name in cells.CONTENDERS)
    assert of_cells["batched"]["bytes"] > 0
    assert "bytes" not in of_cells["fused"]
    assert raw["settings"]["size"] == "tiny"


@interpreted
def test_a_wrong_kernel_is_named_all_others_are_checked_and_nothing_is_timed(tmp_path, small, monkeypatch):
    right = mixture.reference_scaled_copies
    monkeypatch.setattr(mixture, "_scaled_copies_op", lambda mix, g: [1.01 * x for x in right(mix, g)])
    code, page, raw = run(tmp_path, "correctness,ceilings")
    assert code == 1
    verdicts = {(record["function"], record["dtype"]): record["ok"] for record in raw["correctness"]}
    assert verdicts["mixed_sum of 3", "float32"] is False
    assert verdicts["gumbel_softmax, soft", "float32"] is True
    assert "| yes | FAIL |" in page
    assert "ceilings" not in raw


@interpreted
def test_a_kernel_that_gives_other_bits_each_time_fails(tmp_path, small, monkeypatch):
    right, calls = mixture.reference_weighted_sum, []

    def unsteady(xs, mix_K):
        calls.append(1)
        return right(xs, mix_K) * (1 + len(calls) * torch.finfo(torch.float32).eps)

    monkeypatch.setattr(mixture, "_weighted_sum_op", unsteady)
    code, page, _ = run(tmp_path, "correctness")
    assert code == 1
    assert "| NO | FAIL |" in page


@interpreted
def test_a_kernel_that_cannot_run_is_a_failure_in_its_row(tmp_path, small, monkeypatch):
    def broken(xs, mix_K):
        raise RuntimeError("no | such kernel\nmore")

    monkeypatch.setattr(mixture, "_weighted_sum_op", broken)
    code, page, _ = run(tmp_path, "correctness")
    assert code == 1
    assert "FAIL RuntimeError: no / such kernel |" in page


@interpreted
def test_gradients_that_are_no_slopes_fail(monkeypatch):
    chosen = [subject for subject in correctness.small_subjects("tiny") if not subject.name.startswith("mixed_cell")]
    monkeypatch.setattr(correctness, "subjects", lambda scale: [])
    monkeypatch.setattr(correctness, "small_subjects", lambda scale: chosen)
    right = mixture.reference_row_dot
    monkeypatch.setattr(mixture, "_row_dot_op", lambda xs, g: 1.01 * right(xs, g))
    section = correctness.check(HostDevice(), "tiny")
    assert not section.ok
    verdicts = {row[0]: row[-1] for row in section.rows}
    assert "Jacobian mismatch" in verdicts.pop("gradcheck of mixed_sum of 3")
    assert set(verdicts.values()) == {"pass"}


@interpreted
def test_when_time_is_over_nothing_new_is_begun_and_that_is_said(tmp_path, small):
    code, page, raw = run(tmp_path, "ceilings,compile", minutes=0)
    assert code == 0
    assert "## Not measured: ceilings" in page
    assert "## Not measured: compile" in page
    assert raw["ceilings"] == raw["compile"] == []


@interpreted
def test_within_a_section_time_is_asked_for_before_every_table_row(small):
    section = timing.measure_cells(HostDevice(), "tiny", 1, lambda: False)
    assert section.rows == []
    assert section.notes[-1] == "Skipped, since time was over: tiny float32 alpha step."


@interpreted
def test_graphs_and_memory_come_from_the_device(small, monkeypatch):
    monkeypatch.setattr(timing, "CONTENDERS", {"edge by edge": cells.CONTENDERS["edge by edge"]})
    records = timing.measure_cells(Counter(), "tiny", 1, lambda: True).records
    layouts = ("edge by edge", "edge by edge, NCHW")
    assert [record["how"] for record in records] == [*layouts, *(f"{how}, graph" for how in layouts)]
    assert records[2]["difference"] == 0
    monkeypatch.setattr(memory, "CONTENDERS", cells.CONTENDERS | {"fused": cells.CONTENDERS["batched"]})
    monkeypatch.setattr(memory, "trainings", lambda scale: ())
    section = memory.measure(Counter(), "tiny", lambda: True)
    assert [row[3] for row in section.rows] == ["123"] * 4
    assert [row[5] for row in section.rows] == ["456"] * 4


def test_a_contender_that_fails_is_reported_and_the_others_are_timed():
    def fails():
        raise torch.OutOfMemoryError("out of memory")

    records = timing.compared(HostDevice(), {"one": lambda: [torch.ones(1)], "two": fails}, ["one"], 1)
    assert records[0]["ratio"] == 1
    assert records[1] == {"how": "two", "fault": "OutOfMemoryError: out of memory"}


def test_a_base_that_fails_leaves_times_without_ratios():
    def fails():
        raise ValueError("no")

    records = timing.compared(HostDevice(), {"one": fails, "two": lambda: [torch.ones(1)]}, ["one"], 1)
    assert [sorted(record) for record in records] == [["how", "seconds"], ["fault", "how"]]


def test_contenders_run_in_turn_after_a_warm_up():
    log = []
    found = medians(HostDevice(), {name: lambda name=name: log.append(name) for name in "ab"}, 2)
    assert "".join(log) == "ab" + "abab"
    assert set(found) == {"a", "b"}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [1, 2])
def test_every_eager_way_to_evaluate_a_cell_gives_the_same(stride, k):
    cell = cells.Cell("", cells.darts_plan(4, stride, k), 2, 5)
    arguments = cells.arguments_of(cell, torch.float64, torch.device("cpu"))
    base, *others = (
        cells.whole(*cells.step(cells.CONTENDERS[name], arguments, cell.plan, "both"))()
        for name in ("edge by edge", "by state", "batched")
    )
    for other in others:
        for x, y in zip(other, base, strict=True):
            assert (x - y).abs().max() <= 1e-12 * max(1, y.abs().max())  # some hundred roundings of 1e-16


def test_a_phase_asks_for_its_own_gradients_and_for_those_of_the_states():
    cell = cells.Cell("", cells.tiny_plan(k=2), 1, 3)
    arguments = cells.arguments_of(cell, torch.float32, torch.device("cpu"))
    numbers = {
        phase: len(cells.whole(*cells.step(cells.CONTENDERS["by state"], arguments, cell.plan, phase))())
        for phase in cells.PHASES
    }
    # The nodes; one state; two filters; coefficients of candidates and of edges
    assert numbers == {"both": 1 + 1 + 2 + 2, "alpha step": 1 + 1 + 2, "weight step": 1 + 1 + 2}


@pytest.mark.parametrize("device_type", ["meta", "cpu"])
def test_counts_the_bytes_that_a_graph_keeps_and_that_operations_move(device_type):
    x = torch.ones(10, device=device_type, requires_grad=True)
    # Kept beside x: exp's result, which sin keeps too, and sin's result
    assert kept_bytes(lambda: x.exp().sin(), [x]) == 2 * 40
    # exp and sin read and write 40 bytes each; a view moves none
    assert moved_bytes(lambda: x.detach().exp().view(2, 5).sin()) == 4 * 40


def test_the_prediction_of_the_fused_cell_is_states_nodes_and_little_else():
    cell = cells.Cell("", cells.darts_plan(16), 64, 32)
    states, nodes = 2 * 64 * 16 * 32 * 32 * 4, 4 * 64 * 16 * 32 * 32 * 4
    fused = memory.predicted_bytes(cell, "fused", torch.float32)
    assert states + nodes <= fused <= 1.02 * (states + nodes)
    assert memory.predicted_bytes(cell, "batched", torch.float32) > 40 * fused


def test_the_published_searches_are_built_on_meta_tensors_and_keep_less_when_fused():
    training = supernets.trainings("tiny")[0]
    assert 0 < memory.predicted_step_bytes(training, "triton") != memory.predicted_step_bytes(training, "reference") > 0


def test_the_forced_backend_and_the_exact_float32_end_with_their_contexts(monkeypatch):
    monkeypatch.delenv("FASTNAS_BACKEND", raising=False)
    before = torch.backends.cudnn.conv.fp32_precision
    with forced("reference"), exact_float32():
        assert device.os.environ["FASTNAS_BACKEND"] == "reference"
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert "FASTNAS_BACKEND" not in device.os.environ
    assert torch.backends.cudnn.conv.fp32_precision == before


@pytest.mark.parametrize(
    ("name", "cuda", "interprets", "message"),
    [
        ("tpu", True, False, "device must be cuda, cuda:<n> or cpu, got 'tpu'"),
        ("cpu", True, False, "on the CPU, Triton must interpret kernels, got a compiler. Set TRITON_INTERPRET=1"),
        ("cuda", False, False, "a GPU must be there, got none"),
        ("cuda", True, True, "Triton must compile kernels, got TRITON_INTERPRET=1"),
    ],
)
def test_refuses_a_device_on_which_the_numbers_would_mean_nothing(monkeypatch, name, cuda, interprets, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(device, "knobs", SimpleNamespace(runtime=SimpleNamespace(interpret=interprets)))
    with pytest.raises((ValueError, RuntimeError), match=message):
        device_named(name, "gpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sections": "cells,speed"}, "sections must be among first, warmup, .*, got speed"),
        ({"runs": 0}, "runs must be"),
        ({"workers": 0}, "workers must be"),
    ],
)
def test_refuses_what_it_cannot_do(options, message):
    with pytest.raises(ValueError, match=message):
        gpu.main(gpu.Gpu(device="cpu", **options))


@interpreted
def test_the_compiled_cell_is_one_graph_and_gives_the_same(monkeypatch):
    monkeypatch.setattr(timing, "CONTENDERS", cells.CONTENDERS | {"fused": cells.CONTENDERS["batched"]})
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    records = {
        record["how"]: record for record in timing.measure_compiled(HostDevice(), "tiny", 1, lambda: True).records
    }
    eager = {"edge by edge", "fused", "edge by edge, compiled"}
    assert set(records) == eager | {f"{how}, graph" for how in eager}
    assert records["edge by edge, compiled"]["difference"] == 0


@interpreted
@pytest.mark.slow
def test_everything_but_torch_compile_runs_at_its_smallest(tmp_path, monkeypatch):
    for module in (timing, supernets):
        monkeypatch.setattr(module, "PHASES", {"both": (True, True)})
    names = [task.name for task in warming.tasks("tiny")]
    with warming.processes(1) as executor:
        assert executor.submit(warming.run_task, "cpu", "tiny", names.index("mixed_sum of 3 slopes")).result() == ""
    code, page, raw = run(tmp_path, "correctness,ceilings,cells,supernets,memory", minutes=30)
    assert code == 0
    assert "Skipped" not in page
    assert all(raw[name] for name in ("correctness", "ceilings", "cells", "supernets", "memory"))


@interpreted
def test_warming_up_runs_every_piece_of_work_and_says_what_went_wrong(monkeypatch):
    ran = []

    def broken(device):
        raise RuntimeError("ptxas is missing")

    work = [warming.Task("one", ran.append), warming.Task("two", broken)]
    monkeypatch.setattr(warming, "tasks", lambda scale: work)
    section = warming.warm(HostDevice(), "tiny", 1, 60, ThreadPoolExecutor)
    assert ran == [torch.device("cpu")]
    assert "2 of 2 pieces of work ran" in section.notes[0]
    assert section.notes[1:] == ("two: RuntimeError: ptxas is missing",)


@interpreted
def test_warming_up_knows_all_that_is_checked_and_timed(small):
    names = [task.name for task in warming.tasks("tiny")]
    assert len(names) == 2 * 2 + 0 + 2 + 1  # functions by dtypes; none for slopes; a cell by dtypes; a supernet
    assert warming.run_task("cpu", "tiny", names.index("mixed_sum of 3 torch.float32")) == ""
    assert warming.warm(HostDevice(), "tiny", 8, 60).notes == (
        "Nothing to compile: Triton's interpreter runs the kernels.",
    )


BARE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"tyro", "pydantic", "simplejpeg", "torchvision", "psutil", "pynvml"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
sys.path[0] = "profiling"
import runpy
try:
    runpy.run_path("profiling/gpu.py", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
from measuring import correctness, first, memory, timing, warming
import tune
"""


def test_the_scripts_start_on_a_machine_that_has_little_more_than_torch(tmp_path):
    """No package of the library's own dependencies, no git, not installed: as on a GPU machine that one is lent."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PATH")}
    out = tmp_path / "out"
    command = [sys.executable, "-c", BARE, "--device", "cpu", "--size", "tiny", "--sections", "ceilings", "--runs", "1"]
    done = subprocess.run(
        [*command, "--out", str(out)],
        cwd=Path(gpu.__file__).parents[1],
        env=environment | {"TRITON_INTERPRET": "1", "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.suffix for path in out.iterdir()) == [".json", ".md"]
    (page,) = out.glob("*.md")
    assert "- not installed: pydantic, tyro" in page.read_text()
    assert "- commit: unknown" in page.read_text()
    assert "| copy, read and written |" in page.read_text()


def test_a_part_that_fails_says_so_and_the_next_one_is_measured(tmp_path, monkeypatch):
    def broken(device, settings, budget):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(gpu, "PARTS", {"memory": gpu.Part(broken, 0, 9), "ceilings": gpu.PARTS["ceilings"]})
    monkeypatch.setattr(gpu, "device_named", lambda name, where: HostDevice())
    code, page, raw = run(tmp_path, "memory,ceilings")
    assert code == 0
    assert "## Not measured: memory\n\nRuntimeError: no such thing" in page
    assert raw["ceilings"]
