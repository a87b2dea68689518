import pytest
import torch
import triton
import triton.language as tl

from fastnas_audit.recorder import case_of, recorded, same_code

pytestmark = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="the process compiles")


@triton.jit(do_not_specialize=("first",))
def scale_kernel(xs, y_ptr, n, first, factor, bias_ptr, BLOCK: tl.constexpr, FLAG: tl.constexpr = False):
    i = first + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(xs[0] + i, mask=i < n) * factor, mask=i < n)


def launched(x, n=32, first=16, **options):
    y = torch.full((64,), 7.0)
    with recorded() as launches:
        scale_kernel[2, 3]((x, y), y, n, first, 0.5, bias_ptr=None, BLOCK=16, **options)
    assert (y == 7).all()
    (launch,) = launches
    return launch


def test_a_launch_is_written_down_and_not_run():
    launch = launched(torch.ones(64), num_warps=2)
    assert (launch.kernel, launch.name, launch.grid) == (scale_kernel, "scale_kernel", (2, 3))
    assert dict(launch.options) == {"num_warps": 2}
    assert (launch.arguments["n"], launch.arguments["FLAG"]) == (32, False)


def test_outside_of_the_recording_kernels_run():
    launched(torch.ones(64))
    y = torch.zeros(16)
    scale_kernel[1,]((torch.ones(16),), y, 16, 0, 0.5, None, BLOCK=16)
    assert (y == 0.5).all()


def test_a_case_is_what_triton_would_compile():
    case = case_of(launched(torch.ones(64, dtype=torch.bfloat16), num_warps=2), "it")
    assert dict(case.signature) == {
        "xs": ("*bf16", "*fp32"),
        "y_ptr": "*fp32",
        "n": "i32",
        "first": "i32",
        "factor": "fp32",
    }
    assert dict(case.constants) == {"bias_ptr": None, "BLOCK": 16, "FLAG": False}
    assert case.divisible_by_16 == ("xs", "y_ptr", "n")  # nothing is known of `first`, which is a multiple as well
    assert (case.name, case.kernel, case.num_warps, case.num_stages) == ("it", scale_kernel, 2, None)


def test_one_is_a_constant_unless_the_kernel_says_otherwise():
    case = case_of(launched(torch.ones(64), n=1, first=1), "it")
    assert case.constants["n"] == 1
    assert case.signature["first"] == "i32"


def test_a_view_that_begins_anywhere_is_not_aligned():
    assert case_of(launched(torch.ones(65)[1:]), "it").divisible_by_16 == ("y_ptr", "n")


def test_cases_of_the_same_code_are_told_from_others():
    def code(*arguments, **options):
        return same_code(case_of(launched(*arguments, **options), "any"))

    x = torch.ones(64)
    assert code(x, n=32, first=1) == code(x, n=64, first=7)
    others = [code(x, n=33), code(x, n=1), code(x.double()), code(x, num_warps=8), code(x, FLAG=True)]
    others.append(code(x, maxnreg=64))
    assert len({code(x), *others}) == 7
