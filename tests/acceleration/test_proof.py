"""Modules that differ from what the drop-in believes in one respect: none of them may be replaced wrongly."""

import copy
import itertools
import math
import re
import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastnas

C = 4
SWITCH, TABLE, COUNTER = 0.0, {"share": 0.0}, itertools.count()


class Config:
    share = 0.0
    calls = 0


class Knob:
    share = 0.0


def norm():
    return nn.BatchNorm2d(C, affine=False)


def candidates():
    convolution = nn.Sequential(
        nn.ReLU(), nn.Conv2d(C, C, 3, padding=1, groups=C, bias=False), nn.Conv2d(C, C, 1, bias=False), norm()
    )
    return [convolution, nn.Sequential(nn.MaxPool2d(3, 1, 1), norm()), nn.Identity()]


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.paths = nn.ModuleList(candidates())
        self.share, self.calls, self.log, self.tau, self.cache = 0.0, 0, [], 1.0, None
        self.knob, self.parent = Knob(), [None]
        self.register_buffer("mask", torch.ones(3))

    def terms(self, x, weights):
        return [w * path(x) for w, path in zip(weights, self.paths, strict=True)]

    def forward(self, x, weights):
        return sum(self.terms(x, weights))


def variant(forward):
    """A mixture whose forward is ``forward(self, x, weights)``."""
    return type(forward.__name__, (Mixture,), {"forward": forward})


VARIANTS = {}


def add(forward):
    VARIANTS[forward.__name__] = variant(forward)
    return forward


@add
def skips_zeros(self, x, weights):
    return sum(w * path(x) for w, path in zip(weights, self.paths, strict=True) if w != 0)


@add
def skips_what_is_small(self, x, weights):
    return sum(w * path(x) for w, path in zip(weights, self.paths, strict=True) if abs(float(w)) > 1e-3)


@add
def skips_what_is_negative(self, x, weights):
    return sum(w * path(x) for w, path in zip(weights, self.paths, strict=True) if float(w) >= 0)


@add
def masks_what_is_small(self, x, weights):
    return sum(self.terms(x, weights * (weights.abs() > 1e-9)))


@add
def clamps(self, x, weights):
    return sum(self.terms(x, weights.clamp(-1e5, 1e5)))


@add
def clamps_its_images(self, x, weights):
    return sum(self.terms(x.clamp(max=1e4), weights))


@add
def renormalises_rows(self, x, weights):
    return sum(self.terms(x, weights / weights.sum()))


@add
def detaches_its_coefficients(self, x, weights):
    return sum(self.terms(x, weights.detach()))


@add
def detaches_one_candidate(self, x, weights):
    first, *rest = self.terms(x, weights)
    return first.detach() + sum(rest)


@add
def scales_by_an_attribute(self, x, weights):
    return sum(self.terms(x, weights)) * self.tau


@add
def scales_by_a_schedule(self, x, weights):
    return sum(self.terms(x, weights)) + self.knob.share * x


@add
def reads_a_global(self, x, weights):
    return sum(self.terms(x, weights)) + SWITCH * x


@add
def reads_a_global_table(self, x, weights):
    return sum(self.terms(x, weights)) + TABLE["share"] * x


@add
def reads_a_class(self, x, weights):
    mixed = sum(self.terms(x, weights))
    return mixed + x if Config.share else mixed


@add
def reads_its_parent(self, x, weights):
    mixed = sum(self.terms(x, weights))
    return mixed if self.parent[0] is None else mixed + x


@add
def counts_calls(self, x, weights):
    self.calls += 1
    return sum(self.terms(x, weights))


@add
def counts_calls_on_a_class(self, x, weights):
    Config.calls += 1
    return sum(self.terms(x, weights))


@add
def alternates_by_parity(self, x, weights):
    mixed = sum(self.terms(x, weights))
    return mixed + x if next(COUNTER) % 2 else mixed


@add
def writes_a_log(self, x, weights):
    self.log.append(len(x))
    return sum(self.terms(x, weights))


