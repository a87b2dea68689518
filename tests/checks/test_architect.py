"""The classic architect, first order and second, checked through its adapter."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastnas import check
from fastnas.checks.architect import architect_system
from fastnas.checks.claims import CentralDifference, slope_after_step, slope_of_outer
from fastnas.checks.finding import Verdict

GRADIENT = "the hypergradient is the one that is claimed"
ARRIVES = "every alpha that matters gets a gradient"


class Supernet(nn.Module):
    """Two rows of logits, one of which nothing reads; kept as attributes, as a list or as parameters."""

    def __init__(self, kept="attributes"):
        super().__init__()
        kinds = (nn.Identity, nn.Tanh, nn.Sigmoid)
        self.paths = nn.ModuleList(nn.Sequential(nn.Linear(4, 3), kind()) for kind in kinds)
        self.last = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)
        rows = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        self.kept = kept
        if kept == "attributes":
            self.alphas_normal, self.alphas_unused = rows
        elif kept == "list":
            self.alphas = rows
        else:
            self.alphas = nn.ParameterList(nn.Parameter(row.detach()) for row in rows)

    def arch_parameters(self):
        return [self.alphas_normal, self.alphas_unused] if self.kept == "attributes" else list(self.alphas)

    def weights(self):
        return [p for p in self.parameters() if all(p is not a for a in self.arch_parameters())]

    def forward(self, x):
        mix = self.arch_parameters()[0].softmax(-1)
        mixed = sum(m * path(x) for m, path in zip(mix, self.paths, strict=False))
        return None, self.last(x) + self.norm(mixed)  # an auxiliary output stands first


def loss_of(net, batch):
    return F.cross_entropy(net(batch[0])[1], batch[1])


class Architect:
    """Alpha by the slope of the validation loss after a step of the weights, or at the weights as they are."""

    def __init__(self, net, sgd, radius):
        self.net, self.sgd, self.radius = net, sgd, radius
        self.optimizer = torch.optim.Adam(net.arch_parameters(), 0.01)

    def step(self, train, valid):
        net, weights, alphas = self.net, self.net.weights(), self.net.arch_parameters()[:1]
        self.optimizer.zero_grad()
        if self.radius is None:
            (alphas[0].grad,) = torch.autograd.grad(loss_of(net, valid), alphas)
        else:
            here, rate = [p.detach().clone() for p in weights], self.sgd.param_groups[0]["lr"]
            found = torch.autograd.grad(loss_of(net, train), weights)
            self.move(weights, [p - rate * g for p, g in zip(here, found, strict=True)])
            *v, first = torch.autograd.grad(loss_of(net, valid), [*weights, *alphas])
            scale = self.radius / torch.stack([x.norm() for x in v]).norm()
            ends = []
            for sign in (1, -1):
                self.move(weights, [p + sign * scale * x for p, x in zip(here, v, strict=True)])
                ends.append(torch.autograd.grad(loss_of(net, train), alphas)[0])
            self.move(weights, here)
            alphas[0].grad = first - rate * (ends[0] - ends[1]) / (2 * scale)
        self.optimizer.step()

    def move(self, weights, values):
        with torch.no_grad():
            for p, value in zip(weights, values, strict=True):
                p.copy_(value)


BY_DIFFERENCES = CentralDifference()


def build(seed, radius=0.01, claim=BY_DIFFERENCES, kept="attributes"):
    torch.manual_seed(seed)
    net = Supernet(kept).double()
    train, valid = ((torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3) for _ in range(2))
    sgd = torch.optim.SGD(net.weights(), 0.2)
    architect = Architect(net, sgd, radius)
    step = partial(architect.step, train, valid)
    return architect_system(
        net,
        train,
        valid,
        alpha_step=step,
        weight_optimizer=sgd,
        alpha_optimizer=architect.optimizer,
        loss=F.cross_entropy,
        claim=claim,
    )


@pytest.mark.parametrize("kept", ["attributes", "list", "parameters"])
def test_a_second_order_architect_raises_no_alarm_though_a_row_of_logits_is_unused(kept):
    report = check(partial(build, kept=kept))
    assert report.ok, report
    arrives = next(f for f in report.findings if f.name == ARRIVES)
    assert "not one entry of alphas" in arrives.meaning
    moved = next(f for f in report.findings if "statistics" in f.name)
    assert moved.verdict is Verdict.NOTED


def test_a_first_order_architect_raises_no_alarm():
    report = check(partial(build, radius=None, claim=slope_of_outer))
    assert report.ok, report


def test_a_central_difference_that_is_said_to_be_exact_is_named():
    report = check(partial(build, radius=0.01, claim=slope_after_step))
    assert [f.name for f in report.failures] == [GRADIENT]
    assert "It is the central difference of radius 0.01" in report.failures[0].meaning
    assert "claim=CentralDifference()" in report.failures[0].meaning


def test_a_first_order_architect_that_claims_the_second_is_named():
    report = check(partial(build, radius=None, claim=slope_after_step))
    assert "It is the first-order gradient" in report.failures[0].meaning


def test_the_losses_leave_the_network_as_it_is():
    system = build(0)
    before = [x.clone() for x in (*system.w.values(), *system.alpha.values(), *system.buffers.values())]
    system.outer(system.w, {name: a + 1 for name, a in system.alpha.items()}, 0)
    after = [*system.w.values(), *system.alpha.values(), *system.buffers.values()]
    assert all(map(torch.equal, before, after))


def test_logits_that_the_network_does_not_hold_are_refused():
    net = nn.Linear(2, 2).double()
    batch = torch.randn(2, 2, dtype=torch.float64), torch.arange(2)
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    adam = torch.optim.Adam([torch.zeros(2, requires_grad=True)], 0.1)
    with pytest.raises(ValueError, match=r"architect_system: network must hold every tensor of alpha_optimizer"):
        architect_system(net, batch, batch, alpha_step=adam.step, weight_optimizer=sgd, alpha_optimizer=adam)
