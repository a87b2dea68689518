import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastnas.memory.tracker import GRADIENTS, KEPT, SECOND, WORKSPACE, Tracker

MB = 2**20


def megabyte(**options):
    return torch.ones(MB // 4, **options)


def test_the_peak_counts_storages_for_as_long_as_anything_sees_them():
    with Tracker() as tracker:
        x = megabyte()
        view = x.view(2, -1)
        del x
        y = view + 1
        assert tracker.num_bytes == 2 * MB
        del view
        assert tracker.num_bytes == MB
        y = y * 2
        assert tracker.num_bytes == MB
    assert tracker.peak.num_bytes == 2 * MB


def test_a_view_and_an_operation_in_place_add_nothing():
    with Tracker() as tracker:
        x = megabyte()
        x.add_(1)
        x.view(-1, 2).t()
    assert tracker.peak.num_bytes == MB


def test_what_was_there_before_counts_once():
    x = megabyte()
    tracker = Tracker()
    tracker.hold([x, x.view(2, -1)], "weights")
    assert tracker.peak == (MB, {"weights": MB})


def test_an_allocator_rounds_up():
    with Tracker(512) as tracker:
        x = torch.ones(1)
    assert tracker.num_bytes == 512
    assert x.numel() == 1


def test_causes_are_told_apart_at_the_moment_of_the_peak():
    w = megabyte(requires_grad=True)
    tracker = Tracker()
    tracker.hold([w], "weights")
    with tracker, tracker.explaining([w]):
        y = (w * 2).exp()
        assert tracker.causes[KEPT] == MB  # the product is gone, the exponential was kept
        (gradient,) = torch.autograd.grad(y.sum(), w)
        assert tracker.causes[GRADIENTS] == MB
    assert set(tracker.peak.causes) <= {"weights", KEPT, GRADIENTS, WORKSPACE}
    assert sum(tracker.peak.causes.values()) == tracker.peak.num_bytes
    assert gradient.numel() == w.numel()


def test_a_graph_of_a_gradient_is_a_cause_of_its_own_and_leaves_nothing_behind():
    w = megabyte(requires_grad=True)
    tracker = Tracker()
    tracker.hold([w], "weights")
    with tracker, tracker.explaining([w]):
        (gradient,) = torch.autograd.grad((w * w * w).sum(), w, create_graph=True)
        assert tracker.causes[SECOND] > 0
        (second,) = torch.autograd.grad(gradient.sum(), w)
        del gradient
        assert tracker.num_bytes == 2 * MB
    assert torch.equal(second, 6 * w)


def test_tensors_without_memory_count_like_real_ones():

    def peak(x):
        with Tracker() as tracker:
            y = torch.nn.functional.conv2d(x.relu(), x[:2, :, :3, :3].contiguous())
            y.sum()
        return tracker.peak.num_bytes

    with FakeTensorMode() as mode:
        fake = mode.from_tensor(torch.ones(4, 3, 8, 8))
        found = peak(fake)
    assert found == peak(torch.ones(4, 3, 8, 8))


@pytest.mark.parametrize("named", [KEPT, SECOND])
def test_only_workspace_is_explained(named):
    x = megabyte()
    tracker = Tracker()
    tracker.hold([x], "weights")
    tracker.explain(x, named)
    assert tracker.causes["weights"] == MB