@add
def caches_its_first_output(self, x, weights):
    if self.cache is None:
        self.cache = weights.detach()
    return sum(self.terms(x, weights))


@add
def writes_into_its_input(self, x, weights):
    mixed = sum(self.terms(x, weights))
    x.data.mul_(1.0001)
    return mixed


@add
def reads_a_buffer(self, x, weights):
    return sum(self.terms(x, weights * self.mask.to(weights.dtype)))


@add
def drops_at_random(self, x, weights):
    return F.dropout(sum(self.terms(x, weights)), self.share / 2 + 1e-9, self.training)


@add
def drops_candidates_at_random(self, x, weights):
    return sum(self.terms(x, weights * (torch.rand(3) >= 0).to(weights.dtype)))


@add
def looks_at_its_images(self, x, weights):
    mixed = sum(self.terms(x, weights))
    return mixed + x if x.abs().max() > 1e5 else mixed


@add
def looks_at_its_images_without_the_host(self, x, weights):
    return sum(self.terms(x, weights)) + torch.where(x.abs() > 1e5, x, 0.0)


@add
def depends_on_the_batch(self, x, weights):
    mixed = sum(self.terms(x, weights))
    return mixed + x if len(x) > 16 else mixed


@add
def depends_on_the_resolution(self, x, weights):
    mixed = sum(self.terms(x, weights))
    return mixed + x if x.shape[-1] > 24 else mixed


@add
def depends_on_gradients(self, x, weights):
    mixed = sum(self.terms(x, weights))
    return mixed if torch.is_grad_enabled() else mixed + x


@add
def asks_for_a_gradient(self, x, weights):
    mixed = sum(self.terms(x, weights))
    return mixed if weights.requires_grad else mixed + x


@add
def depends_on_the_clock(self, x, weights):
    mixed = sum(self.terms(x, weights))
    return mixed + x if time.time() < 0 else mixed


@add
def depends_on_its_mode(self, x, weights):
    mixed = sum(self.terms(x, weights))
    return mixed if self.training else mixed + x


@add
def sharpens(self, x, weights):
    return sum(self.terms(x, weights ** (2 + self.share)))


@add
def takes_a_softmax(self, x, weights):
    return sum(self.terms(x, weights.softmax(0)))


@add
def adds_a_constant(self, x, weights):
    return sum(self.terms(x, weights)) + 1e-6


@add
def rectifies(self, x, weights):
    return sum(self.terms(x, weights)).relu()


@add
def uses_a_coefficient_twice(self, x, weights):
    return weights[0] * sum(self.terms(x, weights))


@add
def leaves_the_last_out(self, x, weights):
    return sum(self.terms(x, weights)[:-1])


@add
def looks_for_hooks_by_name(self, x, weights):
    return sum(self.terms(x, weights)) + getattr(Config, "share") * x  # noqa: B009


@add
def reads_its_class(self, x, weights):
    return sum(self.terms(x, weights)) + type(self).bonus * x


VARIANTS["reads_its_class"].bonus = 0.0


class SharesWeights(Mixture):
    def __init__(self):
        super().__init__()
        self.paths[1] = self.paths[0]


class ScaledIdentity(nn.Module):
    factor = 1.0

    def forward(self, x):
        return x * self.factor if self.factor != 1.0 else x


class ScalesACandidate(Mixture):
    def __init__(self):
        super().__init__()
        self.paths[2] = ScaledIdentity()


def closure(share):
    class ReadsTheScopeAround(Mixture):
        def forward(self, x, weights):
            return sum(self.terms(x, weights)) + share[0] * x

    return ReadsTheScopeAround


class MutableDefault(Mixture):
    def helper(self, x, state=[0.0]):  # noqa: B006
        return state[0] * x

    def forward(self, x, weights):
        return sum(self.terms(x, weights)) + self.helper(x)


VARIANTS |= {kind.__name__: kind for kind in (SharesWeights, ScalesACandidate, closure([0.0]), MutableDefault)}


