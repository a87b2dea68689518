"""Another ``forward`` of a part of a replaced module, which comes after the proof."""

import copy
import warnings

import pytest
import torch
from torch import nn

import fastnas
from fastnas import accelerate
from tests.acceleration.conftest import Wrapped
from tests.acceleration.test_refusals import arguments


class Dropping(nn.Module):
    """Two nodes; where maps are dropped, the edges run by themselves, on engines of their own."""

    def __init__(self, blends):
        super().__init__()
        self.left, self.right = (nn.Conv2d(8, 8, 1, bias=False, dtype=torch.float64) for _ in range(2))
        self.edges = nn.ModuleList(blends)

    def forward(self, a, b, weights, drop=0.0):
        states, rows = [self.left(a), self.right(b)], iter(zip(self.edges, weights, strict=True))
        for _ in range(2):
            terms = []
            for state in states:
                edge, row = next(rows)
                term = edge(state, row)
                if drop > 0.0 and self.training:
                    term = term * (torch.rand(len(term), 1, 1, 1, dtype=term.dtype) >= drop) / (1 - drop)
                terms.append(term)
            states.append(sum(terms))
        return torch.cat(states[2:], 1)


def test_edges_with_engines_of_their_own_are_no_change(make_blend):
    own = Dropping([make_blend() for _ in range(5)])
    fast, (a, _), table = copy.deepcopy(own), arguments(), torch.rand(5, 8, dtype=torch.float64)
    assert [entry.level for entry in accelerate(fast).replaced] == ["cell"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for drop in (0.0, 0.3, 0.0):
            torch.manual_seed(0)
            expected = own(a, a, table, drop)
            torch.manual_seed(0)
            torch.testing.assert_close(fast(a, a, table, drop), expected)


class Doubled(Wrapped):
    def forward(self, x):
        return 2 * super().forward(x)


def patch_instance(blend, monkeypatch):
    part = blend.paths[0]
    monkeypatch.setattr(part, "forward", lambda x: 2 * type(part).forward(part, x))


def patch_class(blend, monkeypatch):
    before = Wrapped.forward
    monkeypatch.setattr(Wrapped, "forward", lambda part, x: 2 * before(part, x))


def patch_own(blend, monkeypatch):
    before = type(blend).forward
    monkeypatch.setattr(type(blend), "forward", lambda module, *given: 2 * before(module, *given))


def change_class(blend, monkeypatch):
    blend.paths[0].__class__ = Doubled


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("change", [patch_instance, patch_class, patch_own, change_class])
def test_another_forward_that_comes_later_runs_with_a_warning(make_blend, monkeypatch, change, called):
    blend, given = make_blend(), arguments()
    accelerate(blend)
    if called:
        blend(*given)
    twin = copy.deepcopy(blend)
    fastnas.restore(twin)
    change(blend, monkeypatch)
    if change in (patch_instance, change_class):
        change(twin, monkeypatch)
    expected = twin(*given)
    if change is change_class and not called:
        with pytest.raises(RuntimeError, match="its parts must be those that fastnas"):
            blend(*given)
        return
    with pytest.warns(
        RuntimeWarning, match=r"another forward of (its part (Wrapped|Doubled)|its own).*own forward runs"
    ):
        assert torch.equal(blend(*given), expected)
    monkeypatch.undo()
