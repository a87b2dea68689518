"""What starting a differentiable operation costs in Python."""

import inspect
from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def signed(forward: F) -> F:
    """Note the signature of a Function's ``forward``, so that it is not worked out anew at every call.

    ``torch.autograd.Function.apply`` asks for it wherever there is a ``setup_context``: on a CPU a third of what a
    convolution of a few pixels takes.
    """
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return forward
