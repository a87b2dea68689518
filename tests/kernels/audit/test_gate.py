from dataclasses import replace

import pytest
import triton
import triton.language as tl

from fastnas_audit.assembly import TARGETS, Assembly
from fastnas_audit.gate import Budget, Case, Verdict, judge, markdown, violations

GOOD = Assembly(
    kernel="k",
    target="sm_90",
    registers=168,
    spills=0,
    spill_bytes=0,
    shared_bytes=227 * 1024,
    loads={32: 3, 128: 5},
    stores={128: 2},
    scalars=0,
    barriers=1,
    ffma=64,
    matrix=0,
    atomics=0,
    instructions=200,
    num_bytes=9000,
)


@triton.jit
def add_kernel(x_ptr, o_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(o_ptr + i, tl.load(x_ptr + i, mask=i < n) + 1, mask=i < n)


@triton.jit
def centre_kernel(x_ptr, o_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    tl.store(o_ptr + i, x - tl.sum(x, 0))  # all of x at once


SIGNATURE = {"x_ptr": "*bf16", "o_ptr": "*bf16", "n": "i32"}
CASES = [
    Case("good", add_kernel, SIGNATURE, {"BLOCK": 2048}, divisible_by_16=["x_ptr", "o_ptr", "n"]),
    Case("scalar", add_kernel, SIGNATURE, {"BLOCK": 2048}),
    Case("wrong", add_kernel, SIGNATURE, {"BLOCK": 2000}),
]
FEW = ["sm_90", "gfx942"]  # one of each make, where the others would tell nothing new
SPILLING = Case("spilling", centre_kernel, {"x_ptr": "*fp32", "o_ptr": "*fp32"}, {"BLOCK": 8192}, num_warps=1)


@pytest.fixture(scope="module")
def verdicts():
    cases = [*CASES, SPILLING, replace(SPILLING, name="limited", maxnreg=128)]
    return {(verdict.case.name, verdict.target): verdict for verdict in judge(cases, processes=1)}


@pytest.mark.parametrize("target", TARGETS)
def test_a_good_kernel_passes_everywhere(verdicts, target):
    assert verdicts["good", target].violations == ()


@pytest.mark.parametrize("target", FEW)
def test_scalar_accesses_fail(verdicts, target):
    # `n` may be odd, so that each element has a mask of its own
    assert verdicts["scalar", target].violations == ("0% of accesses 128 bits wide of at least 70%",)


def test_a_spilling_kernel_fails(verdicts):
    assert any(" spills (" in words for words in verdicts["spilling", "sm_90"].violations)


def test_a_case_may_limit_the_registers(verdicts):
    limited, free = verdicts["limited", "sm_90"], verdicts["spilling", "sm_90"]
    assert limited.assembly.registers <= 128 < free.assembly.registers
    assert limited.assembly.spills > free.assembly.spills


@pytest.mark.parametrize("target", FEW)
def test_a_kernel_that_does_not_compile_fails(verdicts, target):
    verdict = verdicts["wrong", target]
    assert verdict.assembly is None
    assert "power of 2" in verdict.violations[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"registers": 169}, ["169 registers of at most 168"]),
        ({"spills": 2, "spill_bytes": 16}, ["2 spills (16 bytes) of at most 0"]),
        ({"spill_bytes": 8}, ["0 spills (8 bytes) of at most 0"]),
        ({"shared_bytes": 227 * 1024 + 1}, ["232449 bytes of shared memory of at most 232448"]),
        ({"target": "gfx942"}, ["232448 bytes of shared memory of at most 65536"]),
        ({"loads": {32: 4, 128: 4}}, ["60% of accesses 128 bits wide of at least 70%"]),
        ({"loads": {32: 1, 256: 5}}, []),
        ({"loads": {}, "stores": {}}, []),
    ],
)
def test_each_limit_is_kept_at_its_value_and_broken_above(change, words):
    assert violations(replace(GOOD, **change), Budget()) == words


def test_a_budget_may_be_tighter_without_a_word():
    tight = Budget(registers=64, shared_bytes=48 * 1024, vector_share=0.8)
    assert len(violations(GOOD, tight)) == 3


def test_a_looser_budget_needs_a_reason_and_holds_where_it_is_meant():
    message = r"^Budget: reasons must say why for exactly the fields looser .*\['registers'\], got \[\]"
    with pytest.raises(ValueError, match=message):
        Budget(registers=200)
    with pytest.raises(ValueError, match="every reason must have words"):
        Budget(registers=200, reasons={"registers": ""})
    with pytest.raises(ValueError, match=r"\[\], got \['spills'\]"):
        Budget(reasons={"spills": "none left"})
    loose = Budget(
        registers=200, spills=9, vector_share=0.1, reasons=dict.fromkeys(["registers", "spills", "vector_share"], "x")
    )
    assert violations(replace(GOOD, registers=200, spills=9, spill_bytes=64, loads={32: 9}), loose) == []
    case = Case("k", add_kernel, SIGNATURE, exceptions={"gfx942": loose})
    assert (case.budget_on("gfx942"), case.budget_on("sm_90")) == (loose, Budget())


def test_unknown_targets_are_refused():
    with pytest.raises(ValueError, match=r"^judge: targets must be among .*, got \['sm_1'\]"):
        judge(CASES, ["sm_1"])
    with pytest.raises(ValueError, match=r"^Case k: exceptions must be for targets among .*, got \['sm_1'\]"):
        Case("k", add_kernel, SIGNATURE, exceptions={"sm_1": Budget()})


def test_the_table_shows_numbers_verdicts_and_reasons():
    loose = Budget(registers=200, reasons={"registers": "two tiles at once"})
    fine = Verdict(Case("fine", add_kernel, SIGNATURE, budget=loose), "sm_90", GOOD, ())
    bad = Verdict(Case("bad|case", add_kernel, SIGNATURE), "sm_90", None, ("does not compile: a |\nb",))
    assert markdown([fine, bad]).splitlines() == [
        "| case | target | registers | spills | shared | 128 bits | FFMA | matrix | barriers | atomics | instructions"
        " | bytes | verdict |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        "| fine | sm_90 | 168 | 0 | 232448 | 70% | 64 | 0 | 1 | 0 | 200 | 9000 | ok |",
        r"| bad\|case | sm_90 | – | – | – | – | – | – | – | – | – | – | does not compile: a \| b |",
        "",
        "Exceptions:",
        "",
        "- fine on sm_90, registers 200: two tiles at once",
    ]
