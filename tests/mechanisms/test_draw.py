"""Draws against the numbers of their papers' toys, and the promises that the supernet relies on."""

import math
from dataclasses import replace

import pytest
import torch

from fastnas.mechanisms.draw import (
    BinaryGate,
    Categorical,
    GumbelSoftmax,
    Proximal,
    ProximalEdges,
    TwoPaths,
    gumbel_all,
    gumbel_selected,
    gumbel_selected_with_scalars,
    proximal_one,
    proximal_value,
    straight_through,
)
from fastnas.spaces.cell_space import DARTS
from fastnas_kernels import random_numbers

LOGITS = torch.tensor([[0.0, 1.0, -1.0]], dtype=torch.float64)
NOISE = torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64)
OUTPUTS = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
SNAS_GRADIENT = (-0.432589, 0.210916, 0.221673)
HARD = [gumbel_all, gumbel_selected, gumbel_selected_with_scalars, BinaryGate(), TwoPaths(), Categorical()]


def close(tensor, expected):
    torch.testing.assert_close(tensor.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def noise_of(seed, shape):
    """The Gumbel noise that a draw of this seed adds to its logits."""
    u = torch.from_numpy(random_numbers.uniform(seed, math.prod(shape))).double().view(shape)
    return -(-u.clamp_min(2.0**-32).log()).log()


def logits_for(scores, seed):
    """The logits that the noise of ``seed`` turns into given scores: every derivative is a function of those."""
    return (scores - noise_of(seed, scores.shape)).requires_grad_()


def toy(draw, tau=0.5, seed=11):
    """A draw at the noise of the card, and the gradient of ``sum_k Z_k o_k``."""
    alpha = logits_for(LOGITS + NOISE, seed)
    sample = draw(alpha, None, tau, seed)
    loss = (sample.mix * OUTPUTS).sum() + (0 if sample.offset is None else sample.offset.sum())
    return sample, loss.item(), torch.autograd.grad(loss, alpha)[0]


def test_the_concrete_sample_of_snas_and_its_gradient():
    sample, _, gradient = toy(GumbelSoftmax())
    close(sample.mix, (0.255090, 0.693408, 0.051502))
    close(gradient, SNAS_GRADIENT)
    assert abs(gradient.sum()) < 1e-15


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (gumbel_all, SNAS_GRADIENT),
        (gumbel_selected, (-0.707527, 0.850374, -0.142847)),
        (gumbel_selected_with_scalars, (-0.353763, 0.425187, -0.071424)),
    ],
)
def test_the_three_forms_of_gdas_have_one_forward_pass_and_three_gradients(form, expected):
    sample, loss, gradient = toy(form)
    assert sample.mix.tolist() == [[0.0, 1.0, 0.0]]
    assert loss == 2
    close(gradient, expected)
    assert abs(gradient.sum()) < 1e-15


