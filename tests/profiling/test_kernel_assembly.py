"""What the gate's command line refuses, and what it compiles; compiling itself is tested with the kernels."""

import sys

import kernel_assembly
import pytest
import torch
import triton

from fastnas_audit.cases import cases_for

pytestmark = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="launches are recorded where they interpret")


def refused(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["kernel_assembly.py", *words])
    with pytest.raises(SystemExit):
        kernel_assembly.parsed()
    return capsys.readouterr().err.splitlines()[-1]


def test_a_part_of_the_record_is_not_written_with_another_compiler(monkeypatch, capsys):
    monkeypatch.setattr(triton, "__version__", "1.2.3")
    said = refused(monkeypatch, capsys, "--only", "gather", "--write", "--targets", "sm_90")
    assert "--write with --only needs the Triton of the record, " in said
    assert "got 1.2.3: leave out --only" in said


def test_what_has_no_record_is_not_written(monkeypatch, capsys):
    assert "leave out --dtypes" in refused(monkeypatch, capsys, "--dtypes", "bfloat16", "--write")


def test_kernels_of_cells_are_compiled_in_float64_too():
    cases = cases_for("sm_90", (torch.float64,))
    assert {case.kernel.__name__ for case in cases} >= {"stage_kernel", "node_kernel", "depthwise_weights_kernel"}
    assert all("*fp64" in case.signature.values() and "*fp32" not in case.signature.values() for case in cases)
