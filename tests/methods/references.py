"""What official code computes, written down from its equations: short, slow, and with no line of the library's own."""

import torch
from torch.func import functional_call
from torch.nn import functional as F

from fastnas.supernet.mix import Mix


def softmax_of(alpha_EK):
    return alpha_EK.exp() / alpha_EK.exp().sum(-1, keepdim=True)


def loss_at(run, batch, w, mix):
    """Mean cross-entropy of ``batch`` at coefficients by cell type."""
    return F.cross_entropy(functional_call(run.state.supernet, w, (batch.images, Mix(mix, {}))), batch.labels)


def gradients(run, batch, coefficients=softmax_of, extra=lambda alpha: 0.0):
    """Of the loss at ``coefficients`` of alpha, and of what is added to it, for the weights and for alpha."""
    w = {name: p.detach().requires_grad_() for name, p in run.state.w.items()}
    alpha = {name: a.detach().requires_grad_() for name, a in run.state.alpha.items()}
    mix = {name.removeprefix("alpha."): coefficients(a) for name, a in alpha.items()}
    loss, leaves = loss_at(run, batch, w, mix) + extra(alpha), {**w, **alpha}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def stepped(run, gradient, velocity=None, first=True):
    """The weights after a step of SGD with momentum and weight decay, clipped by norm, as ``torch.optim.SGD`` is
    documented."""
    group = run.state.weight_optimizer.param_groups[0]
    norm = torch.cat([gradient[name].flatten() for name in run.state.w]).norm()
    limit = run.config.grad_clip
    scale = (limit / (norm + 1e-6)).clamp(max=1) if limit else 1.0
    after = {}
    for name, p in run.state.w.items():
        g = gradient[name] * scale + group["weight_decay"] * p.detach()
        v = g if first else group["momentum"] * velocity[name] + g
        after[name] = p.detach() - group["lr"] * v
    return after


def assert_near(found, expected):
    expected = {name: x.detach() for name, x in expected.items()}
    torch.testing.assert_close({n: found[n].detach() for n in expected}, expected, rtol=1e-7, atol=1e-9)
