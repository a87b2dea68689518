"""Unmodified checkouts of the networks that started the family; skipped where none is at hand.

``FASTNAS_DARTS_PATH`` and ``FASTNAS_PCDARTS_PATH`` name the folders that hold their ``model_search.py``.
"""

import copy
import importlib
import os
import sys

import pytest
import torch
from torch import nn

from fastnas import MixedOp, accelerate

EXACT = 1e-10
CASES = [
    ("FASTNAS_DARTS_PATH", "model_search"),
    ("FASTNAS_PCDARTS_PATH", "model_search"),
    ("FASTNAS_PCDARTS_PATH", "model_search_imagenet"),
]
THEIRS = ("model_search", "model_search_imagenet", "operations", "genotypes", "utils")


@pytest.fixture
def load(monkeypatch):
    """Imports a module of a checkout, whose modules go by the same bare names as those of the others."""

    def load(variable, name):
        path = os.environ.get(variable)
        if not path:
            pytest.skip(f"{variable} is not set")
        monkeypatch.syspath_prepend(path)
        monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)  # their logits ask for a GPU
        for module in THEIRS:
            monkeypatch.delitem(sys.modules, module, raising=False)
        return importlib.import_module(name)

    yield load
    for module in THEIRS:
        sys.modules.pop(module, None)


def error(mine, theirs):
    return ((mine - theirs).abs().max() / theirs.abs().max().clamp_min(1e-300)).item() if theirs.numel() else 0.0


def derivatives(network, alphas, x, y, create_graph=False):
    """Logits and the gradients of all weights and logits of the architecture."""
    network._arch_parameters = alphas
    names = [name for name in vars(network) if name.startswith(("alphas_", "betas_"))]
    for name, alpha in zip(names, alphas, strict=True):
        setattr(network, name, alpha)
    logits = network(x)
    loss = nn.functional.cross_entropy(logits, y)
    variables = [*network.parameters(), *alphas]
    gradients = torch.autograd.grad(
        loss, variables, create_graph=create_graph, materialize_grads=True, allow_unused=True
    )
    return [logits, *gradients]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def pair(request, load):
    """``(network, accelerated twin, architecture, report, size of images)`` in float64, one tensor for each logit."""
    module = load(*request.param)
    torch.manual_seed(0)
    network = module.Network(4 if "PC" not in request.param[0] else 8, 3, 3, None)
    alphas = [alpha.detach().double().mul(300).requires_grad_() for alpha in network.arch_parameters()]
    for name in [name for name in vars(network) if name.startswith(("alphas_", "betas_"))]:
        delattr(network, name)  # no parameters: they could not be copied below
        setattr(network, name, None)
    network._arch_parameters = []
    network.double()
    twin = copy.deepcopy(network)
    return network, twin, alphas, accelerate(twin), 64 if request.param[1].endswith("imagenet") else 12


def test_every_cell_is_replaced_and_nothing_is_left(pair):
    report = pair[3]
    assert [(entry.name, entry.level) for entry in report.replaced] == [(f"cells.{i}", "cell") for i in range(3)]
    assert report.left == ()


def test_first_and_second_derivatives_and_running_statistics_are_equal_in_both_modes(pair):
    network, twin, alphas, _, size = pair
    x, y = torch.randn(2, 3, size, size, dtype=torch.float64), torch.tensor([0, 2])
    keys = list(network.state_dict())
    for training in (True, False):
        results = []
        for net in (network, twin):
            logits, *gradients = derivatives(net.train(training), alphas, x, y, create_graph=True)
            total = sum((g * g).sum() for g in gradients)
            seconds = torch.autograd.grad(total, alphas)
            results.append([logits, *gradients, *seconds, *net.buffers()])
        assert max(error(mine, theirs) for theirs, mine in zip(*results, strict=True)) <= EXACT
    assert list(twin.state_dict()) == keys


def test_our_mixed_operation_loads_the_checkpoint_of_theirs(load):
    theirs = load("FASTNAS_DARTS_PATH", "model_search")
    for stride in (1, 2):
        foreign, own = theirs.MixedOp(8, stride).double(), MixedOp(8, stride).double()
        own.load_state_dict(foreign.state_dict())
        x, weights = torch.randn(2, 8, 6, 6, dtype=torch.float64), torch.rand(8, dtype=torch.float64)
        for training in (True, False):
            assert error(own.train(training)(x, weights), foreign.train(training)(x, weights)) <= EXACT
        assert max(error(a, b) for a, b in zip(own.buffers(), foreign.buffers(), strict=True)) <= EXACT
