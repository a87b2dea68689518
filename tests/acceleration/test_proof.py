"""None of the modules that differ from what the drop-in believes in one respect may be replaced wrongly."""

import copy
import itertools
import math
import re

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastnas
from tests.acceleration import adversaries
from tests.acceleration.adversaries import TABLE, VARIANTS, C, Config, Mixture, candidates, turned


@pytest.fixture
def turn(monkeypatch):
    def turn():
        monkeypatch.setattr(Config, "share", 1.0)
        monkeypatch.setitem(TABLE, "share", 1.0)
        monkeypatch.setattr(adversaries, "SWITCH", 1.0)
        monkeypatch.setattr(VARIANTS["reads_its_class"], "bonus", 1.0)

    return turn


def trained(module, x, weights, gradients=True):
    """Everything that training sees of one evaluation."""
    torch.manual_seed(3)
    adversaries.COUNTER = itertools.count(1)
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


SHAPES = ((2, 6, 1.0), (20, 4, 1.0), (2, 28, 1.0), (2, 6, 1e6))  # images, their side, and their scale


@pytest.mark.filterwarnings("ignore:fastnas.accelerate. the module must be as it was found")
@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_is_replaced_wrongly(name, turn):
    torch.manual_seed(0)
    own = VARIANTS[name]().double()
    fast = copy.deepcopy(own)
    fastnas.accelerate(fast)
    for step in range(2):
        for row in ROWS:
            shapes = SHAPES if row is ROWS[0] else SHAPES[:1]  # a variant differs by its coefficients or by its images
            for batch, size, scale in shapes:
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
        (
            "skips_what_is_small",
            "its own forward fails and the engine does not: .*, where it looks at the values of its coefficients",
        ),
        ("SharesWeights", "two of its candidates share a layer"),
        ("writes_into_its_input", "its forward writes into its arguments|its forward calls"),
        ("drops_at_random", "its forward calls"),
    ],
)
def test_the_report_says_which_thing_the_drop_in_cannot_vouch_for(name, reason):
    (entry,) = fastnas.accelerate(VARIANTS[name]().double()).left
    assert re.search(reason, entry.reason), entry.reason


def test_the_proof_computes_nothing_that_mkl_computes_inexactly_at_first():
    """Two threads that ask MKL 2024.2 for its first sine get eight digits of it, once in some hundred processes."""
    names = set()

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            result = function(*arguments, **(options or {}))
            if isinstance(result, torch.Tensor) and result.numel() > 64:
                names.add(function.overloadpacket.__name__)
            return result

    with Seen():
        assert fastnas.accelerate(Mixture().double()).replaced
    assert "mul" in names
    assert not names & {"sin", "cos", "exp", "log", "sqrt", "rsqrt", "tanh", "erf"}


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


@pytest.mark.parametrize("dynamo", [True, False])
def test_an_accelerated_network_is_exported_to_onnx(tmp_path, dynamo):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = Mixture().eval()
    fastnas.accelerate(module)
    given = torch.randn(2, C, 6, 6), torch.rand(3)
    torch.onnx.export(module, given, tmp_path / "mixture.onnx", dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "mixture.onnx")
    (result,) = session.run(None, {i.name: x.numpy() for i, x in zip(session.get_inputs(), given, strict=True)})
    assert (torch.from_numpy(result) - module(*given)).abs().max() < 1e-5


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
