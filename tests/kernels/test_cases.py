import json
from pathlib import Path

import pytest
import triton

from fastnas_audit.assembly import TARGETS
from fastnas_audit.cases import cases_for, small_cases
from fastnas_audit.gate import judge
from fastnas_audit.record import regressions

pytestmark = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="the process compiles")

RESULTS = Path(__file__).parents[2] / "profiling" / "results"
RECORD = json.loads((RESULTS / "kernel-assembly.json").read_text())
# A target without a record is held to its budgets alone
RECORDED = sorted({target for targets in RECORD.values() for target in targets})
BY_KERNEL = {  # one of each kind that is quick to compile: a small kernel, a reduction, a matrix product, a shuffle
    "weighted_sum K=8 fp32",
    "pool_statistics c=16 stride=1 float32",
    "stage c=16 stride=1 normalised=1 backward=0 keep=1 edges=1 float32",
    "node c=4 k=4 stride=1 float32",
}


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_a_case_gives_every_argument_a_type_or_a_value_and_a_name_of_its_own(target):
    cases = cases_for(target)
    for case in cases:
        assert sorted([*case.signature, *case.constants]) == sorted(case.kernel.arg_names)
        assert set(case.divisible_by_16) <= set(case.signature)
    assert len({case.name for case in cases}) == len(cases)


def test_pointers_of_the_small_kernels_are_aligned():
    for case in small_cases():
        kinds = {name: (kind,) if isinstance(kind, str) else kind for name, kind in case.signature.items()}
        pointers = {name for name, parts in kinds.items() if parts[0].startswith("*")}
        assert pointers <= set(case.divisible_by_16)


@pytest.mark.parametrize("target", RECORDED)
def test_every_case_is_recorded(target):
    missing = [case.name for case in cases_for(target) if target not in RECORD.get(case.name, {})]
    assert missing == [], "run profiling/kernel_assembly.py --write"


def verdicts_on(target, names=None):
    wanted = [case for case in cases_for(target) if names is None or case.name in names]
    return judge(wanted, [target], processes=1 if names else 2)  # few are compiled while another process starts


def worse_than_recorded(verdicts, target):
    """By the compiler that made the record: another one makes other code of the same kernel."""
    same = f"Triton {triton.__version__}," in (RESULTS / f"kernel-assembly-{target}.md").read_text()
    return regressions(verdicts, RECORD) if same else []


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_a_few_cases_keep_to_their_budgets_and_are_no_worse_than_recorded(target):
    verdicts = verdicts_on(target, BY_KERNEL)
    assert len(verdicts) == len(BY_KERNEL)
    assert [(verdict.case.name, verdict.violations) for verdict in verdicts if verdict.violations] == []
    assert target not in RECORDED or worse_than_recorded(verdicts, target) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_all_cases_keep_to_their_budgets_and_are_no_worse_than_recorded(target):
    verdicts = verdicts_on(target)
    assert [(verdict.case.name, verdict.violations) for verdict in verdicts if verdict.violations] == []
    assert target not in RECORDED or worse_than_recorded(verdicts, target) == []
