"""What is left alone, and what happens when a replaced module is changed afterwards."""

import copy
import functools
import re
import warnings

import pytest
import torch
from torch import nn

from fastnas import MixedOp, accelerate


def arguments(channels=8, size=6):
    return torch.randn(2, channels, size, size, dtype=torch.float64), torch.rand(8, dtype=torch.float64)


def reasons(network):
    return {entry.name: entry.reason for entry in accelerate(network).left}


class Spoilt(nn.Module):
    """The parts of a mixed operation, put together in another way."""

    def __init__(self, blend, how):
        super().__init__()
        self.paths, self.how = blend.paths, how

    def forward(self, x, weights):
        terms = [w * path(x) for w, path in zip(weights, self.paths, strict=True)]
        if self.how == "squared":
            return sum(w * term for w, term in zip(weights, terms, strict=True))
        if self.how == "rectified":
            return sum(terms).relu()
        if self.how == "without the first":
            return sum(terms[1:])
        if self.how == "constant coefficients":
            return sum(w.detach() * path(x) for w, path in zip(weights, self.paths, strict=True))
        if self.how == "fails":
            raise KeyError("no such thing")
        return sum(terms), None


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("squared", "its output differs by .* from the engine's"),
        ("rectified", "its output differs by .* from the engine's"),
        ("without the first", "its output differs by"),
        ("constant coefficients", "the gradient of weights: the engine gives one and its own forward none"),
        ("fails", r"it does not take arguments of shapes \[2, 8, 8, 8\], \[8\]: 'no such thing'"),
        ("a pair", "it returns tuple, not images"),
    ],
)
def test_a_module_that_only_looks_like_a_mixed_operation_is_found_out(make_blend, how, reason):
    spoilt = Spoilt(make_blend(), how)
    assert re.search(reason, reasons(spoilt)[""])
    assert "forward" not in spoilt.__dict__


@pytest.mark.parametrize("kept", [[1], [5], [3, 2]], ids=["a pool", "a convolution", "a pool beside none"])
def test_what_mixes_nothing_is_left_to_pytorch(make_blend, kept):
    blend = make_blend()
    blend.paths = nn.ModuleList(blend.paths[i] for i in kept)
    assert reasons(blend) == {"": "nothing is mixed in it, and PyTorch's own operations are faster"}
    blend.paths.append(make_blend().paths[0])
    assert not reasons(blend)


def change(blend, what):
    """Give one candidate something that the engine does not have."""
    first, pool = blend.paths[0].body, blend.paths[1]
    if what == "affine":
        first[3] = nn.BatchNorm2d(8)
    elif what == "eps":
        first[3] = nn.BatchNorm2d(8, eps=1e-3, affine=False)
    elif what == "bias":
        first[1] = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    elif what == "padding":
        first[1] = nn.Conv2d(8, 8, 3, padding=2, groups=8, bias=False)
    elif what == "oblong":
        first[1] = nn.Conv2d(8, 8, (1, 3), padding=(0, 1), groups=8, bias=False)
    elif what == "activation":
        first[0] = nn.GELU()
    elif what == "layer":
        first[0] = nn.PReLU()
    elif what == "pool":
        pool.pool = nn.MaxPool2d(5, 1, 2)
    elif what == "two norms":
        blend.paths[1] = nn.Sequential(blend.paths[1], nn.BatchNorm2d(8, affine=False))
    elif what == "counted":
        blend.paths[2][0] = nn.AvgPool2d(3, 1, 1)
    elif what == "dropout":
        blend.paths[4] = nn.Sequential(nn.Identity(), nn.Dropout(0.2))
    elif what == "stride":
        blend.paths[1].pool = nn.MaxPool2d(3, 2, 1)
    return blend.double()


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("affine", r"candidate paths\.0 \(Wrapped\): its normalisation body\.3 has a scale and a shift"),
        ("eps", r"add eps \[1e-05, 0\.001\]"),
        ("bias", "its convolutions have a bias that is not added right before a normalisation"),
        ("padding", "it does not take arguments of shapes"),
        ("oblong", "not the same in both directions"),
        ("activation", "its forward calls gelu"),
        ("layer", r"no layer like PReLU \(body\.0\)"),
        ("pool", "not over 3x3 pixels"),
        ("two norms", "0 convolutions, 1 pools and 2 normalisations together are no known candidate"),
        ("counted", "count_include_pad"),
        ("dropout", r"drops values at random \(p=0\.2\)"),
        ("stride", r"its candidates have strides \[1, 2\]"),
    ],
)
def test_a_candidate_that_the_engine_does_not_have_runs_itself_and_the_report_says_why(make_blend, what, reason):
    blend = change(make_blend(), what)
    twin = copy.deepcopy(blend)
    report = accelerate(twin)
    if what in ("eps", "stride", "activation", "padding"):  # each candidate is known, but not beside the others
        assert re.search(reason, report.left[0].reason)
        return
    assert re.search(reason, report.replaced[0].what)
    assert_trained_alike(blend, twin)


