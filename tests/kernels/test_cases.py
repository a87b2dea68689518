import pytest

from fastnas_kernels.cases import cases

CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_gives_every_argument_a_type_or_a_value(case):
    assert sorted([*case.signature, *case.constants]) == sorted(case.kernel.arg_names)
    assert set(case.divisible_by_16) <= set(case.signature)
    assert bool(case.reason) == (case.vector_share < 0.7)


def test_names_tell_cases_apart():
    assert len({case.name for case in CASES}) == len(CASES)
