import json
from pathlib import Path

import pytest
import torch
import triton

from fastnas_audit.assembly import TARGETS
from fastnas_audit.cases import cases_for, small_cases
from fastnas_audit.gate import judge
from fastnas_audit.record import record_name, regressions

pytestmark = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="the process compiles")

RESULTS = Path(__file__).parents[2] / "profiling" / "results"
EXACT = ("float64",)
# What every Triton is asked to compile; a target without a record is held to its budgets alone
RECORDS = {name: json.loads((RESULTS / f"{name}.json").read_text())
           for name in ("kernel-assembly", "kernel-assembly-oldest", "kernel-assembly-float64")}  # fmt: skip
RECORDED = [
    (name, target)
    for name, record in RECORDS.items()
    for target in sorted({target for targets in record.values() for target in targets})
]
BY_KERNEL = {  # one of each kind that is quick to compile: a small kernel, a reduction, a matrix product, a shuffle
    "weighted_sum K=8 fp32",
    "pool_statistics c=16 stride=1 float32",
    "stage c=16 stride=1 normalised=1 backward=0 keep=1 t=0 edges=1 abreast=4 float32",
    "node c=4 k=4 stride=1 float32",
}
EXACT_BY_KERNEL = {"stage c=8 stride=1 normalised=1 backward=0 keep=1 t=0 edges=1 abreast=4 float64"}


def cases_of(target, dtypes=()):
    return cases_for(target, [getattr(torch, dtype) for dtype in dtypes])


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


@pytest.mark.parametrize(("name", "target"), RECORDED)
def test_every_case_is_recorded(name, target):
    cases = cases_of(target, EXACT if name.endswith("float64") else ())
    missing = [case.name for case in cases if target not in RECORDS[name].get(case.name, {})]
    assert missing == [], "run profiling/kernel_assembly.py --write"


def verdicts_on(target, dtypes, names=None):
    wanted = [case for case in cases_of(target, dtypes) if names is None or case.name in names]
    return judge(wanted, [target], processes=1 if names else 2)  # few are compiled while another process starts


def worse_than_recorded(verdicts, target, dtypes):
    """By the compiler that made the record: another one makes other code of the same kernel."""
    name = record_name(dtypes)
    if (name, target) not in RECORDED:
        return []
    same = f"Triton {triton.__version__}," in (RESULTS / f"{name}-{target}.md").read_text()
    return regressions(verdicts, RECORDS[name]) if same else []


@pytest.mark.parametrize(
    ("target", "dtypes", "names"),
    [("sm_90", (), BY_KERNEL), ("gfx942", (), BY_KERNEL), ("sm_90", EXACT, EXACT_BY_KERNEL)],
)
def test_a_few_cases_keep_to_their_budgets_and_are_no_worse_than_recorded(target, dtypes, names):
    verdicts = verdicts_on(target, dtypes, names)
    assert len(verdicts) == len(names)
    assert [(verdict.case.name, verdict.violations) for verdict in verdicts if verdict.violations] == []
    assert worse_than_recorded(verdicts, target, dtypes) == []


@pytest.mark.slow
@pytest.mark.parametrize(("target", "dtypes"), [*((target, ()) for target in TARGETS), ("sm_90", EXACT)])
def test_all_cases_keep_to_their_budgets_and_are_no_worse_than_recorded(target, dtypes):
    verdicts = verdicts_on(target, dtypes)
    assert [(verdict.case.name, verdict.violations) for verdict in verdicts if verdict.violations] == []
    assert worse_than_recorded(verdicts, target, dtypes) == []