def test_a_convolution_in_another_order_runs_itself_and_not_the_whole_edge(make_blend):
    blend = make_blend()
    blend.paths[2] = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).double()
    twin = copy.deepcopy(blend)
    (entry,) = accelerate(twin).replaced
    assert entry.what.endswith("candidate paths.2: it is not ReLU, convolution and normalisation in this order")
    assert_trained_alike(blend, twin)


def assert_trained_alike(one, other):
    """Outputs, gradients and running statistics are equal, and where there is no gradient, there is none."""
    x, weights = arguments()
    seen = []
    for module in (one, other):
        torch.manual_seed(1)
        variables = [x.clone().requires_grad_(), weights.clone().requires_grad_(), *module.parameters()]
        y = module(*variables[:2])
        seen.append([y, *torch.autograd.grad((y**3).sum(), variables, allow_unused=True), *module.buffers()])
    for a, b in zip(*seen, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a - b).abs().max() <= 1e-9 * a.abs().max() + 1e-11


def test_one_foreign_candidate_runs_itself_in_a_cell_that_is_replaced_whole(make_block):
    block = make_block()
    change(block.links[4], "bias")
    report = accelerate(block)
    assert [(entry.name, entry.level) for entry in report.replaced] == [("", "cell")]
    assert "node by node: candidate links.4.paths.0 (Wrapped): its convolutions have a bias" in report.replaced[0].what


def test_a_node_of_foreign_candidates_alone_leaves_the_edges_of_its_cell_to_the_engine(make_block):
    block = make_block()
    for link in block.links[:2]:
        change(link, "bias")
        link.paths = nn.ModuleList([link.paths[0]])
    report = accelerate(block)
    assert [entry.name for entry in report.replaced] == [f"links.{i}" for i in range(2, 5)]
    assert "" in {entry.name for entry in report.left}


def test_a_dropout_that_drops_nothing_does_no_harm(make_blend):
    blend = make_blend()
    blend.paths[4] = nn.Sequential(nn.Identity(), nn.Dropout(0.0))
    assert reasons(blend) == {}


@pytest.mark.parametrize(
    "hook",
    [
        lambda module: module.register_forward_hook(lambda *_: None),
        lambda module: module.register_forward_pre_hook(lambda *_: None),
        lambda module: module.register_full_backward_hook(lambda *_: None),
        lambda module: module.register_full_backward_pre_hook(lambda *_: None),
    ],
)
def test_a_hook_that_would_not_fire_any_more_leaves_the_module(make_blend, hook):
    blend = make_blend()
    hook(blend.paths[0].body[1])
    assert "a hook sits on its part Conv2d" in reasons(blend)[""]


