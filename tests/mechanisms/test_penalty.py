import pytest
import torch
from torch.autograd import gradcheck

from fastnas.mechanisms.penalty import l1
from fastnas.mechanisms.update_schedule import UpdateSchedule


def test_terms_have_slope():
    mix = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: l1({"a": x - 0.5, "b": 2 * x}), mix)
    assert l1({"a": torch.tensor([-1.0, 2.0])}).item() == 3


def test_a_joint_update_has_no_order():
    with pytest.raises(ValueError, match="UpdateSchedule: joint updates have no order: leave weights_first"):
        UpdateSchedule(joint=True, alpha_every=5)
    with pytest.raises(ValueError, match="alpha_every must be at least 1, got 0"):
        UpdateSchedule(alpha_every=0)