def turned(module):
    """Afterwards training turns everything that the modules above may read."""
    module.tau, module.share, module.parent = 0.5, 1.0, [module.knob]
    module.knob.share = 0.5
    for part in module.modules():
        if isinstance(part, ScaledIdentity):
            part.factor = 2.0


@pytest.fixture
def turn(monkeypatch):
    def turn():
        monkeypatch.setattr(Config, "share", 1.0)
        monkeypatch.setitem(TABLE, "share", 1.0)
        monkeypatch.setitem(globals(), "SWITCH", 1.0)
        monkeypatch.setattr(VARIANTS["reads_its_class"], "bonus", 1.0)

    return turn


def trained(module, x, weights, gradients=True):
    """Everything that training sees of one evaluation."""
    torch.manual_seed(3)
    globals()["COUNTER"] = itertools.count(1)
    leaves = [x.clone().requires_grad_(), weights.clone().requires_grad_()]
    handed = [leaf.clone() for leaf in leaves]
    with torch.set_grad_enabled(gradients):
        y = module(*handed)
    seen = [y.detach(), *(h.detach() for h in handed), *(b.clone() for b in module.buffers())]
    if gradients:
        variables = [*leaves, *module.parameters()]
        seen += torch.autograd.grad(
            (y * y * torch.arange(y.numel()).view_as(y).sin()).sum(), variables, allow_unused=True
        )
    return seen, torch.get_rng_state(), (module.calls, list(module.log), module.cache is None)


def assert_equal(own, fast):
    for mine, theirs in zip(fast[0], own[0], strict=True):
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            assert mine.shape == theirs.shape
            assert (mine - theirs).abs().max() <= 1e-9 * theirs.abs().max()
    assert torch.equal(own[1], fast[1])
    assert own[2] == fast[2]


ROWS = (
    [0.2, -0.5, 0.9],
    [0.0, 1.0, 0.0],
    [0.5, 0.0, 0.5],
    [1e-4, 1.0, -1e-4],
    [1e-11, 2e6, 1.0],
)


@pytest.mark.filterwarnings("ignore:fastnas.accelerate. the module must be as it was found")
@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_is_replaced_wrongly(name, turn):
    torch.manual_seed(0)
    own = VARIANTS[name]().double()
    fast = copy.deepcopy(own)
    fastnas.accelerate(fast)
    for step in range(2):
        for row in ROWS:
            for batch, size, scale in ((2, 6, 1.0), (20, 4, 1.0), (2, 28, 1.0), (2, 6, 1e6)):
                x = scale * torch.randn(batch, C, size, size, dtype=torch.float64)
                weights = torch.tensor(row, dtype=torch.float64)
                assert_equal(trained(own, x, weights), trained(fast, x, weights))
            assert_equal(trained(own, x, weights, gradients=False), trained(fast, x, weights, gradients=False))
            assert_equal(trained(own.eval(), x, weights), trained(fast.eval(), x, weights))
            own.train(), fast.train()
        if step == 0:
            turn(), turned(own), turned(fast)


def test_what_is_plain_is_still_replaced():
    """Else the test above would hold for a drop-in that does nothing."""
    for kind in (Mixture, VARIANTS["skips_zeros"], VARIANTS["scales_by_an_attribute"], VARIANTS["reads_a_global"]):
        report = fastnas.accelerate(kind().double())
        assert [entry.level for entry in report.replaced] == ["edge"], report


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("scales_by_a_schedule", "its forward reads knob, of type Knob"),
        ("counts_calls", "its forward sets the attribute calls"),
        ("writes_a_log", "its forward sets the attribute log of writes_a_log"),
        ("clamps", "its forward calls clamp"),
        ("reads_a_buffer", "its forward reads mask, a tensor"),
        ("looks_at_its_images", "its forward looks at the values of its images|its forward calls"),
        ("depends_on_the_batch", "its forward does something else for 128 images of 32x32"),
        ("skips_what_is_small", "differs by .* where it looks at the values of its coefficients"),
        ("SharesWeights", "two of its candidates share a layer"),
        ("writes_into_its_input", "its forward writes into its arguments|its forward calls"),
        ("drops_at_random", "its forward calls"),
    ],
)
def test_the_report_says_which_thing_the_drop_in_cannot_vouch_for(name, reason):
    (entry,) = fastnas.accelerate(VARIANTS[name]().double()).left
    assert re.search(reason, entry.reason), entry.reason


