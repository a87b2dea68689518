import pytest
import torch

from fastnas_kernels.cpu import choice
from fastnas_kernels.cpu.compiler import NoCompiler
from fastnas_kernels.mixed_op import cell, derivative
from fastnas_kernels.mixed_op.definition import reference_cell
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan


def plan_of(kernel=3):
    return CellPlan(4, 1, 1, (EdgePlan(0, 1, (Candidate("skip"), Candidate("depthwise", kernel))),))


def arguments(plan, dtype=torch.float32):
    weights = [torch.randn(shape, dtype=dtype) for shapes in plan.weight_shapes.values() for shape in shapes]
    return [torch.randn(2, 4, 5, 5, dtype=dtype)], weights, torch.ones(2, dtype=dtype), None, plan


@pytest.fixture
def calls(monkeypatch):
    """How often a cell went through the kernels."""
    found = []
    monkeypatch.setattr(cell, "fused_cell", lambda *args: found.append(args) or derivative.fused_cell(*args))
    return found


@pytest.fixture
def forget():
    """Nothing is known of this machine's compiler, before and after."""
    caches = choice._failure, choice._warn_once
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cells_on_the_cpu_are_compiled_by_default(monkeypatch, calls, dtype):
    monkeypatch.delenv("FASTNAS_BACKEND", raising=False)
    given = arguments(plan_of(), dtype)
    mine, theirs = cell.mixed_cell(*given)[0], reference_cell(*given)[0]
    assert len(calls) == 1
    # A few dozen roundings of numbers of order one
    assert (mine - theirs).abs().max() <= 100 * torch.finfo(dtype).eps * theirs.abs().max()


@pytest.mark.parametrize(
    ("plan", "dtype", "reason"),
    [(plan_of(), torch.bfloat16, "states of torch.bfloat16"), (plan_of(17), torch.float32, "a filter of 17 pixels")],
)
def test_what_the_compiled_code_does_not_know_goes_to_the_definition(monkeypatch, calls, plan, dtype, reason):
    given = arguments(plan, dtype)
    monkeypatch.delenv("FASTNAS_BACKEND", raising=False)
    cell.mixed_cell(*given)
    assert not calls
    monkeypatch.setenv("FASTNAS_BACKEND", "cpu")
    with pytest.raises(RuntimeError, match=f"mixed_cell: FASTNAS_BACKEND=cpu must be able to .* got {reason}"):
        cell.mixed_cell(*given)


@pytest.mark.parametrize(("num_edges", "side", "compiled"), [(1, 5, 0), (2, 5, 1), (2, 91, 0)])
def test_a_sum_of_few_or_large_identities_is_left_to_pytorch_unless_forced(
    monkeypatch, calls, num_edges, side, compiled
):
    plan = CellPlan(4, 2, 1, tuple(EdgePlan(source, 2, (Candidate("skip"),)) for source in range(num_edges)))
    given = [torch.randn(2, 4, side, side) for _ in range(2)], [], torch.ones(num_edges), None, plan
    monkeypatch.delenv("FASTNAS_BACKEND", raising=False)
    cell.mixed_cell(*given)
    assert len(calls) == compiled
    monkeypatch.setenv("FASTNAS_BACKEND", "cpu")
    assert torch.equal(cell.mixed_cell(*given)[0], sum(given[0][1:num_edges], given[0][0]))
    assert len(calls) == compiled + 1


def test_without_a_compiler_the_definition_serves_and_a_warning_says_so_once(monkeypatch, calls, forget):
    def fail(real, channels, dual):
        raise NoCompiler("nothing compiles here")

    monkeypatch.setattr(choice, "prepare", fail)
    monkeypatch.delenv("FASTNAS_BACKEND", raising=False)
    given = arguments(plan_of())
    with pytest.warns(RuntimeWarning, match="a C.. compiler must be there .* got nothing compiles here") as caught:
        results = [cell.mixed_cell(*given)[0] for _ in range(3)]
    assert len(caught) == 1
    assert not calls
    assert torch.equal(results[0], reference_cell(*given, batched=True)[0])
    monkeypatch.setenv("FASTNAS_BACKEND", "cpu")
    with pytest.raises(RuntimeError, match="got nothing compiles here"):
        cell.mixed_cell(*given)


def test_shapes_are_known_without_a_compiler(monkeypatch, calls, forget):
    monkeypatch.setattr(choice, "prepare", lambda *_: pytest.fail("nothing is to be compiled for meta tensors"))
    monkeypatch.setenv("FASTNAS_BACKEND", "cpu")
    states, weights, mix, _, plan = arguments(plan_of())
    meta = [x.to("meta") for x in states], [w.to("meta") for w in weights], mix.to("meta"), None, plan
    assert cell.mixed_cell(*meta)[0].shape == (2, 4, 5, 5)
    assert len(calls) == 1
