import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from fastnas_kernels import random_numbers
from fastnas_kernels.gumbel import derivative as gumbel
from fastnas_kernels.gumbel import gumbel_softmax, kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch, poison):
    """Five edges take three programs; what is left unwritten is NaN."""
    monkeypatch.setattr(kernel, "BLOCK_E", 2)


def logits(E=5, K=3, dtype=torch.float64):
    return torch.randn(E, K, dtype=dtype).to(DEVICE)


def noise(seed, shape):
    uniform = torch.from_numpy(random_numbers.uniform(seed, shape.numel())).double().clamp_min(2.0**-32)
    return -(-uniform.log()).log().view(shape).to(DEVICE)


def alive():
    flags = torch.ones(5, 3, dtype=torch.bool, device=DEVICE)
    flags[0, 1] = flags[3, 0] = flags[3, 2] = False
    return flags


@pytest.mark.parametrize("form", ["soft", "straight_through"])
def test_the_published_numbers_of_snas_come_out(form, backend):
    gumbels = torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64, device=DEVICE)
    alpha = torch.tensor([[0.0, 1.0, -1.0]], dtype=torch.float64, device=DEVICE) + gumbels - noise(7, gumbels.shape)
    outputs = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64, device=DEVICE)
    mix, index = gumbel_softmax(alpha.requires_grad_(), 7, 0.5, form)
    (gradient,) = torch.autograd.grad((mix * outputs).sum(), alpha)
    expected = [0.255090, 0.693408, 0.051502] if form == "soft" else [0, 1, 0]
    assert mix.flatten().tolist() == pytest.approx(expected, abs=5e-7)  # printed to six digits
    assert gradient.flatten().tolist() == pytest.approx([-0.432589, 0.210916, 0.221673], abs=5e-7)
    assert index.tolist() == [1]


@pytest.mark.parametrize("masked", [False, True])
def test_derivatives_of_the_soft_sample_are_exact_to_second_order(masked, backend):
    alpha, flags, fast = logits().requires_grad_(), alive() if masked else None, backend == "triton"

    def sample(a):
        return gumbel_softmax(a, 3, 0.7, alive=flags).mix

    assert gradcheck(sample, (alpha,), check_forward_ad=True, fast_mode=fast)
    assert gradgradcheck(sample, (alpha,), check_fwd_over_rev=True, fast_mode=fast)


def test_derivatives_of_the_straight_through_sample_are_those_of_the_soft_one(backend):
    alpha, outputs, v = logits().requires_grad_(), logits(), logits()
    derivatives = []
    for form in ("soft", "straight_through"):
        loss = (gumbel_softmax(alpha, 3, 0.7, form).mix * outputs).sum()
        (first,) = torch.autograd.grad(loss, alpha, create_graph=True)
        derivatives.append((first, *torch.autograd.grad(first, alpha, v)))
    assert torch.equal(derivatives[0][0], derivatives[1][0])
    torch.testing.assert_close(derivatives[0][1], derivatives[1][1], rtol=1e-14, atol=1e-14)  # order of additions


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (14, 8)], ids=str)
def test_kernel_and_eager_definition_draw_the_same(dtype, shape, monkeypatch):
    alpha, drawn = logits(*shape, dtype), {}
    for name in ("reference", "triton"):
        monkeypatch.setenv("FASTNAS_BACKEND", name)
        drawn[name] = [gumbel_softmax(alpha, 2**40 + 1, 0.3, form) for form in ("soft", "straight_through")]
    for mine, theirs in zip(drawn["triton"], drawn["reference"], strict=True):
        assert torch.equal(mine.index, theirs.index)
        # Logarithms and exponentials of an ulp or two in float64, a temperature that magnifies them; rounded once
        torch.testing.assert_close(mine.mix, theirs.mix, rtol=2 * torch.finfo(dtype).eps + 1e-13, atol=1e-15)


def test_every_form_draws_the_same_candidate_and_hard_ones_are_exact(backend):
    alpha = logits().requires_grad_()
    samples = [gumbel_softmax(alpha, 11, 0.2, form) for form in ("soft", "straight_through", "argmax")]
    one_hot = torch.nn.functional.one_hot(samples[0].index, 3).double()
    assert torch.equal(samples[0].mix.argmax(1), samples[0].index)
    assert torch.equal(samples[1].mix, one_hot)
    assert torch.equal(samples[2].mix, one_hot)
    assert samples[1].mix.requires_grad
    assert not samples[2].mix.requires_grad
    assert not samples[0].index.requires_grad


def test_pruned_candidates_get_exact_zeros_and_no_gradient(backend):
    alpha = logits().requires_grad_()
    for form in ("soft", "straight_through"):
        mix, index = gumbel_softmax(alpha, 5, 0.5, form, alive())
        (gradient,) = torch.autograd.grad((mix * logits()).sum(), alpha)
        assert (mix[~alive()] == 0).all()
        assert (gradient[~alive()] == 0).all()
        assert index[3] == 1
        assert mix.sum(1).tolist() == pytest.approx([1.0] * 5, abs=1e-15)


def test_candidates_are_drawn_with_their_probabilities(monkeypatch):
    monkeypatch.setenv("FASTNAS_BACKEND", "reference")
    probabilities = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    draws = 20000
    index = gumbel_softmax(probabilities.log().expand(draws, 3).to(DEVICE), 1).index.cpu()
    counts = torch.bincount(index, minlength=3)
    chi_square = ((counts - draws * probabilities).square() / (draws * probabilities)).sum()
    assert chi_square < 13.8  # 99.9 % of the distribution with two degrees of freedom


