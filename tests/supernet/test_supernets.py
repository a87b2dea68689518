import pytest
import torch
from torch.func import functional_call

from fastnas.spaces.cell_space import DARTS, NASBENCH201
from fastnas.spaces.graph_space import DSO
from fastnas.spaces.registry import SPACES
from fastnas.supernet.architecture import draw_logits
from fastnas.supernet.supernets import DartsSupernet, NasBench201Supernet, build_supernet
from tests.helpers import uniform_mix

CPU = torch.device("cpu")


def build(space, k=1):
    return build_supernet(space, 10, 8, 3 if space.num_inputs == 2 else 1, k, 3, False)


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_a_supernet_is_a_pure_function_without_any_state(space):
    net, images = build(space).train(), torch.randn(4, 3, 16, 16)
    mix = uniform_mix(net.space)
    assert not list(net.buffers())
    first = net(images, mix)
    assert first.shape == (4, 10)
    assert torch.equal(first, net(images, mix))
    assert torch.equal(first, net.eval()(images, mix))


def test_odd_images_go_through_a_partially_connected_supernet():
    for space, k in ((DARTS, 4), (NASBENCH201, 2)):
        assert build(space, k)(torch.randn(2, 3, 9, 9), uniform_mix(space)).shape == (2, 10)


def test_evaluating_a_supernet_twice_gives_the_same_gradients():
    net, images, mix = build(DARTS), torch.randn(2, 3, 9, 9), uniform_mix(DARTS)
    first, second = (torch.autograd.grad(net(images, mix).sum(), list(net.parameters())) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_a_large_supernet_begins_at_an_eighth_of_the_resolution():
    net = DartsSupernet(10, channels=8, cells=3, image_channels=3, large=True)
    older, newer = net.stem(torch.randn(2, 3, 64, 64))
    assert (older.shape[-1], newer.shape[-1]) == (16, 8)
    assert net(torch.randn(2, 3, 64, 64), uniform_mix(DARTS)).shape == (2, 10)


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_logits_have_a_row_an_edge_and_are_no_network_parameters(space):
    logits = draw_logits(space, with_beta=True, seed=3, device=CPU)
    assert all(logits[f"alpha.{t}"].shape == (len(space.edges), len(space.primitives)) for t in space.cell_types)
    assert all(logits[f"beta.{t}"].shape == (len(space.edges),) for t in space.cell_types)
    net = build(space)
    assert not {id(p) for p in net.parameters()} & {id(a) for a in logits.values()}
    assert not [name for name, _ in net.named_parameters() if {"alpha", "beta"} & set(name.split("."))]
    assert not {tuple(a.shape) for a in logits.values()} & {tuple(p.shape) for p in net.parameters()}
    assert all(0 < a.abs().max() < 5e-3 and a.dtype == torch.float32 for a in logits.values())
    without = draw_logits(space, with_beta=False, seed=3, device=CPU)
    assert all(torch.equal(without[name], logits[name]) for name in without)


@pytest.mark.parametrize(
    ("space", "alpha_share", "weight_share"), [(DARTS, 0.75, 0.85), (NASBENCH201, 0.85, 0.85), (DSO, 0.85, 1.0)]
)
def test_the_alpha_phase_saves_fewer_bytes_than_both_and_so_does_the_weight_phase(
    monkeypatch, space, alpha_share, weight_share
):
    monkeypatch.setenv("FASTNAS_BACKEND", "reference")  # kernels save the states of a cell and nothing else, ever
    net, images = build(space), torch.randn(4, 3, 16, 16)

    def saved_bytes(w_needed, mix_needed):
        mix = uniform_mix(space)
        mix = mix._replace(candidates={t: a.clone().requires_grad_(mix_needed) for t, a in mix.candidates.items()})
        w = {name: p if w_needed else p.detach() for name, p in net.named_parameters()}
        weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
        storages = {}

        def pack(t):
            if t.untyped_storage().data_ptr() not in weights:
                storages[t.untyped_storage().data_ptr()] = (t.untyped_storage().nbytes(), t)
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            functional_call(net, w, (images, mix)).sum()
        return sum(num_bytes for num_bytes, _ in storages.values())

    both = saved_bytes(True, True)
    assert saved_bytes(False, True) < alpha_share * both
    assert saved_bytes(True, False) < weight_share * both


def test_sizes_that_make_no_network_are_refused():
    with pytest.raises(ValueError, match="cells must be at least 3, got 2"):
        DartsSupernet(10, cells=2)
    with pytest.raises(ValueError, match="cells must be at least 1 in a stage, got 0"):
        NasBench201Supernet(10, cells=0)
    with pytest.raises(ValueError, match="space 'nasbench201' must search on images of at most 96 pixels"):
        build_supernet(NASBENCH201, 10, 8, 1, 1, 3, True)