def test_a_cold_sample_is_one_hot_and_a_hot_one_uniform():
    alpha = torch.randn(50, 8, dtype=torch.float64)
    cold = GumbelSoftmax()(alpha, None, 1e-4, 3).mix
    assert torch.equal(cold.argmax(-1), (alpha + noise_of(3, alpha.shape)).argmax(-1))
    assert cold.amax(-1).min() > 0.99
    hot = GumbelSoftmax()(alpha, None, 1e8, 3).mix
    torch.testing.assert_close(hot, torch.full((50, 8), 0.125, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("draw", HARD, ids=lambda draw: str(draw)[:30])
def test_a_hard_draw_takes_the_largest_perturbed_logit(draw):
    alpha = torch.randn(50, 8, dtype=torch.float64)
    tau = 1.0  # the temperature of a categorical draw is that of its probabilities
    sample, scores = draw(alpha, None, tau, 3), alpha + noise_of(3, alpha.shape)
    if isinstance(draw, TwoPaths):
        two = torch.zeros(50, 8).scatter_(-1, scores.topk(2, -1).indices, 1.0)
        assert torch.equal(sample.reached, two > 0)
    else:
        assert torch.equal(sample.mix.argmax(-1), scores.argmax(-1))


@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("draw", [GumbelSoftmax(), gumbel_selected])
def test_candidates_win_as_often_as_their_softmax_says_at_any_temperature(draw, tau):
    alpha, count = torch.tensor([1.0, 0.0, -0.5, 0.3]), 20_000
    wins = torch.bincount(draw(alpha.expand(count, 4), None, tau, 0).mix.argmax(-1), minlength=4)
    expected = count * alpha.softmax(0)
    assert ((wins - expected) ** 2 / expected).sum() < 16.3  # chi-square of 3 degrees of freedom, 0.1 %


def test_a_categorical_draw_follows_its_probabilities_and_knows_their_logarithm():
    alpha = torch.randn(14, 8)
    sample = Categorical()(alpha, None, 1.0, 5)
    expected = (alpha.log_softmax(-1) * sample.mix).sum(-1)
    torch.testing.assert_close(sample.log_probability, expected)
    rows = torch.tensor([0.0, 2.0]).expand(20_000, 2)
    share = Categorical()(rows, None, 1.0, 1).mix[:, 1].mean().item()
    assert share == pytest.approx(1 / (1 + math.exp(-2)), abs=0.01)  # four standard errors


@pytest.mark.parametrize("draw", HARD, ids=lambda draw: str(draw)[:30])
def test_a_hard_draw_is_exactly_one_hot_repeats_itself_and_spares_the_dead(draw):
    alpha = torch.randn(200, 8, requires_grad=True)
    alive = torch.rand(200, 8) < 0.5
    alive[:, 3] = True
    sample, again, other = (draw(alpha, alive, 0.7, seed) for seed in (1, 1, 2))
    assert torch.equal(sample.mix, again.mix)
    assert not torch.equal(sample.mix, other.mix)
    assert torch.equal(sample.mix.sort(-1).values[:, -2:], torch.tensor([0.0, 1.0]).expand(200, 2))
    assert torch.equal(sample.on, sample.mix > 0)
    assert not (sample.on & ~alive).any()
    if sample.reached is not None:
        assert not (sample.reached & ~alive).any()
        assert (sample.on & ~sample.reached).sum() == 0
    if sample.mix.requires_grad:
        (gradient,) = torch.autograd.grad((sample.mix * torch.randn(200, 8)).sum(), alpha)
        assert gradient.isfinite().all()
        assert gradient[~alive].abs().max() == 0


def test_every_device_and_type_of_logits_draws_the_same():
    alpha = torch.randn(14, 8)
    draws = [gumbel_selected(alpha.to(dtype), None, 1.0, 3).on for dtype in (torch.float32, torch.float64)]
    assert torch.equal(*draws)


def test_straight_through_is_the_hard_value_bit_for_bit_and_the_soft_gradient_twice():
    soft = torch.rand(20, 8, dtype=torch.float64, requires_grad=True)
    hard = torch.rand(20, 8, dtype=torch.float64)
    y = straight_through(hard, soft**3)
    assert torch.equal(y, hard)
    (first,) = torch.autograd.grad(y.sum(), soft, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), soft)
    torch.testing.assert_close(second, 6 * soft)


# ---- ProxylessNAS: alpha = (0, ln 2, ln 3), gate gradients b = (.3, -.1, .2) ---------------------------------------
ALPHA = torch.tensor([[0.0, math.log(2), math.log(3)]], dtype=torch.float64)
GATES = torch.tensor([[0.3, -0.1, 0.2]], dtype=torch.float64)


def test_the_gates_of_all_candidates_give_alpha_its_gradient_whatever_path_ran():
    for seed in range(5):
        alpha = ALPHA.clone().requires_grad_()
        sample = BinaryGate()(alpha, None, 1.0, seed)
        (gradient,) = torch.autograd.grad((sample.mix * GATES).sum(), alpha)
        close(gradient, (0.030556, -0.072222, 0.041667))


def test_two_paths_share_the_probability_of_their_pair():
    pairs = set()
    for seed in range(60):
        alpha = ALPHA.clone().requires_grad_()
        sample = TwoPaths()(alpha, None, 1.0, seed)
        (gradient,) = torch.autograd.grad((sample.mix * GATES).sum(), alpha)
        pair = tuple(sample.reached[0].nonzero().flatten().tolist())
        pairs.add(pair)
        assert len(pair) == 2
        assert abs(gradient.sum()) < 1e-15
        if pair == (0, 2):  # q = (.25, .75): q0 q2 (b0 - b2)
            close(gradient, (0.01875, 0, -0.01875))
    assert pairs == {(0, 1), (0, 2), (1, 2)}


def test_the_active_one_of_two_paths_follows_the_probabilities_of_the_pair():
    sample = TwoPaths()(ALPHA.expand(20_000, 3), None, 1.0, 0)
    of_pair = sample.reached[:, 0] & sample.reached[:, 2]
    share = sample.mix[of_pair][:, 2].mean().item()
    assert share == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / of_pair.sum().item()))


