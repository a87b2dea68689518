"""Modules that differ from what the drop-in believes in one respect, and what training turns on them later."""

import itertools
import time

import torch
from torch import nn
from torch.nn import functional as F

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
