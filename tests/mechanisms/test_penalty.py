import math

import pytest
import torch
from torch.autograd import gradcheck

from fastnas.mechanisms.penalty import l1, undecided
from fastnas.mechanisms.protocol import Protocol


def test_the_entropy_term_is_log_k_when_undecided_and_falls_as_edges_decide():
    assert undecided({"a": torch.full((3, 4), 0.25), "b": torch.full((2, 4), 0.25)}).item() == pytest.approx(
        math.log(4)
    )
    assert undecided({"a": torch.eye(4)}).item() == 0


def test_terms_have_slope():
    mix = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: undecided({"a": x, "b": x**2}), mix)
    assert gradcheck(lambda x: l1({"a": x - 0.5, "b": 2 * x}), mix)
    assert l1({"a": torch.tensor([-1.0, 2.0])}).item() == 3


def test_a_joint_protocol_has_no_order():
    with pytest.raises(ValueError, match="Protocol: joint must stand without weights_first and alpha_every"):
        Protocol(joint=True, alpha_every=5)
    with pytest.raises(ValueError, match="alpha_every must be at least 1, got 0"):
        Protocol(alpha_every=0)