def test_one_candidate_that_is_left_needs_no_partner():
    alive = torch.tensor([[True, False, False]])
    alpha = ALPHA.clone().requires_grad_()
    sample = TwoPaths()(alpha, alive, 1.0, 0)
    assert sample.reached.tolist() == [[True, False, False]]
    assert torch.autograd.grad((sample.mix * GATES).sum(), alpha)[0].abs().max() == 0


# ---- NASP -----------------------------------------------------------------------------------------------------------
def test_the_projection_keeps_the_value_in_the_paper_and_sets_it_to_one_in_the_code():
    a = torch.tensor([[0.2, 0.7, 0.4]])
    assert torch.equal(proximal_value(a), torch.tensor([[0.0, 0.7, 0.0]]))
    assert torch.equal(proximal_one(a), torch.tensor([[0.0, 1.0, 0.0]]))


def test_the_published_projection_keeps_two_edges_of_every_node():
    rows = tuple(DARTS.rows(target) for target in range(2, 6))
    a = torch.rand(14, 8)
    hard = ProximalEdges(rows, 2)(a)
    alive = hard.sum(-1)
    assert [int(alive[row.start : row.stop].sum()) for row in rows] == [2, 2, 2, 2]
    for row in rows:
        kept = set(alive[row.start : row.stop].nonzero().flatten().tolist())
        assert kept == set(a.amax(-1)[row.start : row.stop].topk(2).indices.tolist())


@pytest.mark.parametrize("project", [proximal_value, proximal_one])
def test_the_gradient_of_a_projection_is_dense_and_taken_at_the_projected_point(project):
    a = torch.rand(5, 4, dtype=torch.float64, requires_grad=True)
    outputs = torch.randn(5, 4, dtype=torch.float64)

    def loss(mix):
        return ((mix * outputs).sum(-1) ** 2).sum()

    sample = Proximal(project)(a, None, 1.0, 0)
    (gradient,) = torch.autograd.grad(loss(sample.mix), a)
    point = project(a.detach())
    assert torch.equal(sample.mix, point)
    assert (point != 0).sum() == 5
    h = 1e-6
    for e in range(5):
        for k in range(4):
            unit = torch.zeros(5, 4, dtype=torch.float64)
            unit[e, k] = h
            slope = (loss(point + unit) - loss(point - unit)) / (2 * h)
            assert gradient[e, k].item() == pytest.approx(slope.item(), rel=1e-7, abs=1e-9)
    assert sample.reached is None
    assert torch.equal(sample.on, point > 0)


def test_a_form_is_a_value_that_can_be_replaced():
    assert replace(gumbel_all, route=gumbel_selected.route, selected_only=True, paths=1) == gumbel_selected


def test_the_mean_of_soft_samples_is_no_probability_but_that_of_hard_ones_is():
    alpha, costs = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64), torch.tensor([1.0, 2.0, 4.0]).double()
    expected = (alpha.softmax(0) * costs).sum().item()
    many = alpha.expand(20_000, 3)
    soft, hard = ((draw(many, None, 2.0, 0).mix * costs).sum(-1) for draw in (GumbelSoftmax(), gumbel_all))
    assert hard.mean().item() == pytest.approx(expected, abs=4 * hard.std().item() / 20_000**0.5)  # standard errors
    assert abs(soft.mean().item() - expected) > 4 * soft.std().item() / 20_000**0.5
