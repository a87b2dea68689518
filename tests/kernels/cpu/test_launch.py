import pytest
import torch

from fastnas_kernels.cpu import launch
from fastnas_kernels.mixed_op.cell import mixed_cell
from fastnas_kernels.mixed_op.definition import reference_cell
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan

SEPARABLE, DILATED = Candidate("depthwise", 3, 1, 2), Candidate("depthwise", 5, 2)
EVERY = (Candidate("max_pool"), Candidate("avg_pool"), Candidate("skip"), SEPARABLE, DILATED)


def both_directions(channels, k, stride, images=5, size=7):
    edges = (EdgePlan(0, 1, EVERY), EdgePlan(0, 2, EVERY), EdgePlan(1, 2, EVERY))
    plan = CellPlan(channels, 1, 2, edges, stride, k)
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    states = random(1, images, size, size, channels)
    weights = [random(*shape) for shapes in plan.weight_shapes.values() for shape in shapes]
    mix, edge_mix = random(plan.num_coefficients), random(len(plan.edges))
    nodes, stats, packed, noted = launch.run_forward(states, weights, mix, edge_mix, None, plan)
    dnodes = random(*nodes.shape)
    needs = [True] * 4
    gradients = launch.run_backward(dnodes, states, nodes, packed, mix, edge_mix, stats, False, needs, plan)
    return [nodes, stats, noted, *gradients]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("channels", "k", "stride"), [(16, 1, 1), (8, 2, 2), (40, 1, 2)])
def test_any_number_of_threads_gives_the_same_bits(threads, channels, k, stride):
    results = []
    for number in (1, 2, 3):
        threads(number)
        results.append(both_directions(channels, k, stride))
    assert all(
        torch.equal(first, other) for others in results[1:] for first, other in zip(results[0], others, strict=True)
    )


@pytest.mark.parametrize(("channels", "k", "stride"), [(16, 1, 1), (8, 2, 2)])
def test_how_many_branches_are_computed_at_once_changes_no_bit(monkeypatch, channels, k, stride):
    at_once = both_directions(channels, k, stride)
    monkeypatch.setattr(launch, "CHUNK_BYTES", 1)
    one_by_one = both_directions(channels, k, stride)
    assert all(torch.equal(first, other) for first, other in zip(at_once, one_by_one, strict=True))


def test_more_groups_of_images_than_stretches_of_partial_sums_lose_nothing():
    images = 2 * 32 * 16 + 5  # several groups a stretch, whatever the length of a vector; the last group has a rest
    plan = CellPlan(4, 1, 1, (EdgePlan(0, 1, (SEPARABLE,)),))
    states = torch.randn(1, images, 2, 2, 4, dtype=torch.float64)
    weights = [torch.randn(s, dtype=torch.float64) for shapes in plan.weight_shapes.values() for s in shapes]
    ones = torch.ones(1, dtype=torch.float64)
    found = []
    for order in (torch.arange(images), torch.arange(images).flip(0)):
        x = states[:, order]
        nodes, stats, packed, _ = launch.run_forward(x, weights, ones, ones, None, plan)
        dnodes = (nodes + 1).square()  # equal for equal images, wherever they stand
        needs = [False, True, True, False]
        found.append(launch.run_backward(dnodes, x, nodes, packed, ones, ones, stats, False, needs, plan)[1:3])
    for forwards, backwards in zip(*found, strict=True):
        # Sums of about a thousand images in another order
        assert (forwards - backwards).abs().max() <= 1e-12 * forwards.abs().max().clamp_min(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)])
def test_filters_of_lines_that_are_longer_than_what_is_computed_at_once(monkeypatch, kernel, dilation, dtype):
    monkeypatch.setenv("FASTNAS_BACKEND", "cpu")
    candidate = Candidate("depthwise", kernel, dilation, 2 if dilation == 1 else 1)
    plan = CellPlan(16, 1, 1, (EdgePlan(0, 1, (candidate,)),))
    state = torch.randn(2, 16, 9, 21, dtype=torch.float64)  # twice as many as at once, and some more
    weights = [torch.randn(s, dtype=torch.float64) for shapes in plan.weight_shapes.values() for s in shapes]
    along = torch.randn(2, 16, 9, 21, dtype=torch.float64)

    def both(run, kind):
        state_, *weights_ = [v.to(kind).requires_grad_() for v in (state, *weights)]
        nodes, _ = run([state_], weights_, torch.ones(1, dtype=kind), None, plan)
        return [nodes, *torch.autograd.grad(nodes, [state_, *weights_], along.to(kind))]

    found, known = both(mixed_cell, dtype), both(reference_cell, torch.float64)
    # Sums of some hundred products, normalised twice
    tolerance = 1e3 * torch.finfo(dtype).eps
    for mine, other in zip(found, known, strict=True):
        assert (mine - other).norm() <= tolerance * other.norm()


def test_memory_of_an_earlier_call_is_used_again_unless_it_is_too_small(monkeypatch):
    monkeypatch.setattr(launch, "idle", [])
    both_directions(8, 2, 1)
    (held,) = launch.idle
    before = both_directions(8, 2, 1)
    assert launch.idle[0] is held
    both_directions(8, 2, 1, images=30)
    assert len(launch.idle) == 1
    assert len(launch.idle[0]) > len(held)
    after = both_directions(8, 2, 1)  # more memory than it needs, full of numbers
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    monkeypatch.setattr(launch, "MOST_IDLE", 0)
    launch.idle.clear()
    both_directions(8, 2, 1)
    assert not launch.idle