def test_hooks_on_a_replaced_module_and_on_what_prepares_its_inputs_fire(make_block):
    block, fired = make_block(), []
    block.register_forward_hook(lambda *_: fired.append("block"))
    block.left.register_forward_hook(lambda *_: fired.append("left"))
    assert [entry.level for entry in accelerate(block).replaced] == ["cell"]
    assert fired == []  # not in the proof, which runs on a copy
    block(*arguments()[:1] * 2, torch.rand(5, 8, dtype=torch.float64))
    assert fired == ["left", "block"]


def test_a_hook_on_a_mixed_operation_leaves_the_cell_and_fires_at_the_edge(make_block):
    block, fired = make_block(), []
    block.links[2].register_forward_hook(lambda *_: fired.append(2))
    report = accelerate(block)
    assert len(report.replaced) == 5
    assert "a hook sits on its part Blend" in report.left[0].reason
    block(*arguments()[:1] * 2, torch.rand(5, 8, dtype=torch.float64))
    assert fired == [2]


def test_a_hook_that_comes_later_is_respected_with_a_warning(make_blend):
    blend, fired = make_blend(), []
    accelerate(blend)
    handle = blend.paths[0].register_forward_hook(lambda *_: fired.append(1))
    with pytest.warns(RuntimeWarning, match=r"got a hook sits on its part Wrapped.*Its own forward runs\."):
        blend(*arguments())
    assert fired == [1]
    handle.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blend(*arguments())


def test_frozen_statistics_of_some_normalisations_are_respected_with_a_warning(make_blend):
    blend = make_blend()
    twin = copy.deepcopy(blend)
    accelerate(twin)
    given = arguments()
    for module in (blend, twin):
        module.paths[0].body[3].eval()
    expected = blend(*given)
    with pytest.warns(RuntimeWarning, match="some of its normalisations use the statistics of the batch"):
        assert torch.equal(twin(*given), expected)


def test_a_forward_that_somebody_else_replaced_is_left(make_blend):
    blend = make_blend()
    mine = blend.forward
    blend.forward = functools.partial(mine)
    assert reasons(blend) == {"": "its forward was overridden"}


def test_the_proof_leaves_the_module_and_the_generator_as_they_were(make_blend):
    blend = make_blend()
    before, generator = {k: v.clone() for k, v in blend.state_dict().items()}, torch.get_rng_state()
    accelerate(blend)
    assert all(torch.equal(value, before[name]) for name, value in blend.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in blend.parameters())
    assert blend.training


def test_wrong_calls_are_refused_in_one_line(make_blend, make_block):
    blend, block = make_blend(), make_block()
    accelerate(blend), accelerate(block)
    x, weights = arguments()
    with pytest.raises(TypeError, match=r"Blend: arguments must be \['h', 'coefficients'\], got 1 and \[\]"):
        blend(x)
    with pytest.raises(ValueError, match=r"Blend: weights must be 8 for each edge, got 7"):
        blend(x, weights[:7])
    with pytest.raises(ValueError, match=r"Block: weights must have a row for each of 5 edges, got 2"):
        block(x, x, torch.rand(2, 8))
    with pytest.raises(ValueError, match=r"Blend: a channel must have more than one value .* got 1"):
        blend(x[:1, :, :1, :1], weights)


def test_named_arguments_are_taken(make_blend):
    blend = make_blend()
    accelerate(blend)
    x, weights = arguments()
    assert torch.equal(blend(coefficients=weights, h=x), blend(x, weights))


