import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, interpreter_builder

from fastnas_audit.offsets import Reach, last_programs

pytestmark = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="uses the interpreter, which is off")
BLOCK = 1024


@triton.jit
def narrow_kernel(x_ptr, o_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(o_ptr + i, tl.load(x_ptr + i, mask=i < n), mask=i < n)


@triton.jit
def wide_kernel(x_ptr, o_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(o_ptr + i, tl.load(x_ptr + i, mask=i < n, other=1.0), mask=i < n)


@triton.jit
def update_kernel(x_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tl.device_assert(tl.load(x_ptr + i) == 1)
    tl.atomic_add(x_ptr + i, 1)
    tl.atomic_add(x_ptr, 1)
    tl.atomic_cas(x_ptr, tl.load(x_ptr + tl.num_programs(1) * BLOCK), 7)


def launch(kernel, n):
    x = torch.zeros(1)
    kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, x, n, BLOCK=BLOCK)
    return x


def test_the_last_program_of_two_billion_elements_is_looked_at_in_a_moment():
    with last_programs() as reaches:
        x = launch(wide_kernel, 2**31 + 5)
    assert reaches == [Reach("wide_kernel", (2**21, 0, 0), 2**31 + BLOCK - 1)]
    assert x.item() == 0


def test_an_index_that_outgrows_its_type_is_found():
    message = r"^narrow_kernel: every index must fit in its type, got an int32 overflow detected for operation mul in "
    with last_programs(), pytest.raises(OverflowError, match=message + r"program \(2097152, 0, 0\)"):
        launch(narrow_kernel, 2**31 + 5)


def test_an_index_that_just_fits_is_left_alone():
    with last_programs() as reaches:
        launch(narrow_kernel, 2**31 - 1)
    assert reaches[0].largest_offset == 2**31 - 1


def test_other_axes_atomics_and_the_kernels_own_assertions_do_not_hinder():
    x = torch.zeros(1, dtype=torch.int32)
    with last_programs() as reaches:
        update_kernel[(3, 1000)](x, BLOCK=32)
    assert reaches == [Reach("update_kernel", (2, 999, 0), 32_000)]
    assert x.item() == 0


def test_all_is_as_before_once_it_ends():
    before = dict(vars(InterpreterBuilder)), dict(vars(GridExecutor)), interpreter_builder.options
    with pytest.raises(OverflowError), last_programs():
        launch(narrow_kernel, 2**31 + 5)
    assert (dict(vars(InterpreterBuilder)), dict(vars(GridExecutor)), interpreter_builder.options) == before
