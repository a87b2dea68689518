"""Chains: the counts of the published networks, one path or two of activations, and the pure function."""

import pytest
import torch
from torch.func import functional_call

from fastnas.costs.counts import multiply_adds, num_parameters
from fastnas.mechanisms.draw import Categorical, TwoPaths
from fastnas.networks.chain import ChainNetwork
from fastnas.networks.derived import build_network
from fastnas.spaces.chain_space import PROXYLESS, proxyless
from fastnas.spaces.formats import read_genotype
from fastnas.spaces.genotype import CellGenotype, Gene, Genotype
from fastnas.spaces.sampling import random_genotype
from fastnas.supernet.chain import ChainSupernet
from fastnas.supernet.layout import ChainShape, lay_out_chain, round_channels, shape_proxyless
from fastnas.supernet.mix import EdgeNoise, Mix, NodeMix
from fastnas.supernet.supernets import build_supernet
from tests.helpers import uniform_mix

SPACE = proxyless(2)


def small(seed=0):
    torch.manual_seed(seed)
    return ChainSupernet(10, channels=2, image_channels=1, space=SPACE).double()


def images(side=8):
    return torch.randn(4, 1, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def one_path(genotype):
    choice = torch.zeros(len(SPACE.edges), len(SPACE.primitives), dtype=torch.float64)
    columns = [[SPACE.primitives.index(gene.primitive) for gene in genes] for genes in genotype.normal.nodes]
    choice = choice.scatter(1, torch.tensor(columns), 1.0)
    return Mix({"normal": choice}, {}, {"normal": tuple(map(tuple, columns))})


# ---- counts ---------------------------------------------------------------------------------------------------------


def test_the_supernet_has_the_weights_of_the_published_one():
    with torch.device("meta"):
        assert num_parameters(ChainSupernet(1000, large=True)) == 16_034_168


PUBLISHED = {  # parameters as other implementations count them; widths of the stem, the first block, stages and head
    "PROXYLESS_CPU": (4_361_648, (40, 24, (32, 48, 88, 104, 216, 360), 1432)),
    "PROXYLESS_GPU": (7_119_848, (40, 24, (32, 56, 112, 128, 256, 432), 1728)),
    "PROXYLESS_MOBILE": (4_080_512, (32, 16, (32, 40, 80, 96, 192, 320), 1280)),
}


@pytest.mark.parametrize(("name", "expected"), PUBLISHED.items())
def test_the_published_networks_have_their_published_parameters(name, expected):
    parameters, (stem, first, stages, head) = expected
    shape = ChainShape(stem=stem, first=first, stages=stages, strides=(2, 2, 2, 1, 2, 1), head=head)
    with torch.device("meta"):
        network = ChainNetwork(read_genotype(name), 1000, large=True, shape=shape)
        assert num_parameters(network) == parameters
        if name == "PROXYLESS_GPU":  # 465 M in the authors' table
            assert multiply_adds(network, (3, 224, 224)) == 465_260_160


def test_widths_are_multiples_of_eight_never_more_than_a_tenth_below():
    assert [round_channels(width) for width in (1, 8, 11.9, 12, 16, 8.8, 100)] == [8, 8, 16, 16, 16, 8, 104]
    assert round_channels(10) == 16  # 8 would be a fifth less
    paper = shape_proxyless()
    assert (paper.stem, paper.first, paper.stages, paper.head) == (32, 16, (24, 40, 80, 96, 192, 320), 1280)
    assert shape_proxyless(8).head == 1280
    assert shape_proxyless(32).stages == (48, 80, 160, 192, 384, 640)


def test_the_first_block_of_a_stage_changes_channels_and_resolution_and_has_no_shortcut():
    places = lay_out_chain(PROXYLESS, shape_proxyless())
    heads = [place for place in places if not place.shortcut]
    expected = [(16, 24, 2), (24, 40, 2), (40, 80, 2), (80, 96, 1), (96, 192, 2), (192, 320, 1)]
    assert [place[:3] for place in heads] == expected
    assert all(place.inputs == place.outputs and place.stride == 1 for place in places if place.shortcut)
    odd = ChainShape(stem=8, first=8, stages=(8, 8), strides=(1, 1), head=8)
    with pytest.raises(ValueError, match=r"layout: shape must have 6 stages and strides, got \(2, 2\)"):
        lay_out_chain(PROXYLESS, odd)


# ---- what the supernet computes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_one_path_of_the_supernet_is_the_derived_network_in_training(seed):
    genotype, net = random_genotype(SPACE, seed), small()
    derived = ChainNetwork(genotype, 10, 2, 1, space=SPACE).double().train()
    ours = dict(net.named_parameters())
    primitives = [primitive for ((primitive, _),) in genotype.normal.nodes]
    with torch.no_grad():
        for name, p in derived.named_parameters():
            part, _, rest = name.partition(".operation.")
            source = f"{part}.candidates.{primitives[int(part.split('.')[1])]}.{rest}" if rest else name
            p.copy_(ours[source])
    x = images()
    torch.testing.assert_close(net(x, one_path(genotype)), derived(x), rtol=1e-12, atol=1e-12)  # float64


def test_a_mixture_is_the_sum_of_the_candidates_beside_the_shortcut_written_out():
    net, x = small(), images()
    generator = torch.Generator().manual_seed(1)
    mix = torch.rand(11, 7, dtype=torch.float64, generator=generator) * torch.tensor(SPACE.alive("normal"))
    state = net.stem(x)
    for row, block in enumerate(net.blocks):
        mixed = sum(mix[row, SPACE.primitives.index(name)] * op(state) for name, op in block.candidates.items())
        state = mixed if row in (0, 2, 4, 6, 8, 10) else state + mixed
    expected = net.classifier(net.head(state).mean((2, 3)))
    torch.testing.assert_close(net(x, Mix({"normal": mix}, {})), expected, rtol=1e-12, atol=1e-12)  # float64


def count_calls(net):
    calls = []
    for row, block in enumerate(net.blocks):
        for name, candidate in block.candidates.items():
            candidate.register_forward_hook(lambda *_, row=row, name=name: calls.append((row, name)))
    return calls


def test_only_the_sampled_path_or_the_two_sampled_paths_run():
    net, alpha = small(), torch.zeros(11, 7)
    alive = torch.tensor(SPACE.alive("normal"))
    calls = count_calls(net)
    for draw, paths, runs in ((Categorical(), 1, "on"), (TwoPaths(), 2, "reached")):
        calls.clear()
        sample = draw(alpha, alive, 1.0, 3)
        columns = tuple(tuple(row.nonzero().flatten().tolist()) for row in getattr(sample, runs))
        assert {len(row) for row in columns} == {paths}
        net(images(), Mix({"normal": sample.mix.double()}, {}, {"normal": columns}))
        wanted = [(row, SPACE.primitives[k]) for row, ks in enumerate(columns) for k in ks]
        assert sorted(calls) == sorted(pair for pair in wanted if pair[1] != "none")


def saved_bytes(net, mix, w_needed=True):
    w = {name: p if w_needed else p.detach() for name, p in net.named_parameters()}
    kept = {p.untyped_storage().data_ptr() for p in net.parameters()}
    saved = {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in kept:
            saved[t.untyped_storage().data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        functional_call(net, w, (images(16), mix)).sum()
    return sum(t.untyped_storage().nbytes() for t in saved.values())


def test_one_path_holds_a_fraction_of_the_activations_and_the_alpha_phase_fewer_than_both():
    net, whole = small(), uniform_mix(SPACE)
    path = one_path(random_genotype(SPACE, 1))
    assert saved_bytes(net, path) < 0.35 * saved_bytes(net, whole)  # stem and head are shared
    needed = {"normal": whole.candidates["normal"].clone().requires_grad_()}
    assert saved_bytes(net, whole._replace(candidates=needed), False) < 0.85 * saved_bytes(
        net, whole._replace(candidates=needed)
    )


def test_a_block_whose_candidates_are_all_off_passes_its_input_or_nothing():
    net, x = small(), images()
    off = Mix({"normal": torch.zeros(11, 7, dtype=torch.float64)}, {}, {"normal": ((),) * 11})
    calls = count_calls(net)
    logits = net(x, off)
    assert calls == []
    assert torch.equal(logits, logits[:1].expand_as(logits))  # nothing is left of the images
    block = net.blocks[1]
    state = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    node = NodeMix(torch.zeros(0, dtype=torch.float64), None, ((),))
    assert block(state, node) is state
    assert torch.equal(block(state, node._replace(offset=torch.tensor(2.0))), state + 2)
    head = net.blocks[0](torch.randn(2, 8, 5, 5, dtype=torch.float64), node)
    assert head.shape == (2, 8, 3, 3)
    assert not head.any()


def test_drop_path_drops_images_beside_a_shortcut_and_nowhere_else():
    net, x = small(), images()
    path = one_path(random_genotype(SPACE, 1))
    noisy = path._replace(noise=EdgeNoise(1 - 1e-9, 0.0, 3))
    logits = net(x, noisy)
    assert torch.equal(logits, net(x, noisy))
    left_out = Genotype(
        SPACE.name,
        CellGenotype(
            tuple(
                (gene,) if row in (0, 2, 4, 6, 8, 10) else (Gene("none", row),)
                for row, (gene,) in enumerate(random_genotype(SPACE, 1).normal.nodes)
            ),
            SPACE.concat,
        ),
    )
    torch.testing.assert_close(logits, net(x, one_path(left_out)), rtol=1e-12, atol=1e-12)  # all are dropped


def test_gradients_reach_every_candidate_and_every_coefficient_but_those_of_none():
    net, whole = small(), uniform_mix(SPACE)
    mix = whole.candidates["normal"].double().requires_grad_()
    loss = net(images(), Mix({"normal": mix}, {})).square().sum()
    grads = torch.autograd.grad(loss, [mix, *net.parameters()])
    assert all(g.isfinite().all() for g in grads)
    assert all(g.any() for g in grads)
    alive = torch.tensor(SPACE.alive("normal"))
    alive[:, SPACE.primitives.index("none")] = False  # its output is zero, and so is the slope of its coefficient
    assert torch.equal(grads[0] != 0, alive)


def test_large_images_are_halved_once_more_and_small_ones_down_to_one_pixel_pass():
    large = ChainSupernet(10, 2, 3, large=True, space=proxyless(1))
    assert large.stem(torch.randn(1, 3, 32, 32)).shape[-1] == 16
    assert small().stem(images(8)).shape[-1] == 8
    assert small()(images(8), uniform_mix(SPACE)).isfinite().all()


def test_a_supernet_of_the_chain_takes_its_depth_from_cells_and_refuses_partial_channels():
    assert build_supernet(PROXYLESS, 10, 2, 3, 1, 1, False).space == proxyless(3)
    with pytest.raises(
        ValueError, match=r"search: partial channels must be off \(k=1\) in the space proxyless, got k=4"
    ):
        build_supernet(PROXYLESS, 10, 2, 3, 4, 1, False)
    with pytest.raises(ValueError, match="cells must be 2, the blocks in a stage"):
        build_network(random_genotype(SPACE, 0), 10, 2, 4, 1, 8, False, False)
    with pytest.raises(ValueError, match="auxiliary must be off for proxyless_2 genotypes"):
        build_network(random_genotype(SPACE, 0), 10, 2, 2, 1, 8, False, True)
