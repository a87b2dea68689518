"""Cells of which some candidates are foreign run on the engine node by node, and draw the same random numbers."""

import copy
import math

import pytest
import torch
from torch import nn

from fastnas import accelerate
from fastnas.acceleration.observation import Probability
from tests.acceleration.conftest import CHANNELS


class Noise(nn.Module):
    """The candidate of space S4 (Zela et al., 2020, arXiv:1909.09656)."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride], memory_format=torch.contiguous_format)


def with_dropout(block):
    """Dropout behind the identities, as in the stages of P-DARTS (Chen et al., 2019, arXiv:1904.12760)."""
    for link in block.links:
        if not list(link.paths[4].parameters()):
            link.paths[4] = nn.Sequential(link.paths[4], nn.Dropout(0.4))
    return block


def with_noise(block):
    for number, link in enumerate(block.links):
        link.paths[3] = Noise(block.stride if number not in (4,) else 1)
    return block


def seen(block, *arguments):
    """Everything that training sees of one evaluation from one seed."""
    torch.manual_seed(5)
    variables = [x.clone().requires_grad_() for x in arguments]
    y = block(*variables)
    found = torch.autograd.grad((y**3).sum(), [*variables, *block.parameters()], allow_unused=True)
    return [y, *found, *(b.clone() for b in block.buffers())], torch.get_rng_state()


@pytest.mark.parametrize("change", [with_dropout, with_noise])
@pytest.mark.parametrize(("name", "stride"), [("Block", 1), ("Block", 2), ("WholeWeightedBlock", 1)])
def test_a_cell_with_foreign_candidates_is_replaced_whole_and_draws_the_same(make_block, change, name, stride):
    own = change(make_block(name, stride)).double()
    fast = copy.deepcopy(own)
    (entry,) = accelerate(fast).replaced
    assert entry.level == "cell"
    assert "runs itself beside the engine, node by node: candidate links." in entry.what
    x = [torch.randn(3, CHANNELS, 6, 6, dtype=torch.float64) for _ in range(2)]
    rows = [torch.rand(5, 8, dtype=torch.float64), *([torch.rand(5).double()] if name != "Block" else [])]
    for training in (True, False):
        (theirs, drawn), (mine, also) = (seen(net.train(training), *x, *rows) for net in (own, fast))
        assert torch.equal(drawn, also)
        largest = max(t.abs().max() for t in theirs if t is not None)
        for a, b in zip(theirs, mine, strict=True):
            assert (a is None) == (b is None)
            assert a is None or (a - b).abs().max() <= 1e-10 * a.abs().max() + 1e-14 * largest


def test_dropout_behind_a_cell_drops_the_same_values(make_block):
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.drop = make_block(), nn.Dropout(0.5)

        def forward(self, *arguments):
            return self.drop(self.block(*arguments))

    own = Dropped()
    fast = copy.deepcopy(own)
    assert "channels-last" not in str(accelerate(fast))
    x = [torch.randn(3, CHANNELS, 6, 6, dtype=torch.float64) for _ in range(2)]
    rows = torch.rand(5, 8, dtype=torch.float64)
    results = []
    for net in (own, fast):
        torch.manual_seed(5)
        results.append(net(*x, rows))
    assert (results[0] - results[1]).abs().max() <= 1e-10 * results[0].abs().max()


def test_without_dropout_the_layout_is_the_engines_and_the_report_says_so(make_block):
    block = make_block()
    assert "maps leave the engine in channels-last memory" in str(accelerate(block))


class DrawsTwice(nn.Module):
    """Evaluates its candidates a second time and throws the result away."""

    def __init__(self, blend):
        super().__init__()
        self.paths = nn.ModuleList([blend.paths[6], blend.paths[7], Noise(1)])

    def forward(self, x, weights):
        mixed = sum(w * path(x) for w, path in zip(weights, self.paths, strict=True))
        self.paths[2](x)
        return mixed


def test_what_draws_more_than_it_uses_is_left(make_blend):
    (entry,) = accelerate(DrawsTwice(make_blend())).left
    assert "it draws other random numbers than the engine" in entry.reason


def drop_path(x, drop):
    """By image, in place, as the family does."""
    if drop > 0.0:
        keep = 1.0 - drop
        mask = x.new_empty(x.size(0), 1, 1, 1).bernoulli_(keep)
        x.div_(keep)
        x.mul_(mask)
    return x


class Dropping(nn.Module):
    """A cell with drop-path by edge and image (Zela et al., 2020, arXiv:1909.09656)."""

    def __init__(self, block):
        super().__init__()
        self.left, self.right, self.links, self.scale = block.left, block.right, block.links, 1.0
        if type(self) is not Dropping:  # fewer candidates, for time
            for link in self.links:
                link.paths = link.paths[3:5] + link.paths[6:7]

    def term(self, y, drop, row):
        return drop_path(y, drop) if self.training else y

    def forward(self, a, b, table, drop=0.0):
        states, first = [self.left(a), self.right(b)], 0
        for _ in range(2):
            rows = range(first, first + len(states))
            first += len(states)
            edges = zip(rows, list(states), strict=True)
            states.append(sum(self.term(self.links[r](s, table[r]), drop, r) for r, s in edges))
        return torch.cat(states[2:], 1)


@pytest.mark.parametrize("stride", [1, 2])
def test_drop_path_by_edge_and_image_runs_in_the_cell(make_block, stride):
    own = Dropping(make_block(stride=stride)).double()
    fast = copy.deepcopy(own)
    (entry,) = accelerate(fast).replaced
    assert "while 0<=drop<1" in entry.what
    assert_drops_alike(own, fast)


def assert_drops_alike(own, fast):
    for drop, images in ((0.0, 2), (0.3, 20), (0.9, 2)):
        x = [torch.randn(images, CHANNELS, 4, 4, dtype=torch.float64) for _ in range(2)]
        table = torch.rand(5, len(own.links[0].paths), dtype=torch.float64)
        for training in (True, False):
            results = []
            for net in (own.train(training), fast.train(training)):
                torch.manual_seed(5)
                variables = [v.clone().requires_grad_() for v in (*x, table)]
                y = net(*variables, drop)
                found = torch.autograd.grad((y**3).sum(), [*variables, *net.parameters()], allow_unused=True)
                results.append([y.detach(), *found, *(b.clone() for b in net.buffers()), torch.rand(1)])
            for mine, theirs in zip(*results, strict=True):
                assert (mine is None) == (theirs is None)
                assert mine is None or (mine - theirs).abs().max() <= 1e-9 * theirs.abs().max() + 1e-14


def unlike(name, term):
    return type(name, (Dropping,), {"term": term})


def test_a_probability_notes_what_a_step_at_another_value_could_hide_in():
    harmless = (bool, lambda p: p > 0, lambda p: 1.0 - p > 0, lambda p: 2 * p / (1 - p), lambda p: p != 1)
    for use in harmless:
        probability = Probability(0.3)
        use(probability)
        assert not probability.uses
    compared = (lambda p: p < 0.5, lambda p: -p > -0.5, lambda p: 0.5 - p > 0, lambda p: bool(0.3 - p))
    stepped = (abs, int, float, hash, str, lambda p: p // 0.5, lambda p: p % 0.5, lambda p: p**99, lambda p: f"{p}")
    for use in (*compared, *stepped, lambda p: p.hex()):
        probability = Probability(0.3)
        use(probability)
        assert probability.uses


def root(drop):
    return drop if math.sqrt(drop) < 0.9 else 0.0


DROPS = [
    unlike("drops_in_eval_mode", lambda self, y, drop, row: drop_path(y, drop)),
    unlike("drops_above_a_half", lambda self, y, drop, row: drop_path(y, drop) if drop > 0.5 else y),
    unlike("drops_pixels", lambda self, y, drop, row: nn.functional.dropout(y, drop, self.training)),
    unlike("drops_the_first_edges", lambda self, y, drop, row: drop_path(y, drop) if row < 2 else y),
    unlike("drops_large_batches", lambda self, y, drop, row: drop_path(y, drop) if len(y) > 16 else y),
    unlike("scales_its_probability", lambda self, y, drop, row: drop_path(y, drop * 0.5) if self.training else y),
    unlike("reads_an_attribute", lambda self, y, drop, row: drop_path(y, drop) * self.scale if self.training else y),
    unlike("draws_twice", lambda self, y, drop, row: drop_path(drop_path(y, drop), drop) if self.training else y),
    unlike("rounds", lambda self, y, drop, row: drop_path(y, float(int(10 * drop)) / 10) if self.training else y),
    unlike("drops_while_a_root_is_small", lambda self, y, drop, row: drop_path(y, root(drop)) if self.training else y),
    unlike("keeps_the_sum", lambda self, y, drop, row: drop_path(y, drop) * (1 - drop) if self.training else y),
]


@pytest.mark.filterwarnings("ignore:fastnas.accelerate. the module must be as it was found")
@pytest.mark.parametrize("kind", DROPS, ids=lambda kind: kind.__name__)
def test_no_drop_path_of_another_kind_is_replaced_wrongly(make_block, kind):
    own = kind(make_block()).double()
    fast = copy.deepcopy(own)
    report = str(accelerate(fast))
    assert "while drop=0.0" in report or "0<=drop<1" in report
    assert_drops_alike(own, fast)
    own.scale = fast.scale = 0.5
    assert_drops_alike(own, fast)
