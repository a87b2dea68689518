import inspect

import pytest
import torch

from fastnas_kernels import convolution, normalisation
from fastnas_kernels.convolution import conv2d
from fastnas_kernels.mixture import derivative as mixture

FUNCTIONS = [
    one
    for module in (convolution, mixture, normalisation)
    for one in vars(module).values()
    if inspect.isclass(one) and issubclass(one, torch.autograd.Function)
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_signatures_are_those_that_python_finds(function):
    forward = function.forward
    count = forward.__code__.co_argcount + bool(forward.__code__.co_flags & inspect.CO_VARARGS)
    assert tuple(forward.__signature__.parameters) == forward.__code__.co_varnames[:count]


def test_an_operation_works_no_signature_out(monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("worked out")

    x, weight = torch.ones(1, 1, 2, 2, requires_grad=True), torch.ones(1, 1, 1, 1)
    monkeypatch.setattr(inspect, "_signature_from_function", never)
    assert torch.equal(torch.autograd.grad(conv2d(x, weight).sum(), x)[0], torch.ones_like(x))