@pytest.mark.parametrize("container", ["parameters", "numbers", "parameter list"])
def test_coefficients_come_in_any_container(make_blend, container):
    blend = make_blend()
    twin = copy.deepcopy(blend)
    accelerate(twin)
    x, _ = arguments()
    if container == "numbers":
        expected, result = (module(x, [0.5, 0, 0, 1.0, 0, 0, 0, 2]) for module in (blend, twin))
        assert (expected - result).abs().max() <= 1e-10 * expected.abs().max()
        return
    numbers = [nn.Parameter(torch.rand((), dtype=torch.float64)) for _ in range(8)]
    coefficients = nn.ParameterList(numbers) if container == "parameter list" else numbers
    of_module = [torch.autograd.grad((module(x, coefficients) ** 3).sum(), numbers) for module in (blend, twin)]
    for theirs, mine in zip(*of_module, strict=True):
        assert (theirs - mine).abs() <= 1e-10 * max(g.abs() for g in of_module[0])
    assert of_module[1][3] == 0  # of `none`: zero, and not absent


def test_the_gradient_of_none_is_zero_wherever_it_stands(make_blend):
    blend = make_blend()
    accelerate(blend)
    x, weights = arguments()
    (gradient,) = torch.autograd.grad((blend(x, weights.requires_grad_()) ** 3).sum(), weights)
    assert gradient[3] == 0
    assert (gradient != 0).sum() == 7


@pytest.mark.parametrize("kind", ["all", "quarter", "half"])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_share_of_the_channels_is_read_or_found_by_trying(make_blend, kind, stride):
    blend = make_blend(kind, stride)
    twin = copy.deepcopy(blend)
    (entry,) = accelerate(twin).replaced
    assert {"all": "8 channels, s", "quarter": "1/4 of them mixed", "half": "1/2 of them mixed"}[kind] in entry.what
    given = arguments()
    expected, result = blend(*given), twin(*given)
    assert (expected - result).abs().max() <= 1e-10 * expected.abs().max()


def test_our_own_mixed_operation_is_no_foreign_one():
    assert reasons(nn.Sequential(MixedOp(8, 1))) == {"0": "it runs on the engine by itself"}


def test_modules_are_found_by_keys_too(make_block):
    """Edges by name, and candidates by name."""

    class Keyed(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.left, self.right = block.left, block.right
            keys = [f"{node}<-{source}" for node in range(2) for source in range(2 + node)]
            self.edges = nn.ModuleDict(dict(zip(keys, block.links, strict=True)))

        def forward(self, a, b, table):
            states, row = [self.left(a), self.right(b)], 0
            for node in range(2):
                terms = []
                for source, state in enumerate(list(states)):
                    terms.append(self.edges[f"{node}<-{source}"](state, table[row]))
                    row += 1
                states.append(sum(terms))
            return states[-1]

    class Named(nn.Module):
        def __init__(self, blend):
            super().__init__()
            self.ops = nn.ModuleDict({f"op_{k}": path for k, path in enumerate(blend.paths)})

        def forward(self, x, weights):
            return sum(w * op(x) for w, op in zip(weights, self.ops.values(), strict=True))

    own = Keyed(make_block())
    fast = copy.deepcopy(own)
    assert [(entry.name, entry.level) for entry in accelerate(fast).replaced] == [("", "cell")]
    x, table = arguments()[0], torch.rand(5, 8, dtype=torch.float64)
    expected, result = own(x, x, table), fast(x, x, table)
    assert (expected - result).abs().max() <= 1e-10 * expected.abs().max()
    own = Named(make_block().links[0])
    fast = copy.deepcopy(own)
    assert [entry.level for entry in accelerate(fast).replaced] == ["edge"]
    assert_trained_alike(own, fast)


def test_candidates_without_a_mixed_operation_are_reported(make_blend):
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.edges = nn.ModuleDict({"1<-0": make_blend().paths})

        def forward(self, x):
            return x

    left = reasons(Cell())
    assert left == {"edges": "ModuleDict holds candidates, but computes no forward(x, weights) of them"}


def test_a_forward_of_another_name_is_named(make_blend):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.paths = make_blend().paths

        def forward_gdas(self, x, weights, index):
            return self.paths[index](x) * weights[index]

    assert reasons(Named())[""].endswith(
        "forward(x, weights) of them: let forward(x, weights) do what forward_gdas does"
    )
