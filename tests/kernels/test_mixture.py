import itertools
import weakref

import pytest
import torch
import triton
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from fastnas_kernels.mixture import derivative as mixture
from fastnas_kernels.mixture import kernel, mixed_sum

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter does not round to bfloat16 as GPUs do
LOW = torch.float16 if triton.knobs.runtime.interpret else torch.bfloat16


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch, poison):
    """Seven elements take two programs, and three candidates two launches; what is left unwritten is NaN."""
    monkeypatch.setattr(kernel, "BLOCK_M", 4)
    monkeypatch.setattr(kernel, "DOT_BLOCK_M", 4)
    monkeypatch.setattr(kernel, "MAX_TENSORS", 2)


@pytest.fixture
def _large_tiles(monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK_M", 512)
    monkeypatch.setattr(kernel, "DOT_BLOCK_M", 512)


def make(k=3, shape=(7,), dtype=torch.float64):
    mix, *candidates = torch.rand(k, dtype=dtype), *(torch.randn(shape, dtype=dtype) for _ in range(k))
    return mix.to(DEVICE), [x.to(DEVICE) for x in candidates]


NEEDS = [needs for needs in itertools.product([True, False], repeat=3) if any(needs)]


def of(mix, *candidates):
    return mixed_sum(candidates, mix)


@pytest.mark.parametrize("needs", NEEDS, ids=str)
def test_derivatives_are_exact_to_second_order_whatever_is_asked_for(needs, backend):
    mix, candidates = make(len(needs) - 1)
    inputs = [tensor.requires_grad_(need) for tensor, need in zip((mix, *candidates), needs, strict=True)]
    fast = backend == "triton"  # along random directions instead of entry by entry
    assert gradcheck(of, inputs, check_forward_ad=True, fast_mode=fast)
    assert gradgradcheck(of, inputs, fast_mode=fast)


def test_forward_mode_over_reverse_mode_is_exact(backend):
    mix, candidates = make(2)
    inputs = [tensor.requires_grad_() for tensor in (mix, *candidates)]
    options = {"check_fwd_over_rev": True, "check_rev_over_rev": False, "check_undefined_grad": False}
    assert gradgradcheck(of, inputs, **options, fast_mode=backend == "triton")


def test_transforms_of_torch_func_agree_with_the_hessian_in_closed_form(backend):
    mix, candidates = make(2, (1,))
    a, b = (x.item() for x in candidates)
    y, v = mixed_sum(candidates, mix).item(), torch.tensor([2.0, -1.0], dtype=torch.float64, device=DEVICE)

    def cube(m):
        return mixed_sum(candidates, m).sum() ** 3

    product = 6 * y * (2 * a - b) * torch.tensor([a, b], dtype=torch.float64, device=DEVICE)
    ways = [
        torch.func.jvp(torch.func.grad(cube), (mix,), (v,))[1],
        torch.func.grad(lambda m: torch.func.grad(cube)(m) @ v)(mix),
        torch.func.grad(lambda m: torch.func.jvp(cube, (m,), (v,))[1])(mix),
    ]
    for way in ways:  # a dozen roundings of numbers of order one to ten
        torch.testing.assert_close(way, product, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_function_has_the_gradients_of_the_plain_one(backend, dynamic):
    torch.compiler.reset()
    inputs = [tensor.float().requires_grad_() for tensor in (make()[0], *make()[1])]

    def loss(*inputs):
        return of(*inputs).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    ours, plain = (torch.autograd.grad(f(*inputs), inputs) for f in (compiled, loss))
    assert all(map(torch.equal, ours, plain))


def test_the_operators_keep_their_contract_for_any_strides(monkeypatch):
    monkeypatch.setenv("FASTNAS_BACKEND", "triton")
    mix, xs = make(3, (2, 4, 3, 3))
    xs[1:] = [x.contiguous(memory_format=torch.channels_last) for x in xs[1:]]
    expanded = torch.ones((), dtype=torch.float64, device=DEVICE).expand(2, 4, 3, 3)
    opcheck(mixture._weighted_sum_op, (xs, mix))
    opcheck(mixture._row_dot_op, (xs, expanded))
    opcheck(mixture._scaled_copies_op, (mix, expanded))


@pytest.mark.parametrize(
    "shape", [(1, 4, 1, 1), (1, 5, 7, 7), (2, 256, 1, 1), (3, 4, 2, 5), (0, 4, 2, 2), (3,), ()], ids=str
)
@pytest.mark.usefixtures("_large_tiles")
def test_kernels_equal_the_eager_definition_on_odd_shapes(shape, backend):
    mix, candidates = make(3, shape)
    inputs = [tensor.requires_grad_() for tensor in (mix, *candidates)]
    y = of(*inputs)
    gradients = torch.autograd.grad(y.sum(), inputs)  # a gradient of stride zero
    bound = 8 * torch.finfo(torch.float64).eps * max(1, y.numel())
    assert y.shape == shape
    assert (y - sum(m * x for m, x in zip(mix, candidates, strict=True))).abs().sum() <= bound
    for got, x in zip(gradients[0], candidates, strict=True):
        assert (got - x.sum()).abs() <= bound
    assert all((dx == m).all() for dx, m in zip(gradients[1:], mix, strict=True))


def test_a_memory_layout_shared_by_most_is_kept(monkeypatch):
    monkeypatch.setenv("FASTNAS_BACKEND", "triton")
    mix, xs = make(3, (2, 4, 3, 3))
    xs[1:] = [x.contiguous(memory_format=torch.channels_last).requires_grad_() for x in xs[1:]]
    y = mixed_sum(xs, mix)
    assert y.is_contiguous(memory_format=torch.channels_last)
    for dx in torch.autograd.grad(y, xs[1:], torch.ones_like(y)):
        assert dx.is_contiguous(memory_format=torch.channels_last)


def test_a_zero_coefficient_hides_no_candidate_that_blew_up(backend):
    mix, candidates = make(2, (3,))
    mix[1] = 0
    assert torch.equal(mixed_sum(candidates, mix), mix[0] * candidates[0])
    candidates[1][0], candidates[1][1] = torch.nan, torch.inf
    assert mixed_sum(candidates, mix).isnan().tolist() == [True, True, False]


def test_forward_mode_does_not_keep_candidates_alive(backend):
    mix, candidates = make()
    computed = [x.requires_grad_() * 1 for x in candidates]
    references = [weakref.ref(x) for x in computed]
    y = mixed_sum(computed, mix)
    del computed
    assert y.requires_grad
    assert [reference() for reference in references] == [None] * 3


def test_coefficients_stay_in_float32_under_autocast(backend):
    mix, candidates = make(8, (11,))
    mix, low = mix.float().requires_grad_(), [x.to(LOW) for x in candidates]
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        y = mixed_sum(low, mix)
    assert torch.equal(y, mixed_sum(low, mix))
    (dmix,) = torch.autograd.grad(y.float().sum(), mix)
    assert dmix.dtype == torch.float32


def test_dtypes_that_differ_are_promoted(backend):
    mix, candidates = make(2)
    assert mixed_sum([candidates[0].float(), candidates[1]], mix).dtype == torch.float64


def test_memory_formats_may_differ_and_nothing_is_written_into_a_candidate(backend):
    mix, candidates = make(3, (2, 4, 3, 3))
    candidates[1] = candidates[1].contiguous(memory_format=torch.channels_last)
    candidates[2] = candidates[2].transpose(2, 3)
    before = [x.clone() for x in candidates]
    y = mixed_sum(candidates, mix)
    assert (y - sum(m * x for m, x in zip(mix, candidates, strict=True))).abs().max() < 1e-15 * 3 * 4
    assert all(map(torch.equal, candidates, before))
    only = mixed_sum(candidates[:1], torch.ones(1, dtype=torch.float64, device=DEVICE))
    assert torch.equal(only, candidates[0])
    assert only.data_ptr() != candidates[0].data_ptr()


def test_no_candidate_is_saved_when_the_coefficients_are_constant(backend):
    mix, candidates = make()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        mixed_sum([x.requires_grad_() for x in candidates], mix)
    assert saved == [mix.shape]


def test_no_coefficient_is_saved_when_the_candidates_are_constant(backend):
    mix, candidates = make()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        mixed_sum(candidates, mix.requires_grad_())
    assert saved == [candidates[0].shape] * 3


@pytest.mark.parametrize("dtype", [torch.float32, LOW], ids=str)
@pytest.mark.usefixtures("_large_tiles")
def test_is_at_most_twice_as_inaccurate_as_the_plain_sum(dtype, backend):
    mix, candidates = make(8, (4, 8, 7, 5))
    low = [x.to(dtype) for x in candidates]
    truth = sum(m * x.double() for m, x in zip(mix.float().double(), low, strict=True))
    plain = sum(m.to(dtype) * x for m, x in zip(mix, low, strict=True))
    error, plain_error = ((y.double() - truth).abs().max() for y in (mixed_sum(low, mix.float()), plain))
    assert error <= 2 * plain_error


@pytest.mark.parametrize("dtype", [torch.float32, LOW], ids=str)
@pytest.mark.usefixtures("_large_tiles")
def test_gradients_are_at_most_twice_as_inaccurate_as_those_of_the_plain_sum(dtype, backend):
    mix, candidates = make(8, (4, 8, 7, 5))
    mix, low = mix.float().requires_grad_(), [x.to(dtype).requires_grad_() for x in candidates]
    exact = [t.detach().double().requires_grad_() for t in (mix, *low)]
    dy = torch.randn_like(low[0])
    truths = torch.autograd.grad(sum(m * x for m, x in zip(exact[0], exact[1:], strict=True)), exact, dy.double())
    ours = torch.autograd.grad(mixed_sum(low, mix), (mix, *low), dy)
    plain_y = sum(m.to(dtype) * x for m, x in zip(mix, low, strict=True))
    plain = torch.autograd.grad(plain_y, (mix, *low), dy)
    for mine, eager, true in zip(ours, plain, truths, strict=True):
        assert mine.dtype == eager.dtype
        assert (mine - true).abs().max() <= 2 * (eager - true).abs().max()


@pytest.mark.usefixtures("_large_tiles")
def test_low_precision_is_accumulated_in_float32_and_rounded_once(backend):
    mix, candidates = make(8, (4, 8, 7, 5))
    mix, low = mix.float().requires_grad_(), [x.to(LOW) for x in candidates]
    y = mixed_sum(low, mix)
    products = [m.double() * x.double() for m, x in zip(mix, low, strict=True)]
    float32 = 8 * torch.finfo(torch.float32).eps * sum(p.abs() for p in products)  # a rounding for each candidate
    assert ((y - sum(products)).abs() <= torch.finfo(LOW).eps / 2 * sum(products).abs() + float32).all()
    dy = torch.randn_like(y)
    (dmix,) = torch.autograd.grad(y, mix, dy)
    for mine, x in zip(dmix, low, strict=True):
        terms = x.double() * dy.double()
        # A pairwise sum of 1120 terms rounds log2(1120) < 11 times, and each term once
        assert (mine - terms.sum()).abs() <= 12 * torch.finfo(torch.float32).eps * terms.abs().sum()


def test_names_the_argument_the_rule_and_the_value():
    mix, candidates = make()
    with pytest.raises(ValueError, match=r"mixed_sum: mix must have shape \[3\] \(one coefficient .*got \[2\]"):
        mixed_sum(candidates, mix[:2])
    with pytest.raises(ValueError, match="mixed_sum: candidates must not be empty"):
        mixed_sum([], mix)
    with pytest.raises(ValueError, match="candidates must be on the device of mix, meta, got"):
        mixed_sum(candidates, mix.to("meta"))
    with pytest.raises(ValueError, match="candidates must have one shape"):
        mixed_sum([*candidates[:2], candidates[0][:1]], mix)
