import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

from fastnas_audit.meter import Meter, OutOfBounds, Traffic

pytestmark = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="watches the interpreter, which is off")


@triton.jit
def scale_kernel(x_ptr, o_ptr, n, last, stride, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(o_ptr + i, 2 * tl.load(x_ptr + i * stride, mask=i < last), mask=i < n)


@triton.jit
def scale_in_place_kernel(x_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + i, 2 * tl.load(x_ptr + i, mask=i < n), mask=i < n)


@triton.jit
def first_row_kernel(x_ptr, o_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(o_ptr + i, tl.load(x_ptr + tl.program_id(0) * BLOCK + i))


@triton.jit
def halves_kernel(o_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(o_ptr + i // 2, i)


@triton.jit
def shift_kernel(x_ptr, step, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + BLOCK + i, tl.load(x_ptr + BLOCK + i + step * BLOCK))


@triton.jit
def sum_kernel(x_ptr, o_ptr, BLOCK: tl.constexpr):
    x = tl.load(x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))
    tl.atomic_add(o_ptr, tl.sum(x))


@triton.jit
def parity_kernel(o_ptr, BLOCK: tl.constexpr):
    tl.atomic_add(o_ptr + tl.arange(0, BLOCK) % 2, 1.0)


@triton.jit
def sum_and_look_kernel(x_ptr, o_ptr, BLOCK: tl.constexpr):
    tl.atomic_add(o_ptr, tl.sum(tl.load(x_ptr + tl.arange(0, BLOCK))))
    tl.store(x_ptr + BLOCK + tl.program_id(0), tl.load(o_ptr))


@triton.jit
def sum_and_overwrite_kernel(x_ptr, o_ptr, BLOCK: tl.constexpr):
    total = tl.sum(tl.load(x_ptr + tl.arange(0, BLOCK)))
    if tl.program_id(0) == 0:
        tl.atomic_add(o_ptr, total)
    else:
        tl.store(o_ptr, total)


@triton.jit
def address_kernel(address):
    tl.store(address.to(tl.pointer_type(tl.float32)), 1.0)


@triton.jit
def reread_kernel(x_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x_ptr + i, tl.load(x_ptr + i) + 1)
    tl.store(x_ptr + i, tl.load(x_ptr + BLOCK - 1 - i))


@triton.jit
def reload_helper(x_ptr, i):
    return tl.load(x_ptr + i)


@triton.jit
def twice_kernel(x_ptr, o_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    total = reload_helper(x_ptr, i) + reload_helper(x_ptr, i)
    tl.store(o_ptr + tl.program_id(0) * BLOCK + i, total)


@triton.jit
def bytes_kernel(x_ptr, o_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(o_ptr + i, tl.load(x_ptr.to(tl.pointer_type(tl.int8)) + i))


@triton.jit
def table_kernel(addresses_ptr, o_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x_ptr = tl.load(addresses_ptr + tl.program_id(0)).to(tl.pointer_type(tl.float32))
    tl.store(o_ptr + tl.program_id(0) * BLOCK + i, tl.load(x_ptr + i))


@triton.jit
def pair_kernel(pair, o_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(o_ptr + i, tl.load(pair[0] + i) + tl.load(pair[1] + i))


@triton.jit
def dot_kernel(a_ptr, o_ptr, M: tl.constexpr, K: tl.constexpr):
    row, inner = tl.arange(0, M), tl.arange(0, K)
    a = tl.load(a_ptr + row[:, None] * K + inner[None, :])
    tl.store(o_ptr + row[:, None] * M + row[None, :], tl.dot(a, tl.trans(a)))


@triton.jit
def failing_kernel(x_ptr):
    tl.static_assert(False, "never right")


def scale(x, n=None, last=None, stride=1, block=256):
    n = x.numel() if n is None else n
    out = torch.full((n,), float("nan"))
    scale_kernel[(triton.cdiv(n, block),)](x, out, n, n if last is None else last, stride, BLOCK=block)
    return out


def test_a_good_kernel_moves_exactly_its_floor():
    x = torch.randn(1000)
    with Meter() as meter:
        out = scale(x)
    assert torch.equal(out, 2 * x)
    assert meter.of("scale_kernel") == Traffic(
        "scale_kernel",
        launches=1,
        programs=4,
        read_bytes=4000,
        written_bytes=4000,
        read_sectors=125,
        written_sectors=125,
        program_bytes=8000,
        program_sectors=250,
        requested_bytes=8000,
    )
    assert meter.total.over_floor(8000) == 1


def test_a_mask_that_is_one_too_long_is_caught_with_place_and_program():
    message = (
        r"^scale_kernel: every read must stay inside the arguments, got 1 of \d+ lanes outside in program "
        r"\(3, 0, 0\), the first 1 element beyond the end of x_ptr\. Check"
    )
    x = torch.randn(2000)[:1000]  # the storage goes on, so that nothing would crash
    with Meter(), pytest.raises(OutOfBounds, match=message):
        scale(x, last=1001)


def test_an_access_before_the_start_is_caught():
    x = torch.randn(64)
    with Meter(), pytest.raises(OutOfBounds, match="32 elements before the start of x_ptr"):
        shift_kernel[(1,)](x[32:], -2, BLOCK=32)


def test_an_access_far_outside_of_every_storage_is_caught():
    with Meter(), pytest.raises(OutOfBounds, match=r"elements (beyond the end|before the start) of (x|o)_ptr"):
        scale(torch.randn(1000), stride=10**8)


def test_the_gaps_of_a_view_do_not_belong_to_it():
    x = torch.randn(64, 32)
    with Meter() as meter:
        assert torch.equal(scale(x[:, :1], n=64, stride=32), 2 * x[:, 0])
    assert meter.total.read_bytes == 4 * 64
    with Meter(), pytest.raises(OutOfBounds, match="between the elements of x_ptr, a view with gaps"):
        scale(x[:, :1], n=64, stride=1)


def test_an_argument_of_an_earlier_launch_is_outside_of_this_one():
    x = torch.randn(2, 32)
    with Meter() as meter:
        shift_kernel[(1,)](x, 0, BLOCK=32)
        with pytest.raises(OutOfBounds, match="1 element beyond the end of x_ptr"):
            shift_kernel[(1,)](x[0], 0, BLOCK=32)
    assert meter.of("shift_kernel").launches == 1


def test_a_strided_read_fills_sectors_that_it_does_not_use():
    x = torch.randn(16 * 1000)
    with Meter() as meter:
        scale(x, n=1000, stride=16)
    traffic = meter.total
    assert (traffic.read_bytes, traffic.read_sectors) == (4000, 1000)  # each element in a sector of its own
    assert traffic.over_floor(8000) == (32 * 1000 + 4000) / 8000


def test_in_place_is_no_conflict():
    x = torch.ones(1000)
    with Meter() as meter:
        scale_in_place_kernel[(4,)](x, 1000, BLOCK=256)
    assert (x == 2).all()
    traffic = meter.total
    assert (traffic.read_bytes, traffic.written_bytes) == (4000, 4000)
    assert (traffic.write_races, traffic.order_dependences, traffic.own_rereads, traffic.conflict) == (0, 0, 0, "")


def test_programs_that_write_the_same_elements_race_in_every_one():
    x, out = torch.randn(3, 1024), torch.empty(1024)
    with Meter() as meter:
        first_row_kernel[(3,)](x, out, BLOCK=1024)
    assert meter.total.write_races == 2 * 1024
    assert meter.total.conflict == (
        "first_row_kernel, program (1, 0, 0): 1024 elements written although another program writes them, too"
    )


def test_the_same_elements_in_another_launch_are_no_race():
    x, out = torch.randn(1, 64), torch.empty(64)
    with Meter() as meter:
        for _ in range(2):
            first_row_kernel[(1,)](x, out, BLOCK=64)
    assert (meter.total.launches, meter.total.write_races) == (2, 0)


def test_two_lanes_of_one_store_race():
    with Meter() as meter:
        halves_kernel[(1,)](torch.empty(32, dtype=torch.int32), BLOCK=64)
    assert meter.total.write_races == 32
    assert "several lanes of one store" in meter.total.conflict


@pytest.mark.parametrize(("step", "words"), [(-1, "read what another"), (1, "written after another")])
def test_a_neighbour_that_another_program_overwrites_is_an_order_dependence_either_way(step, words):
    with Meter() as meter:
        shift_kernel[(4,)](torch.zeros(6 * 32), step, BLOCK=32)
    assert (meter.total.write_races, meter.total.order_dependences) == (0, 3 * 32)
    assert words in meter.total.conflict


def test_atomics_of_several_programs_do_not_race():
    x, out = torch.ones(4 * 32), torch.zeros(1)
    with Meter() as meter:
        sum_kernel[(4,)](x, out, BLOCK=32)
    assert out.item() == 128
    traffic = meter.total
    assert (traffic.write_races, traffic.order_dependences, traffic.written_bytes) == (0, 0, 4)
    assert traffic.read_bytes == 4 * 129


def test_lanes_of_one_atomic_do_not_race():
    out = torch.zeros(2)
    with Meter() as meter:
        parity_kernel[(1,)](out, BLOCK=32)
    assert out.tolist() == [16, 16]
    assert (meter.total.write_races, meter.total.written_bytes, meter.total.requested_bytes) == (0, 8, 128)


def test_a_look_at_what_others_add_to_is_an_order_dependence():
    with Meter() as meter:
        sum_and_look_kernel[(3,)](torch.ones(64), torch.zeros(1), BLOCK=32)
    # programs 1 and 2 read after others have added; 1 and 2 add after others have read
    assert meter.total.order_dependences == 4


def test_a_store_over_what_another_program_adds_to_is_a_race():
    with Meter() as meter:
        sum_and_overwrite_kernel[(2,)](torch.ones(32), torch.zeros(1), BLOCK=32)
    assert (meter.total.write_races, meter.total.order_dependences) == (1, 0)


def test_without_any_tensor_every_access_is_outside():
    with Meter(), pytest.raises(OutOfBounds, match=r"1 of 1 lanes outside in program .*and no argument has an element"):
        address_kernel[(1,)](torch.zeros(1).data_ptr())


def test_a_program_that_reads_what_it_wrote_needs_a_barrier():
    with Meter() as meter:
        reread_kernel[(1,)](torch.zeros(32), BLOCK=32)
    assert (meter.total.own_rereads, meter.total.conflict) == (32, "")


def test_caches_see_what_each_program_and_each_lane_asks_for():
    x, out = torch.randn(64), torch.empty(4 * 64)
    with Meter() as meter:
        twice_kernel[(4,)](x, out, BLOCK=64)
    traffic = meter.total
    assert traffic.dram_bytes == 4 * (64 + 4 * 64)
    assert traffic.program_bytes == 4 * (4 * 64 + 4 * 64)
    assert traffic.requested_bytes == 4 * (2 * 4 * 64 + 4 * 64)


def test_a_pointer_seen_as_a_smaller_type_is_counted_in_its_size():
    x, out = torch.arange(8, dtype=torch.int32), torch.empty(10, dtype=torch.int8)
    with Meter() as meter:
        bytes_kernel[(1,)](x, out[:8], BLOCK=8)
    assert (meter.total.read_bytes, meter.total.written_bytes) == (8, 8)


def test_tensors_behind_addresses_must_be_named():
    x, out = torch.randn(2, 32), torch.empty(2, 32)
    addresses = torch.tensor([row.data_ptr() for row in x])
    with Meter(), pytest.raises(OutOfBounds):
        table_kernel[(2,)](addresses, out, BLOCK=32)
    with Meter(reachable=[x]) as meter:
        table_kernel[(2,)](addresses, out, BLOCK=32)
    assert torch.equal(out, x)
    assert meter.total.read_bytes == 2 * 8 + 2 * 32 * 4


def test_tensors_in_a_tuple_are_arguments():
    a, b, out = torch.randn(3, 32)
    with Meter() as meter:
        pair_kernel[(1,)]((a, b), out, BLOCK=32)
    assert torch.equal(out, a + b)
    assert meter.total.read_bytes == 2 * 32 * 4


def test_a_dot_counts_two_operations_a_multiplication():
    with Meter() as meter:
        dot_kernel[(1,)](torch.randn(16, 32), torch.empty(16, 16), M=16, K=32)
    assert meter.total.dot_flops == 2 * 16 * 16 * 32


def test_kernels_are_told_apart_by_name():
    x = torch.randn(64)
    with Meter() as meter:
        scale(x)
        scale_in_place_kernel[(1,)](x, 64, BLOCK=64)
        scale(x)
    assert meter.kernels == ("scale_kernel", "scale_in_place_kernel")
    assert [meter.of(name).launches for name in (*meter.kernels, "other")] == [2, 1, 0]
    assert (meter.total.kernel, meter.total.launches, meter.total.dram_bytes) == ("*", 3, 3 * 512)


def test_nothing_stays_watched_and_a_kernels_own_error_comes_through():
    before = dict(vars(InterpreterBuilder)), dict(vars(GridExecutor))
    with pytest.raises(InterpreterError, match="never right"), Meter():
        failing_kernel[(1,)](torch.zeros(1))
    assert (dict(vars(InterpreterBuilder)), dict(vars(GridExecutor))) == before
    assert scale(torch.randn(2000)[:1000], last=1001).shape == (1000,)


def test_a_meter_needs_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    message = r"^Meter: Triton must interpret kernels, got compiled ones\. Set TRITON_INTERPRET=1"
    with pytest.raises(RuntimeError, match=message), Meter():
        pass