def test_hard_straight_through_samples_keep_their_gradient():
    own = VARIANTS["skips_zeros"]().double()
    fast = copy.deepcopy(own)
    assert "a candidate whose coefficient is zero does not run" in str(fastnas.accelerate(fast))
    x, results = torch.randn(2, C, 6, 6, dtype=torch.float64), []
    for module in (own, fast):
        alpha = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
        soft = alpha.softmax(0)
        hard = torch.zeros_like(soft).index_fill(0, soft.argmax(), 1.0) - soft.detach() + soft
        results.append(torch.autograd.grad(module(x, hard).square().sum(), alpha)[0])
    assert (results[0] - results[1]).abs().max() <= 1e-9 * results[0].abs().max()
    assert math.isclose(results[0].sum(), 0, abs_tol=1e-6)


def test_an_attribute_that_changes_lets_its_own_forward_run_with_a_warning():
    own = VARIANTS["scales_by_an_attribute"]().double()
    fast = copy.deepcopy(own)
    fastnas.accelerate(fast)
    own.tau = fast.tau = 0.5
    x, weights = torch.randn(2, C, 6, 6, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match=r"got tau=0\.5, which was 1\.0,.*fastnas\.restore and then"):
        assert torch.equal(fast(x, weights), own(x, weights))


def test_structural_changes_end_in_one_line_that_names_restore():
    x, weights = torch.randn(2, C, 6, 6), torch.rand(3)

    def prune(module):
        del module.paths[2]

    def widen(module):
        convolution = module.paths[0][1]
        convolution.weight = nn.Parameter(torch.randn(2 * C, 1, 3, 3))

    def swap(module):
        module.paths[0] = nn.Identity()

    for change in (prune, widen, swap):
        module = Mixture()
        fastnas.accelerate(module)
        module(x, weights)
        change(module)
        with pytest.raises(RuntimeError, match=r"^Mixture: .*Call fastnas\.restore before") as caught:
            module(x, weights)
        assert "\n" not in str(caught.value)
        again = Mixture()
        fastnas.accelerate(again)
        change(copied := copy.deepcopy(again))  # before its first call
        with pytest.raises(RuntimeError, match=r"Call fastnas\.restore before"):
            copied(x, weights)


def test_an_accelerated_network_is_exported_and_traced_by_its_own_forward():
    module = Mixture().eval()
    fast = copy.deepcopy(module)
    fastnas.accelerate(fast)
    given = torch.randn(2, C, 6, 6), torch.rand(3)
    exported = torch.export.export(fast, given, strict=False).module()
    traced = torch.jit.trace(fast, given)
    for other in (exported, traced):
        assert (other(*given) - module(*given)).abs().max() < 1e-5
    names = {node.target for node in torch.export.export(fast, given, strict=False).graph.nodes}
    assert not any("fastnas" in str(name) for name in names)


class Noise(nn.Module):
    def forward(self, x):
        return torch.randn_like(x)


class Noisy(Mixture):
    def __init__(self):
        super().__init__()
        self.paths = nn.ModuleList([Noise(), candidates()[0]])


def test_a_convolution_beside_noise_runs_on_the_engine_and_the_noise_by_itself():
    """The edges of space S4 (Zela et al., 2020, arXiv:1909.09656)."""
    own = Noisy().double()
    fast = copy.deepcopy(own)
    assert "runs itself beside the engine: candidate paths.0 (Noise)" in fastnas.accelerate(fast).replaced[0].what
    x, weights = torch.randn(2, C, 6, 6, dtype=torch.float64), torch.rand(2, dtype=torch.float64)
    assert_equal(trained(own, x, weights), trained(fast, x, weights))
