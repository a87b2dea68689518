"""The networks of DSO-NAS, and searches in its space."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from fastnas.checks.check import check
from fastnas.costs.config import CostConfig, find_costs
from fastnas.costs.tables import NetworkSize
from fastnas.data import load_data
from fastnas.engine import search
from fastnas.methods.library import darts, dso_nas, gdas, p_darts, pc_darts
from fastnas.networks.derived import build_network
from fastnas.networks.graph import GraphNetwork, structure
from fastnas.networks.training_pass import TrainingPass
from fastnas.spaces.genotype import CellGenotype, Gene, Genotype
from fastnas.spaces.graph_space import DSO, DSO_FULL, dso
from fastnas.supernet.dag import DagSupernet
from fastnas.supernet.mix import EdgeNoise, Mix
from fastnas.supernet.supernets import build_supernet
from fastnas.training.config import SearchConfig
from tests.helpers import quick_method

DIGITS = load_data("digits")
TINY = SearchConfig(channels=4, cells=1, epochs=3, warmup_epochs=0, batch_size=8, train_fraction=0.03, device="cpu")
NUMBER = len(DSO.edges)


@pytest.fixture
def supernet():
    torch.manual_seed(0)
    return DagSupernet(10, channels=4, cells=2, image_channels=1).double()


@pytest.fixture
def images():
    return torch.rand(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def mix_of(scales, alive=None):
    rows = torch.stack([torch.zeros_like(scales), scales], 1)
    columns = {} if alive is None else {"normal": tuple((0, 1) if lives else (0,) for lives in alive)}
    return Mix({"normal": rows}, {}, columns)


def written_out(supernet, images, scales):
    """The network of the published figure, with a scale for each connection."""
    rows = {target: scales[list(DSO.rows(target))] for target in DSO.targets}

    def norm(x):
        return F.batch_norm(x, None, None, training=True)

    def block(module, x):
        states = [x]
        for place in range(16):
            number = 1 + 4 * (place // 4)
            entered = x if place < 4 else sum(s * y for s, y in zip(rows[1 + place], states[:number], strict=True))
            states.append(module.operations[str(1 + place)](entered))
        outputs = [
            F.conv2d(s * y, module.projections[str(1 + i)].weight)
            for i, (s, y) in enumerate(zip(rows[17], states[1:], strict=True))
        ]
        return module.shortcut(x) + norm(sum(outputs)).relu()

    state = supernet.body.stem(images)[0].relu()
    reductions = iter((20, 23))
    for module in supernet.body.blocks:
        if module.kind == "reduction":
            one, three = rows[next(reductions)]
            state = one * module.operations["1"](state) + three * module.operations["2"](state)
        else:
            state = block(module, state)
    return supernet.body.classifier(supernet.body.norm(state).relu().mean((2, 3)))


def test_the_supernet_is_the_published_graph_written_out_at_any_scales(supernet, images):
    kinds = [module.kind for module in supernet.body.blocks]
    assert kinds == ["normal", "normal", "reduction", "normal", "normal", "reduction", "normal", "normal"]
    for scales in (torch.ones(NUMBER).double(), torch.rand(NUMBER).double()):
        expected = written_out(supernet, images, scales)
        torch.testing.assert_close(supernet(images, mix_of(scales)), expected, rtol=1e-9, atol=1e-9)  # float64


def test_at_scales_of_one_nothing_is_scaled(supernet, images):
    ones = torch.ones(NUMBER).double()
    doubled = ones.clone()
    doubled[list(DSO.rows(5))] = 2.0  # all that enters one operation: its normalisation undoes it
    torch.testing.assert_close(supernet(images, mix_of(ones)), supernet(images, mix_of(doubled)), rtol=1e-4, atol=1e-4)
    doubled[0] = 1.0
    assert not torch.allclose(supernet(images, mix_of(ones)), supernet(images, mix_of(doubled)), rtol=1e-3, atol=1e-3)


def test_removing_connections_of_scale_zero_leaves_the_output_and_runs_less(supernet, images):
    scales = torch.rand(NUMBER, generator=torch.Generator().manual_seed(2)).double()
    alive = torch.rand(NUMBER, generator=torch.Generator().manual_seed(3)) < 0.25
    alive[-4:] = True  # the reductions
    scales = scales * alive
    ran = []
    for block in supernet.body.blocks:
        for name, operation in block.operations.items():
            operation.register_forward_hook(lambda *_, name=name: ran.append(name))
    with_zeros = supernet(images, mix_of(scales))
    everything, ran[:] = len(ran), []
    removed = supernet(images, mix_of(scales, alive.tolist()))
    torch.testing.assert_close(removed, with_zeros, rtol=1e-6, atol=1e-6)
    assert len(ran) < everything == 6 * 16 + 2 * 2


def test_a_graph_of_which_nothing_is_left_is_its_shortcut(supernet, images):
    scales = torch.zeros(NUMBER).double()
    scales[-4:] = 1
    logits = supernet(images, mix_of(scales, (scales > 0).tolist()))
    state = supernet.body.stem(images)[0].relu()
    for block in supernet.body.blocks:
        halves = block.kind == "reduction"
        state = sum(op(state) for op in block.operations.values()) if halves else block.shortcut(state)
    expected = supernet.body.classifier(supernet.body.norm(state).relu().mean((2, 3)))
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    assert supernet(images, mix_of(0 * scales, [False] * NUMBER)).isfinite().all()


def some_connections(space, seed, share=0.3):
    generator = torch.Generator().manual_seed(seed)

    def gene(source):
        return Gene("connect" if float(torch.rand(1, generator=generator)) < share else "none", source)

    nodes = [[gene(source) for source in space.sources(target)] for target in space.targets]
    for span in (span for kind, span in zip(space.dag.blocks, space.dag.spans, strict=True) if kind == "reduction"):
        nodes[span[-1]] = [Gene("connect", gene.source) for gene in nodes[span[-1]]]
    return Genotype(space.name, CellGenotype(tuple(map(tuple, nodes)), space.concat))


@pytest.mark.parametrize("space", [DSO, dso(1)], ids=lambda space: space.name)
def test_the_derived_network_holds_what_is_left_and_trains(space):
    genotype = some_connections(space, 0)
    network = build_network(genotype, 10, 4, 1, 1, 8, False, False, space)
    logits, _ = TrainingPass(network)(torch.rand(4, 1, 8, 8), 0.2, 0)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())  # so nothing was built that does not take part
    built = sum(len(block.operations) for block in network.blocks)
    assert built < sum(len(space.dag.nodes_of(kind)) - 1 for kind in space.dag.blocks) * 2


def test_removing_structure_leaves_the_function_of_the_derived_network():
    torch.manual_seed(0)
    genotype = some_connections(DSO, 1)
    network = GraphNetwork(genotype, 10, 4, 1, 1)
    whole = DagSupernet(10, 4, 1, 1)
    left = network.state_dict()
    shared = {f"body.{name}": tensor for name, tensor in left.items() if f"body.{name}" in whole.state_dict()}
    assert len(shared) > 20
    whole.load_state_dict(shared, strict=False)
    assert len(structure(DSO.dag, genotype.normal, 0)[0]) < 16
    rows = [gene.primitive == "connect" for node in genotype.normal.nodes for gene in node]
    images = torch.rand(4, 1, 8, 8)
    mix = mix_of(torch.tensor(rows).float())
    torch.testing.assert_close(network.train()(images), whole(images, mix), rtol=1e-4, atol=1e-4)  # float32


@pytest.mark.parametrize("space", [DSO, DSO_FULL], ids=lambda space: space.name)
def test_dso_nas_searches_its_space_and_removes_what_it_drove_to_zero(space):
    method = replace(dso_nas(gamma=0.3), prune_every=1)
    result = search(space, method, DIGITS, replace(TINY, epochs=4, alpha_lr=0.2))
    result.supernet.space.check(result.genotype)
    scales = result.alpha["alpha.normal"][:, 1]
    assert (scales >= 0).all()
    assert 0 < int((scales == 0).sum()) < len(scales)
    kept = [gene.primitive == "connect" for node in result.genotype.normal.nodes for gene in node]
    assert kept == (scales > 0).tolist()
    assert sum(result.history[-1]["alive"]["normal"]) < 2 * len(scales)
    network = build_network(result.genotype, 10, 4, 1, 1, 8, False, False, result.supernet.space)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("name", ["darts", "snas", "gdas", "parsec", "nasp", "proxyless_nas", "asap"])
def test_other_methods_choose_between_a_connection_and_none(name):
    result = search(DSO, quick_method(name), DIGITS, replace(TINY, epochs=2))
    DSO.check(result.genotype)
    assert all(tensor.isfinite().all() for tensor in [*result.alpha.values(), *result.supernet.parameters()])


@pytest.mark.parametrize(
    "method", [dso_nas(), pytest.param(darts(), marks=pytest.mark.slow), pytest.param(gdas(), marks=pytest.mark.slow)]
)
def test_the_gradients_in_a_full_graph_are_those_that_are_claimed(method):
    report = check(DSO, method)
    assert report.ok, report


def test_what_has_no_meaning_in_a_full_graph_is_refused():
    with pytest.raises(ValueError, match=r"partial_channels=4 does not work in the space dso.*are nodes"):
        search(DSO, pc_darts(), DIGITS, TINY)
    with pytest.raises(ValueError, match="a stage with added_cells does not work in the space dso_full"):
        search(DSO_FULL, p_darts(), DIGITS, TINY)
    with pytest.raises(ValueError, match="space 'dso' must search on images of at most 96 pixels"):
        build_supernet(DSO, 10, 4, 1, 1, 3, True)
    with pytest.raises(ValueError, match="the space must be one whose costs add up over edges, which dso is not"):
        find_costs(CostConfig(of="parameters", limit=1.0), DSO, NetworkSize(channels=4, cells=1))


@pytest.mark.parametrize("words", [("cell",), ("none", "edges"), ("none", "cell", "joined", "none", "edges")])
def test_evaluating_blocks_again_changes_no_bit(words):
    gradients = []
    for recompute in (("none",), words):
        torch.manual_seed(0)
        supernet = build_supernet(DSO, 10, 4, 1, 1, 1, False, recompute)
        scales = torch.rand(NUMBER, generator=torch.Generator().manual_seed(2)).requires_grad_()
        mix = mix_of(scales)._replace(noise=EdgeNoise(0.3, 0.0, 5))
        loss = supernet(torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(3)), mix).square().sum()
        gradients.append(torch.autograd.grad(loss, [scales, *supernet.parameters()]))
    assert all(map(torch.equal, *gradients))
    assert len(supernet.units) == 1 + 5
