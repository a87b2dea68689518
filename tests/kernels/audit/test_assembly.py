import pytest
import triton
import triton.language as tl

from fastnas_audit.assembly import TARGETS, Assembly, compile_for
from fastnas_audit.elsewhere import Failure, Job, Reference, assemblies, reference


@triton.constexpr_function
def twice(n):
    return 2 * n


@triton.jit
def centred(x, n: tl.constexpr):
    return twice(n) * (x - tl.sum(x, axis=0) / n)


@triton.jit
def good_kernel(x_ptr, y_ptr, o_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    y = tl.load(y_ptr + i, mask=mask)
    tl.store(o_ptr + i, centred(tl.load(x_ptr + i, mask=mask), BLOCK) * y + 1.5, mask=mask)


@triton.jit
def gram_kernel(a_ptr, o_ptr, M: tl.constexpr, K: tl.constexpr):
    row, inner = tl.arange(0, M), tl.arange(0, K)
    a = tl.load(a_ptr + row[:, None] * K + inner[None, :])
    tl.store(o_ptr + row[:, None] * M + row[None, :], tl.dot(a, tl.trans(a)))


@triton.jit
def count_kernel(x_ptr, o_ptr, BLOCK: tl.constexpr):
    tl.atomic_add(o_ptr, tl.sum(tl.load(x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int32)))


@triton.jit
def sum_kernel(xs, o_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(o_ptr + i, tl.load(xs[0] + i, mask=i < n) + tl.load(xs[1] + i, mask=i < n), mask=i < n)


@triton.jit
def refused_kernel(x_ptr, N: tl.constexpr):
    tl.static_assert(N > 3, "too few of them")
    tl.store(x_ptr, N)


def jobs(targets, kernel, signature, constants, divisible_by_16=None):
    return [Job(reference(kernel), signature, target, constants, divisible_by_16=divisible_by_16) for target in targets]


GOOD = {"x_ptr": "*fp32", "y_ptr": "*fp32", "o_ptr": "*fp32", "n": "i32"}

PAIR = {"xs": ("*fp32", "*bf16"), "o_ptr": "*fp32", "n": "i32"}

FEW = ["sm_90", "gfx942"]  # one of each make, where the others would tell nothing new


@pytest.fixture(scope="module")
def compiled():
    """Everything that the tests look at, from two processes."""
    gram = {"a_ptr": "*bf16", "o_ptr": "*fp32"}
    wanted = {
        "good": jobs(TARGETS, good_kernel, GOOD, {"BLOCK": 1024}, ["x_ptr", "y_ptr", "o_ptr", "n"]),
        "scalar": jobs(FEW, good_kernel, GOOD, {"BLOCK": 1024}, []),
        "small": jobs(TARGETS, gram_kernel, gram, {"M": 32, "K": 32}),
        "large": jobs(["sm_90"], gram_kernel, gram, {"M": 256, "K": 16}),
        "bytes": jobs(FEW, count_kernel, {"x_ptr": "*i8", "o_ptr": "*i32"}, {"BLOCK": 128}, []),
        "tuple": jobs(FEW, sum_kernel, PAIR, {"BLOCK": 512}, ["xs", "o_ptr", "n"]),
        "loose tuple": jobs(["gfx942"], sum_kernel, PAIR, {"BLOCK": 512}, ["o_ptr", "n"]),
        "refused": jobs(["sm_90"], refused_kernel, {"x_ptr": "*i32"}, {"N": 3}),
    }
    results = iter(assemblies([job for part in wanted.values() for job in part]))
    return {name: {job.target: next(results) for job in part} for name, part in wanted.items()}


@pytest.mark.parametrize("target", TARGETS)
def test_a_kernel_with_helpers_compiles_although_this_process_interprets(compiled, target):
    code = compiled["good"][target]
    assert isinstance(code, Assembly)
    assert (code.kernel, code.target, code.spills, code.spill_bytes) == ("good_kernel", target, 0, 0)
    # 1024 elements for the 128 threads of four warps, or the 256 of four wavefronts, in accesses of four elements
    accesses = 1 if target == "gfx942" else 2
    assert (code.loads, code.stores) == ({128: 2 * accesses}, {128: accesses})
    assert code.vector_share == 1
    assert code.ffma in (4 * accesses, 8 * accesses)  # `· y + 1.5`, and where it pays `x − sum / n`
    assert 1 <= code.barriers <= 4
    assert 8 <= code.registers <= 64
    assert 0 < code.shared_bytes <= 1024
    assert (code.matrix, code.atomics) == (0, 0)
    assert code.num_bytes > code.instructions > 40


@pytest.mark.parametrize("target", FEW)
def test_without_a_promise_of_alignment_accesses_are_scalar(compiled, target):
    code = compiled["scalar"][target]
    accesses = 4 if target == "gfx942" else 8
    assert (code.loads, code.stores, code.vector_share) == ({32: 2 * accesses}, {32: accesses}, 0)


@pytest.mark.parametrize("target", TARGETS)
def test_a_dot_becomes_matrix_instructions(compiled, target):
    assert compiled["small"][target].matrix > 0


def test_a_tile_that_does_not_fit_spills(compiled):
    code = compiled["large"]["sm_90"]
    assert code.registers == 255  # all that there are
    assert code.spills > 100
    assert code.spill_bytes > 1000


@pytest.mark.parametrize("target", FEW)
def test_bytes_and_atomics_are_counted(compiled, target):
    code = compiled["bytes"][target]
    assert code.loads == {8: 1}
    assert code.atomics == 1


@pytest.mark.parametrize("target", FEW)
def test_the_elements_of_a_tuple_have_types_and_alignment(compiled, target):
    code = compiled["tuple"][target]
    accesses = {64: 1, 128: 1} if target == "sm_90" else {32: 1, 64: 1}  # four elements a thread there, two here
    assert code.loads == accesses
    assert sum(compiled["loose tuple"]["gfx942"].loads.values()) > 2


def test_what_the_compiler_refuses_is_a_failure_in_its_words(compiled):
    failure = compiled["refused"]["sm_90"]
    assert isinstance(failure, Failure)
    assert "too few of them" in failure.message


def test_what_does_not_fit_the_kernel_is_refused():
    message = r"^compile_for: signature and constants together must name each of \['x_ptr', 'N'\] once, got \['N'\]"
    with pytest.raises(ValueError, match=message):
        compile_for(refused_kernel, {}, {"N": 4}, "sm_90")
    message = r"^compile_for: divisible_by_16 must be among \['x_ptr'\], got \['N'\]"
    with pytest.raises(ValueError, match=message):
        compile_for(refused_kernel, {"x_ptr": "*i32"}, {"N": 4}, "sm_90", divisible_by_16=["N"])
    with pytest.raises(ValueError, match=r"^compile_for: target must be one of sm_80, .*, got sm_1"):
        compile_for(refused_kernel, {"x_ptr": "*i32"}, {"N": 4}, "sm_1")


def test_a_kernel_inside_of_a_function_is_refused():
    @triton.jit
    def hidden_kernel(x_ptr):
        tl.store(x_ptr, 1.0)

    with pytest.raises(ValueError, match=r"^reference: kernel must stand at the top of a module.*got .*hidden_kernel"):
        reference(hidden_kernel)


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="the process compiles")
def test_an_interpreted_kernel_is_refused_with_the_way_out():
    message = r"^compile_for: kernel must be what triton.jit returns where it compiles, got InterpretedFunction\. Unset"
    with pytest.raises(RuntimeError, match=message):
        compile_for(refused_kernel, {"x_ptr": "*i32"}, {"N": 4}, "sm_90")


KERNEL = """
import triton, triton.language as tl

@triton.jit
def store_kernel(x_ptr, N: tl.constexpr):
    tl.store(x_ptr, N)

if __name__ == "__main__":
    raise SystemExit("a script of which only the kernel is wanted")
"""


def job_in(file, text, module):
    file.write_text(text)
    return Job(Reference(module, str(file), "store_kernel"), {"x_ptr": "*i32"}, "sm_90", {"N": 4})


def test_a_script_may_ask_and_a_crash_of_the_compiler_is_a_failure_of_its_kernel_alone(tmp_path):
    fine = job_in(tmp_path / "script.py", KERNEL, "__main__")
    crash = job_in(tmp_path / "crash.py", "import os; os.abort()", "crash")
    first, second, third = assemblies([fine, crash, fine], processes=1)
    assert isinstance(first, Assembly)
    assert isinstance(second, Failure)
    assert second.message.startswith("the compiler crashed with signal 6")
    assert third == first


def test_a_file_that_cannot_be_imported_is_an_error(tmp_path):
    job = job_in(tmp_path / "broken.py", "import no_such_module_anywhere", "broken")
    with pytest.raises(RuntimeError, match=r"(?s)^assemblies: the compiling process must succeed.*no_such_module_any"):
        assemblies([job], processes=1)
