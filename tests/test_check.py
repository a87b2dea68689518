"""The oracle finds what published code got wrong, and cries wolf on no method."""

import importlib
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from fastnas.bilevel.hypergradient import ImportanceWeighted
from fastnas.bilevel.problem import SgdStep, detached, gradients_of
from fastnas.check import check
from fastnas.cost.expectation import CostObjective, RelativeCost
from fastnas.cost.penalties import ProductPenalty
from fastnas.cost.tables import NetworkSize, parameter_table
from fastnas.mechanisms.draw import Categorical, Sample
from fastnas.mechanisms.relaxation import softmax
from fastnas.mechanisms.schedules import Constant
from fastnas.method import Term
from fastnas.methods import METHODS, darts, gdas, parsec, pc_darts, snas
from fastnas.space.cell_space import NASBENCH201
from fastnas.supernet.mix import Mix
from fastnas.supernet.supernets import NasBench201Supernet


def failures(supernet, method, **changes):
    return [finding.claim for finding in check(supernet, method, **changes) if not finding.holds]


OTHER_SEEDS = [(name, 1) for name in ("darts_2nd", "gdas", "nasp", "pc_darts", "proxyless_nas", "snas")]


@pytest.mark.parametrize(("name", "seed"), [*((name, 0) for name in METHODS), *OTHER_SEEDS])
def test_no_method_of_the_library_is_accused(name, seed):
    findings = check(NASBENCH201, METHODS[name](), seed=seed)
    assert [finding for finding in findings if not finding.holds] == []
    assert len(findings) >= 10


# ---- hypergradients that are wrong --------------------
def virtual_step_that_does_nothing(problem, w, alpha):
    """The stepped weights are bound to a name that nobody reads."""
    for name, p in w.items():
        p = p - 0.1 * gradients_of(problem.inner(w, alpha, 0), w)[name]  # noqa: PLW2901
    loss = problem.outer(w, alpha, 0)
    return loss.detach(), gradients_of(loss, alpha)


@dataclass(frozen=True)
class Differences:
    """The central difference of DARTS with room for mistakes."""

    sign: float = 1.0
    multiplies: bool = False
    restores: bool = True

    def __call__(self, problem, w, alpha):
        moved = problem.inner_step(detached(w), gradients_of(problem.inner(w, detached(alpha), 0), w))
        moved = {name: p.requires_grad_() for name, p in moved.items()}
        loss = problem.outer(moved, alpha, 0)
        both = gradients_of(loss, {**moved, **alpha})
        norm = torch.sqrt(sum((both[name] ** 2).sum() for name in moved))
        eps = 0.01 / norm
        sides = []
        for side in (1, -1):
            shifted = {name: p.detach() + side * eps * both[name] for name, p in w.items()}
            sides.append(gradients_of(problem.inner(shifted, alpha, 0), alpha))
            if not self.restores:
                with torch.no_grad():
                    for name, p in w.items():
                        p.copy_(shifted[name])
        divisor = 0.5 * eps if self.multiplies else 1 / (2 * eps)
        return loss.detach(), {
            name: both[name] - self.sign * problem.inner_step.lr * (sides[0][name] - sides[1][name]) * divisor
            for name in alpha
        }


def momentum_forgotten(problem, w, alpha):
    step = SgdStep(problem.inner_step.lr)
    return METHODS["darts_2nd"]().hypergradient(replace(problem, inner_step=step), w, alpha)


def direct_part_forgotten(problem, w, alpha):
    loss, whole = METHODS["darts_2nd"]().hypergradient(problem, w, alpha)
    moved = problem.inner_step(detached(w), gradients_of(problem.inner(w, alpha, 0), w))
    direct = gradients_of(problem.outer(detached(moved), alpha, 0), alpha)
    return loss, {name: g - direct[name] for name, g in whole.items()}


SLOPE = "the hypergradient is the slope of its objective"


def test_the_difference_without_mistakes_passes():
    assert failures(NASBENCH201, replace(darts(), hypergradient=Differences())) == []