def test_a_temperature_in_a_tensor_is_the_same_temperature(backend):
    alpha, tau = logits(), torch.tensor(0.3, dtype=torch.float64, device=DEVICE)
    assert torch.equal(gumbel_softmax(alpha, 1, tau).mix, gumbel_softmax(alpha, 1, 0.3).mix)


def test_extreme_logits_and_temperatures_stay_finite(backend):
    alpha = torch.tensor([[1e4, -1e4, 0.0]], device=DEVICE, requires_grad=True)
    mix, _ = gumbel_softmax(alpha, 1, 1e-3)
    (gradient,) = torch.autograd.grad(mix[0, 0], alpha)
    assert mix.tolist() == [[1, 0, 0]]
    assert gradient.tolist() == [[0, 0, 0]]


def test_a_compiled_function_has_the_gradients_of_the_plain_one(backend):
    torch.compiler.reset()
    alpha = logits().requires_grad_()

    def loss(a):
        return gumbel_softmax(a, 3, 0.7, "straight_through").mix.pow(3).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(*(torch.autograd.grad(f(alpha), alpha)[0] for f in (compiled, loss)))


def test_the_operator_keeps_its_contract_for_any_strides(backend):
    tau = torch.tensor(0.5, device=DEVICE)
    opcheck(gumbel._gumbel_softmax_op, (logits(3, 5).T, 3, tau, alive()))
    opcheck(gumbel._gumbel_softmax_op, (logits(1, 3).expand(5, 3), 3, tau, None))


@pytest.mark.parametrize("seed", [3, 2**62 + 5])
def test_a_seed_on_the_device_draws_the_same(seed, backend):
    alpha, flags = logits(), alive()
    of_number = gumbel_softmax(alpha, seed, 0.7, "soft", flags)
    of_tensor = gumbel_softmax(alpha, torch.tensor(seed, device=DEVICE), 0.7, "soft", flags)
    assert all(map(torch.equal, of_number, of_tensor))
    opcheck(gumbel._seeded_op, (alpha, torch.tensor(seed, device=DEVICE), torch.tensor(0.5, device=DEVICE), flags))


@pytest.mark.parametrize("seed", [torch.tensor([3]), torch.tensor(3.0)])
def test_a_seed_on_the_device_is_one_integer(seed):
    with pytest.raises(ValueError, match="seed must be a 0-d int64 tensor on"):
        gumbel_softmax(logits(), seed.to(DEVICE))


def test_rows_that_cannot_be_drawn_are_nan_where_looking_at_them_would_wait(monkeypatch, backend):
    monkeypatch.setattr(gumbel, "_require_values", lambda *_: None)  # as on a GPU
    alpha, flags = logits(), alive()
    alpha[1, 0], flags[2] = torch.nan, False
    for form in ("soft", "straight_through"):
        nan_rows = gumbel_softmax(alpha, 1, 1.0, form, flags).mix.isnan().any(1)
        assert nan_rows.tolist() == [False, True, True, False, False]


@pytest.mark.skipif(DEVICE == "cuda", reason="values are checked on the CPU alone")
def test_values_are_checked_on_the_cpu(backend):
    alpha, flags = logits(), alive()
    flags[2] = False
    with pytest.raises(ValueError, match=r"alive must keep a candidate on every edge, got none on edges \[2\]"):
        gumbel_softmax(alpha, 1, alive=flags)
    with pytest.raises(ValueError, match=r"tau must be positive, got 0\.0"):
        gumbel_softmax(alpha, 1, torch.tensor(0.0))
    alpha[1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"alpha must not be NaN, got NaN on edges \[1\]"):
        gumbel_softmax(alpha, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": torch.zeros(3)}, r"alpha must have shape \[E, K\], got \[3\]"),
        ({"alpha": torch.zeros(5, 3, dtype=torch.int64)}, "alpha must be floating-point, got torch.int64"),
        ({"seed": -1}, r"seed must be in \[0, 2\*\*63\), got -1"),
        ({"seed": 2**63}, r"seed must be in \[0, 2\*\*63\)"),
        ({"tau": 0.0}, r"tau must be positive, got 0\.0"),
        ({"tau": float("nan")}, "tau must be positive, got nan"),
        ({"tau": torch.ones(2)}, r"tau must be a number or a 0-d tensor, got shape \[2\]"),
        ({"tau": torch.tensor(1.0, requires_grad=True)}, "tau must be constant"),
        ({"tau": torch.ones((), device="meta")}, "tau must be on cpu, got meta"),
        ({"form": "hard"}, "form must be one of soft, straight_through, argmax, got 'hard'"),
        ({"alive": torch.ones(3, 5, dtype=torch.bool)}, r"alive must have shape \[5, 3\] .*got \[3, 5\]"),
        ({"alive": torch.ones(5, 3)}, "alive must be bool, got torch.float32"),
        ({"alive": torch.ones(5, 3, dtype=torch.bool, device="meta")}, "alive must be on cpu, got meta"),
    ],
)
def test_wrong_arguments_are_named_with_their_rule_and_value(arguments, message):
    with pytest.raises(ValueError, match=f"gumbel_softmax: {message}"):
        gumbel_softmax(**{"alpha": torch.zeros(5, 3), "seed": 1, **arguments})


def test_float32_is_at_most_twice_as_inaccurate_as_plain_operations(backend):
    alpha = logits(14, 8, torch.float32)
    truth = ((alpha.double() + noise(1, alpha.shape)) / 0.3).softmax(1)
    plain = ((alpha + noise(1, alpha.shape).float()) / 0.3).softmax(1)
    error = (gumbel_softmax(alpha, 1, 0.3).mix - truth).abs().max()
    assert error <= 2 * (plain - truth).abs().max()
