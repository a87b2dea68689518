"""Argument checks that all speak with one voice."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a process that only compiles kernels need not wait for PyTorch
    from torch import Tensor


class Unavailable(RuntimeError):
    """The environment lacks what was asked for; nothing is wrong with the code, and the message is one sentence."""


def invalid(where: str, rule: str, got: object, remedy: str = "") -> ValueError:
    """The error to raise for a broken rule: ``raise invalid("Method", "tau must be positive", tau)``."""
    return ValueError(complaint(where, rule, got, remedy))


def complaint(where: str, rule: str, got: object, remedy: str = "") -> str:
    """The one sentence in which every error of fastnas is said."""
    return f"{where}: {rule}, got {got}." + (f" {remedy}" if remedy else "")


def require_shape(where: str, name: str, tensor: "Tensor", expected: Sequence[int], because: str) -> None:
    """Raise unless ``tensor.shape == expected``; ``because`` says where the expectation comes from."""
    if tuple(tensor.shape) != tuple(expected):
        raise invalid(where, f"{name} must have shape {list(expected)} ({because})", list(tensor.shape))