@pytest.mark.parametrize(
    ("hypergradient", "claim"),
    [
        (virtual_step_that_does_nothing, SLOPE),
        (Differences(sign=-1.0), SLOPE),
        (Differences(multiplies=True), SLOPE),
        (momentum_forgotten, SLOPE),
        (direct_part_forgotten, SLOPE),
        (Differences(restores=False), "the alpha step leaves weights alone"),
    ],
)
def test_a_wrong_hypergradient_is_found(hypergradient, claim):
    assert claim in failures(NASBENCH201, replace(darts(), hypergradient=hypergradient))


@dataclass(frozen=True)
class ScoreOfTheWrongSign(ImportanceWeighted):
    def __call__(self, problem, w, alpha):
        loss, gradients = ImportanceWeighted.__call__(self, problem, w, alpha)
        return loss, {name: -g for name, g in gradients.items()}


def test_a_score_of_the_wrong_sign_is_found():
    method = parsec(draws=3)
    wrong = replace(method, hypergradient=ScoreOfTheWrongSign(3))
    assert "alpha's gradient is the weighted score of the draws" in failures(NASBENCH201, wrong)


# ---- coefficients that are cut off, or not what they seem --------------------
def without_gradient(alpha_EK, alive_EK=None, tau=1.0):
    return softmax(alpha_EK, alive_EK, tau).detach() + 0 * alpha_EK


def of_half_the_candidates(alpha_EK, alive_EK=None, tau=1.0):
    mix_EK = softmax(alpha_EK, alive_EK, tau)
    return torch.cat([mix_EK[:, :3].detach() + 0 * alpha_EK[:, :3], mix_EK[:, 3:]], 1)


@dataclass(frozen=True)
class GlobalNoise:
    turns_off = False
    has_probability = False

    def __call__(self, alpha_EK, alive_EK, tau, seed):
        return Sample((alpha_EK + torch.randn_like(alpha_EK)).softmax(-1))


@dataclass(frozen=True)
class MaskInverted:
    turns_off = True
    has_probability = True

    def __call__(self, alpha_EK, alive_EK, tau, seed):
        sample = Categorical()(alpha_EK, alive_EK, tau, seed)
        return sample._replace(on=~sample.on, reached=~sample.reached)


def derive_the_least(space, mix, edge_mix=None):
    return darts().derivation(space, {name: [[-x for x in row] for row in rows] for name, rows in mix.items()})


def ascent(alpha, settings):
    return torch.optim.Adam(alpha, settings.lr, maximize=True)


def centred_in_place(alpha_EK, alive_EK=None, tau=1.0):
    alpha_EK.detach().sub_(alpha_EK.detach().mean(-1, keepdim=True))
    return softmax(alpha_EK, alive_EK, tau)


def cost_without_slope(mix):
    return sum((rows.detach() > 0.2).sum() + 0 * rows.sum() for rows in mix.values())


def cost_through_an_argmax(mix):
    return sum(rows.gather(-1, rows.argmax(-1, keepdim=True)).detach().sum() + 0 * rows.sum() for rows in mix.values())


