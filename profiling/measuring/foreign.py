"""Supernets that somebody else wrote, given by the folder of their code."""

import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def foreign_module(checkout: Path, name: str, device: torch.device) -> object:
    """A module of the code in ``checkout``, imported by its bare name as that code expects."""
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    if device.type == "cpu":  # supernets of this family ask for a GPU
        torch.Tensor.cuda = lambda self, *_, **__: self
        nn.Module.cuda = lambda self, *_, **__: self
        torch.cuda.FloatTensor = torch.FloatTensor
    return importlib.import_module(name)


def copied(network: nn.Module) -> nn.Module:
    """A deep copy; the logits of the architecture, which are no leaves of a graph, stay shared."""
    shared = {id(value): value for value in vars(network).values() if isinstance(value, Tensor)}
    return copy.deepcopy(network, shared)


def logits_of(network: nn.Module, logits: list[Tensor]) -> dict[str, Tensor]:
    """Those of ``logits`` that are attributes of the network, by their names."""
    known = {id(x) for x in logits}
    return {name: value for name, value in vars(network).items() if id(value) in known}


@contextmanager
def patched(owner: object, **values: object) -> Iterator[None]:
    """Other attributes of an object, for as long as the block lasts."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def step(network: nn.Module, logits: list[Tensor], images: Tensor, labels: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward: outputs, and the gradients of all weights and logits of the architecture."""
    variables = [*network.parameters(), *logits]

    def forward_backward() -> tuple[Tensor, ...]:
        outputs = network(images)
        return outputs.detach(), *torch.autograd.grad(F.cross_entropy(outputs, labels), variables)

    return forward_backward


def errors_of(result: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> tuple[float, float]:
    """Relative error of logits and of all gradients together.

    Gradients jump where rounding moves a value across the corner of a ReLU, so their errors are of a few such values:
    they differ by orders of magnitude from one batch to the next.
    """
    return tuple(
        ((torch.cat([t.flatten() for t in mine]) - exact).norm() / exact.norm()).item()
        for mine, exact in (
            (result[:1], truth[0].flatten()),
            (result[1:], torch.cat([t.flatten() for t in truth[1:]])),
        )
    )  # type: ignore[return-value]
