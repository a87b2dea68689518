import math

import pytest
import torch
from torch.autograd import gradcheck

from fastnas.mechanisms.relaxation import MaxW, edge_softmax, entropy, raw, sigmoid, softmax
from fastnas.spaces.cell_space import DARTS

ROWS = [DARTS.rows(target) for target in range(2, 6)]


def test_equal_logits_mix_every_candidate_equally():
    assert torch.equal(softmax(torch.zeros(14, 8)), torch.full((14, 8), 0.125))


def test_edge_coefficients_sum_to_one_at_every_node():
    mix = edge_softmax(torch.randn(14, dtype=torch.float64), ROWS)
    assert all(abs(mix[row.start : row.stop].sum() - 1) < 1e-14 for row in ROWS)
    assert torch.equal(edge_softmax(torch.zeros(14), ROWS)[:5], torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3]))


def test_entropy_falls_from_log_k_to_zero():
    assert abs(entropy(torch.full((14, 8), 0.125, dtype=torch.float64)).item() - math.log(8)) < 1e-15 * 8
    assert entropy(torch.eye(8)[:, :8]).item() == 0


def test_derivatives_are_exact():
    assert gradcheck(lambda b: edge_softmax(b, ROWS), torch.randn(14, dtype=torch.float64, requires_grad=True))
    assert gradcheck(lambda a: entropy(softmax(a)), torch.randn(3, 4, dtype=torch.float64, requires_grad=True))


def test_the_dead_have_no_share_and_the_last_survivor_all_of_it():
    alpha = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    alive = torch.tensor([[True, True, False, True], [False, True, False, False], [True] * 4])
    mix = softmax(alpha, alive, 0.5)
    assert mix[~alive].abs().max() == 0
    torch.testing.assert_close(mix.sum(-1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(mix[2], (alpha[2] / 0.5).softmax(-1))
    assert mix[1, 1].item() == 1
    (gradient,) = torch.autograd.grad((mix * torch.randn(3, 4)).sum(), alpha)
    assert gradient[1].abs().max() == 0
    assert gradient[~alive].abs().max() == 0


def test_what_a_removal_changes_is_at_most_what_was_removed_times_the_farthest_output():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        alpha, outputs = (torch.randn(shape, generator=generator).double() for shape in ((1, 8), (8, 20)))
        p = softmax(alpha)
        alive = p >= 0.4 / 8
        before, after = ((softmax(alpha, mask) @ outputs)[0] for mask in (None, alive))
        farthest = (outputs - after).norm(dim=1).max()
        assert (after - before).norm() <= p[~alive].sum() * farthest + 1e-12


@pytest.mark.parametrize("relaxation", [softmax, sigmoid, raw, MaxW()])
def test_nothing_dead_is_no_mask_at_all(relaxation):
    alpha = torch.randn(14, 8)
    whole = torch.ones(14, 8, dtype=torch.bool)
    assert torch.equal(relaxation(alpha, whole, 1.0), relaxation(alpha, None, 1.0))
    half = torch.arange(8).expand(14, 8) < 4
    assert relaxation(alpha, half, 1.0)[:, 4:].abs().max() == 0


def test_max_w_keeps_the_leader_at_one_and_the_gradient_of_the_code_or_of_its_comment():
    p = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    alpha = p.log().requires_grad_()
    g = torch.tensor([[0.7, -0.4, 0.9]], dtype=torch.float64)
    jacobian = torch.diag(p[0]) - p.T @ p
    for relaxation, of_p in ((MaxW(), (-0.5, -0.4, 0.9)), (MaxW(detach_max=True), (0.7, -0.4, 0.9))):
        mix = relaxation(alpha)
        torch.testing.assert_close(mix, torch.tensor([[1, 0.8, 0.7]], dtype=torch.float64))
        (gradient,) = torch.autograd.grad((mix * g).sum(), alpha)
        torch.testing.assert_close(gradient, torch.tensor([of_p], dtype=torch.float64) @ jacobian)


def test_coefficients_that_do_not_sum_to_one_have_the_entropy_of_their_shares():
    assert entropy(torch.full((3, 4), 7.0)).item() == pytest.approx(math.log(4))
    assert entropy(torch.zeros(3, 4)).item() == 0
    assert entropy(torch.tensor([[-1.0, 2.0]])).item() == 0
