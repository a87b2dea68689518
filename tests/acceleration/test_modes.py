"""Arguments that select a mode by a word: what they are compared with is known after the proof."""

import copy

import pytest
import torch
from torch import nn

from fastnas import accelerate
from tests.acceleration.adversaries import C, Mixture


def test_an_argument_that_selects_a_mode_is_taken_in_the_mode_that_mixes(make_block):
    """As in NASP's code (Yao et al., 2020, arXiv:1905.13577), whose weight step runs the largest candidate alone."""

    class Edge(nn.Module):
        def __init__(self, blend):
            super().__init__()
            self.paths = nn.ModuleList([blend.paths[3], blend.paths[4], blend.paths[6]])

        def forward(self, x, weights, phase):
            if phase == "weights":
                return self.paths[2](x) * weights[2] + weights[:2].sum()
            return sum(w * path(x) for w, path in zip(weights, self.paths, strict=True))

    class Cell(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.left, self.right = block.left, block.right
            self.links = nn.ModuleList(map(Edge, block.links))

        def forward(self, a, b, table, phase):
            states, row = [self.left(a), self.right(b)], 0
            for _ in range(2):
                terms = [self.links[row + i](state, table[row + i], phase) for i, state in enumerate(states)]
                row += len(states)
                states.append(sum(terms))
            return states[-1]

    own = Cell(make_block())
    fast = copy.deepcopy(own)
    (entry,) = accelerate(fast).replaced
    assert entry.level == "cell"
    assert entry.what.endswith("while phase=other than 'weights'")
    with pytest.raises(TypeError, match=r"arguments must be \['a', 'b', 'table'\] and may be \['phase'\]"):
        fast(torch.randn(2, 8, 6, 6, dtype=torch.float64), phase="alpha")
    x, table = torch.randn(2, 8, 6, 6, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    for phase in ("alpha", "weights"):
        assert (fast.forward._bind((x, x, table, phase), {})[0] is None) == (phase == "weights")
        variables = [table.clone().requires_grad_() for _ in range(2)]
        values = [net(x, x, v, phase) for net, v in zip((own, fast), variables, strict=True)]
        found = [torch.autograd.grad((y**3).sum(), v)[0] for y, v in zip(values, variables, strict=True)]
        for a, b in (values, found):
            assert (a - b).abs().max() <= 1e-10 * a.abs().max()


def mode(name, chosen):
    """A mixture that runs its last candidate alone where ``chosen`` says so."""

    def forward(self, x, weights, phase):
        if phase == "none" or chosen(self, phase):
            return self.paths[2](x) * weights[2]
        return sum(self.terms(x, weights))

    return type(name, (Mixture,), {"forward": forward, "words": {"sample": True}})


SAMPLE = "sample"
MODES = [
    mode("compares_a_letter", lambda self, phase: phase[0] == "s"),
    mode("compares_lengths", lambda self, phase: len(phase) > 5),
    mode("looks_up", lambda self, phase: self.words.get(phase, False)),
    mode("is_among", lambda self, phase: phase in ("sample", "sampled")),
    mode("is_among_in_a_set", lambda self, phase: phase in {"sample", "sampled"}),
    mode("begins_with", lambda self, phase: phase.startswith("sam")),
    mode("orders", lambda self, phase: phase > "m"),
    mode("formats", lambda self, phase: f"{phase}" == "sample"),
    mode("is_the_word", lambda self, phase: phase is SAMPLE),
    mode("differs", lambda self, phase: phase != "alpha"),
]


@pytest.mark.parametrize("kind", MODES, ids=lambda kind: kind.__name__)
def test_no_mode_is_taken_for_another(kind):
    own = kind().double()
    fast = copy.deepcopy(own)
    accelerate(fast)
    x, weights = torch.randn(2, C, 6, 6, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    for word in ("alpha", "sample", "sampled", "none", "z", ""):
        if word or kind.__name__ != "compares_a_letter":
            assert (own(x, weights, word) - fast(x, weights, word)).abs().max() < 1e-9
