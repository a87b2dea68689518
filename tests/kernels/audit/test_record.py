from dataclasses import replace

import pytest
import triton

from fastnas_audit.assembly import Assembly
from fastnas_audit.gate import Budget, Case, Verdict
from fastnas_audit.record import record, record_name, regressions, summary

CODE = Assembly(
    kernel="k",
    target="sm_90",
    registers=100,
    spills=2,
    spill_bytes=8,
    shared_bytes=1024,
    loads={32: 1, 128: 9},
    stores={},
    scalars=0,
    barriers=0,
    ffma=0,
    matrix=0,
    atomics=0,
    instructions=500,
    num_bytes=9000,
)
LOOSE = Budget(spills=4, reasons={"spills": "an address"})


@triton.jit
def nothing_kernel():
    pass


def verdict(name="copy wide", violations=(), **change):
    code = replace(CODE, **change)
    return Verdict(Case(name, nothing_kernel, {}, budget=LOOSE), code.target, code, violations)


def test_what_is_recorded_is_no_regression():
    verdicts = [verdict(), verdict(target="sm_80"), verdict("other")]
    known = record(verdicts)
    assert set(known) == {"copy wide", "other"}
    assert set(known["copy wide"]) == {"sm_80", "sm_90"}
    assert regressions(verdicts, known) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"registers": 108}, []),  # within the grain of the register file
        ({"registers": 109}, ["copy wide on sm_90: registers 100 became 109"]),
        ({"registers": 60, "spills": 0}, []),
        ({"spills": 3}, ["copy wide on sm_90: spills 2 became 3"]),
        ({"shared_bytes": 1025}, ["copy wide on sm_90: shared_bytes 1024 became 1025"]),
        ({"loads": {32: 2, 128: 9}}, ["copy wide on sm_90: vector_share 0.9 became 0.818"]),
        ({"target": "sm_80"}, ["copy wide on sm_80: is not recorded"]),
    ],
)
def test_each_number_that_gets_worse_is_named(change, words):
    assert regressions([verdict(**change)], record([verdict()])) == words


def test_a_case_that_no_longer_compiles_is_a_regression():
    gone = Verdict(verdict().case, "sm_90", None, ("does not compile: why",))
    assert regressions([gone], record([verdict()])) == ["copy wide on sm_90: does not compile"]


def test_the_summary_shows_the_worst_of_each_kernel_what_is_broken_and_why_a_budget_is_loose():
    verdicts = [verdict(), verdict("copy narrow", registers=90, loads={32: 1}), verdict("move it", registers=200)]
    cases = [*(found.case for found in verdicts), Case("new one", nothing_kernel, {})]
    lines = summary(cases, "sm_90", record([*verdicts, verdict(target="sm_80", registers=101)])).splitlines()
    assert lines[2:5] == [
        "| copy | 2 | 100 | 2 | 1024 | 0% | 1 |",
        "| move | 1 | 200 | 2 | 1024 | 90% | 1 |",
        "| new | 1 | 0 | 0 | 0 | 0% | 1 |",
    ]
    assert "- copy narrow: 0% of accesses 128 bits wide of at least 70%" in lines
    assert "- move it: 200 registers of at most 168" in lines
    assert "- new one: is not recorded" in lines
    assert lines[-1] == "- copy, move: spills 4, because an address"


def test_the_oldest_triton_and_float64_have_records_of_their_own(monkeypatch):
    monkeypatch.setattr(triton, "__version__", "3.8.0")
    assert (record_name(), record_name(["float64"])) == ("kernel-assembly", "kernel-assembly-float64")
    monkeypatch.setattr(triton, "__version__", "3.6.0")
    assert (record_name(), record_name(["float64"])) == ("kernel-assembly-oldest", "kernel-assembly-oldest-float64")
