"""Derived networks are plain PyTorch: what people do to any network works."""

import copy
import importlib

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from fastnas.costs.counts import multiply_adds, num_parameters
from fastnas.networks.derived import build_network
from fastnas.networks.graph import GraphNetwork
from fastnas.spaces import DSO, random_genotype, space_by_name

SIDE = 16
SPACES = ("darts", "gdas_frc", "nasbench201", "sharperdarts", "proxyless_1", "dso_full_1")


def network_in(name):
    space = space_by_name(name)
    torch.manual_seed(0)
    auxiliary = False
    network = build_network(random_genotype(space, 1), 10, 4, space.min_cells, 3, SIDE, False, auxiliary, space)
    return network.eval()


@pytest.fixture(params=SPACES)
def network(request):
    return network_in(request.param)


@pytest.fixture
def images():
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def test_all_that_computes_is_of_torch_nn_and_the_logits_are_one_tensor(network, images):
    assert isinstance(network(images), torch.Tensor)
    leaves = [m for m in network.modules() if not list(m.children()) and list(m.parameters(recurse=False))]
    assert {type(leaf).__module__.split(".")[0] for leaf in leaves} == {"torch"}
    assert any(isinstance(leaf, nn.Conv2d) for leaf in leaves)


def test_it_can_be_scripted_and_traced(network, images):
    expected = network(images)
    for converted in (torch.jit.script(network), torch.jit.trace(network, images)):
        torch.testing.assert_close(converted(images), expected, rtol=1e-5, atol=1e-5)  # float32


def test_it_can_be_exported(network, images):
    exported = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    more = torch.cat([images, images, images])
    torch.testing.assert_close(exported.module()(more), network(more), rtol=1e-5, atol=1e-5)  # float32


def test_graph_mode_quantisation_prepares_it(images):
    from torch.ao.quantization import get_default_qconfig_mapping  # noqa: PLC0415  (slow to import)
    from torch.ao.quantization.quantize_fx import prepare_fx  # noqa: PLC0415

    for name in ("darts", "nasbench201", "proxyless_1"):
        network = network_in(name)
        prepared = prepare_fx(copy.deepcopy(network), get_default_qconfig_mapping(), (images,))
        torch.testing.assert_close(prepared(images), network(images), rtol=1e-4, atol=1e-4)  # observers change nothing
        assert any("activation_post_process" in name for name, _ in prepared.named_modules())


def test_pruning_finds_its_convolutions(network, images):
    before = network(images)
    found = [(m, "weight") for m in network.modules() if isinstance(m, nn.Conv2d)]
    prune.global_unstructured(found, prune.L1Unstructured, amount=0.5)
    zeros, total = sum(int((m.weight == 0).sum()) for m, _ in found), sum(m.weight.numel() for m, _ in found)
    assert zeros / total == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(network(images), before)


def counters():
    shape = (3, SIDE, SIDE)

    def by_thop(net):
        return importlib.import_module("thop").profile(net, (torch.zeros(1, *shape),), verbose=False)[0]

    def by_ptflops(net):
        count = importlib.import_module("ptflops").get_model_complexity_info
        return count(net, shape, as_strings=False, print_per_layer_stat=False, backend="pytorch")[0]

    def by_fvcore(net):
        return importlib.import_module("fvcore.nn").FlopCountAnalysis(net, torch.zeros(1, *shape)).total()

    def by_torchinfo(net):
        return importlib.import_module("torchinfo").summary(net, (1, *shape), verbose=0).total_mult_adds

    return {"thop": by_thop, "ptflops": by_ptflops, "fvcore": by_fvcore, "torchinfo": by_torchinfo}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", counters())
def test_counters_of_multiply_adds_find_them(name):
    pytest.importorskip(name, reason=f"{name} is not installed")
    for space in ("darts", "nasbench201"):
        network = network_in(space)
        exact = multiply_adds(network, (3, SIDE, SIDE))
        counted = counters()[name](copy.deepcopy(network))
        assert exact <= 1.001 * counted, "no convolution is overlooked"
        assert counted < 1.6 * exact, "some count normalisations and pools, too"


def test_weights_of_graphs_saved_before_are_read():
    torch.manual_seed(0)
    network = GraphNetwork(random_genotype(DSO, 1), 10, 4, 1, 1).eval()
    with torch.no_grad():
        for block in network.blocks:
            block.scales.uniform_()
    now, before = network.state_dict(), {}
    for name, tensor in now.items():
        if not name.endswith(".scales"):
            before[f"body.{name}"] = tensor
            continue
        block = network.blocks[int(name.split(".")[1])]
        sizes = [len(reads) for reads in getattr(block, "reads", []) if reads]
        sizes.append(tensor.numel() - sum(sizes))
        for node, part in enumerate(tensor.split(sizes)):
            before[f"scales.{name.split('.')[1]}.{10 * node + 5}"] = part
    again = GraphNetwork(random_genotype(DSO, 1), 10, 4, 1, 1).eval()
    again.load_state_dict(before)
    images = torch.rand(2, 1, SIDE, SIDE)
    assert torch.equal(again(images), network(images))
    assert num_parameters(again) == num_parameters(network)
