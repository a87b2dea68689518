import math

import torch
from torch.autograd import gradcheck

from fastnas.mechanisms.relaxation import edge_softmax, entropy, softmax
from fastnas.space.cell_space import DARTS

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