@pytest.mark.parametrize(
    ("method", "claim"),
    [
        (replace(darts(), relaxation=without_gradient), "every edge and candidate gets a gradient"),
        (replace(darts(), relaxation=of_half_the_candidates), "coefficients get the slope of the loss"),
        (replace(darts(), relaxation=centred_in_place), "the weight step leaves alpha alone"),
        (replace(darts(), draw=GlobalNoise()), "a step repeated from the same state is the same step"),
        (replace(parsec(draws=3), draw=MaskInverted()), "what is off has coefficient zero, and what has not is on"),
        (replace(darts(), derivation=derive_the_least), "a decided mix derives to its own architecture"),
        (replace(darts(), alpha_optimizer=ascent), "alpha moves down its gradient"),
        (
            replace(darts(), penalties=(Term(cost_without_slope, Constant(1.0)),)),
            "penalties have the slope that they show",
        ),
        (
            replace(darts(), penalties=(Term(cost_through_an_argmax, Constant(1.0)),)),
            "penalties have the slope that they show",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_a_wrong_mechanism_is_found(method, claim):
    assert claim in failures(NASBENCH201, method)


# ---- supernets that are wrong --------------------
class Wrapped(nn.Module):
    """A supernet around another one; what it does to the coefficients is the defect."""

    space = NASBENCH201

    def __init__(self, k=1):
        super().__init__()
        self.net = NasBench201Supernet(10, channels=4 * k, cells=1, k=k, image_channels=1)

    def forward(self, images, mix):
        return self.net(images, self.change(mix))

    def change(self, mix):
        return mix


class EdgesCutOff(Wrapped):
    def change(self, mix):
        return mix._replace(edges={name: x.detach() for name, x in mix.edges.items()})


class CoefficientsCutOff(Wrapped):
    def change(self, mix):
        return Mix({name: x.detach() for name, x in mix.candidates.items()}, mix.edges, mix.alive)


class LastEdgeCutOff(Wrapped):
    def change(self, mix):
        return mix._replace(
            candidates={name: torch.cat([x[:-1], x[-1:].detach()]) for name, x in mix.candidates.items()}
        )


class RunningStatistics(Wrapped):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, images, mix):
        return self.net(self.norm(images), mix)


class OwnAlpha(Wrapped):
    def __init__(self):
        super().__init__()
        self.alphas = nn.Parameter(torch.zeros(6, 5))


class HiddenDropout(Wrapped):
    def forward(self, images, mix):
        return self.net(nn.functional.dropout(images, 0.2), mix)


class WeightsCutOff(Wrapped):
    def forward(self, images, mix):
        logits = self.net(images, mix)
        return logits + (logits - logits.detach())


@pytest.mark.parametrize(
    ("supernet", "claim"),
    [
        (CoefficientsCutOff(), "every edge and candidate gets a gradient"),
        (LastEdgeCutOff(), "every edge and candidate gets a gradient"),
        (RunningStatistics(), "the same loss twice is the same number, and no buffer moves"),
        (HiddenDropout(), "the same loss twice is the same number, and no buffer moves"),
        (OwnAlpha(), "alpha is no parameter of the supernet"),
        (WeightsCutOff(), "weights get the slope of the loss"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_supernet_is_found(supernet, claim):
    assert claim in failures(supernet, darts())


def test_edge_weights_that_are_cut_off_are_found_and_a_right_supernet_is_not_accused():
    assert "every edge and candidate gets a gradient" in failures(EdgesCutOff(k=4), pc_darts())
    right = Wrapped()
    before = {name: p.detach().clone() for name, p in right.named_parameters()}
    assert failures(right, gdas()) == []
    assert all(torch.equal(p, before[name]) and p.dtype == torch.float32 for name, p in right.named_parameters())


def test_a_module_that_is_no_supernet_is_refused():
    with pytest.raises(ValueError, match="check: supernet must have a space, got Linear"):
        check(nn.Linear(2, 2), darts())


# ---- costs ------------------------------------------------------------------------------------------------------
COSTS = parameter_table(NASBENCH201, NetworkSize(channels=4, cells=1, resolution=8, image_channels=1))
PRICED = Term(RelativeCost(COSTS, 2000.0), Constant(0.1), expected=True)
PRODUCT = CostObjective(COSTS, ProductPenalty(target=2000.0))
REACHES = "the slope of the penalties reaches alpha"


@pytest.mark.parametrize("changes", [{"penalties": (PRICED,)}, {"objective": PRODUCT}], ids=["term", "objective"])
@pytest.mark.parametrize("recipe", [gdas, snas])
def test_costs_hold_their_claims_under_draws(recipe, changes):
    assert failures(NASBENCH201, replace(recipe(), **changes)) == []


def test_an_objective_without_slope_is_found():
    def flat(loss, mix):
        return PRODUCT(loss, {name: rows.detach() for name, rows in mix.items()}) + 0 * sum(
            map(torch.sum, mix.values())
        )

    assert "penalties have the slope that they show" in failures(NASBENCH201, replace(darts(), objective=flat))


@pytest.mark.parametrize("name", ["_joined", "_expected_penalties"])
def test_a_loop_that_forgets_the_costs_is_found(monkeypatch, name):
    forget = {
        "_joined": lambda run, loss, alpha: loss,
        "_expected_penalties": lambda run, alpha: 0 * sum(map(torch.sum, alpha.values())),
    }
    monkeypatch.setattr(importlib.import_module("fastnas.search.step"), name, forget[name])
    changes = {"objective": PRODUCT} if name == "_joined" else {"penalties": (PRICED,)}
    assert REACHES in failures(NASBENCH201, replace(darts(), **changes))
