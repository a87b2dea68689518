"""Functions as operators of PyTorch, which tracers see from the outside, and what starting one costs in Python."""

import inspect
from collections.abc import Callable
from typing import TypeVar

import torch
from torch._ops import OpOverload

F = TypeVar("F", bound=Callable[..., object])


def operator(name: str) -> Callable[[Callable], OpOverload]:
    """Make a function of tensors the operator ``fastnas::<name>``, on every device but meta.

    As ``torch.library.custom_op``, without what that does at every call in Python, 40 microseconds: a gradient of its
    own, which the autograd Functions around our operators already are, and a search for results that share memory
    with arguments, which ours must not.

    Args:
        name: Of the operator.

    Returns:
        Decorates the function, whose annotations are the schema; it returns new tensors and changes no argument. On
        meta tensors ``torch.library.register_fake`` has to say what it returns.
    """

    def register(function: Callable) -> OpOverload:
        qualified = f"fastnas::{name}"
        torch.library.define(qualified, torch.library.infer_schema(function, mutates_args=()))
        torch.library.impl(qualified, "default", function)
        return getattr(torch.ops.fastnas, name).default

    return register


def signed(forward: F) -> F:
    """Note the signature of a Function's ``forward``, so that it is not worked out anew at every call.

    ``torch.autograd.Function.apply`` asks for it wherever there is a ``setup_context``: on a CPU a third of what a
    convolution of a few pixels takes.
    """
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return forward
