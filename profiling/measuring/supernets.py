"""Whole steps of a search to measure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fastnas.engine.coefficients import relax
from fastnas.methods.library import METHODS
from fastnas.spaces.cell_space import DARTS, S2, CellSpace
from fastnas.supernet.architecture import draw_logits
from fastnas.supernet.supernets import build_supernet
from measuring.cells import PHASES, Phase, Scale
from measuring.device import forced


@dataclass(frozen=True)
class Training:
    """A supernet and its batches: ``images`` of ``side`` times ``side`` pixels."""

    name: str
    method: str
    channels: int
    cells: int
    images: int
    side: int
    large: bool = False
    space: CellSpace = DARTS


class Built(NamedTuple):
    """A supernet on a device, with what a loss needs."""

    training: Training
    net: nn.Module
    w: dict[str, nn.Parameter]
    alpha: Mapping[str, Tensor]
    images: Tensor
    labels: Tensor


def trainings(scale: Scale) -> tuple[Training, ...]:
    """Those that are timed: the published searches."""
    if scale == "tiny":
        # Two edges of two candidates in each of three cells: what the interpreter runs in seconds
        small = replace(S2, num_nodes=1, concat=(2,))
        return (Training("tiny", "darts", 2, 3, 4, 4, space=small),)
    return (
        Training("DARTS on CIFAR, C=16, 8 cells, batch 64", "darts", 16, 8, 64, 32),
        Training("PC-DARTS on CIFAR, K=4, C=16, 8 cells, batch 256", "pc_darts", 16, 8, 256, 32),
        Training(
            "PC-DARTS on ImageNet, K=2, C=16, 8 cells, batch 128", "pc_darts_imagenet", 16, 8, 128, 224, large=True
        ),
    )


def build(training: Training, device: torch.device) -> Built:
    """The same weights, logits and images on every device."""
    torch.manual_seed(0)
    method = METHODS[training.method]()
    net = build_supernet(
        training.space, 10, training.channels, training.cells, method.partial_channels, 3, training.large
    )
    images = torch.randn(training.images, 3, training.side, training.side)
    labels = torch.randint(10, (training.images,))
    net = net.to(device)
    alpha = draw_logits(training.space, method.edge_normalisation, 0, device)
    return Built(training, net, dict(net.named_parameters()), alpha, images.to(device), labels.to(device))


def passes(
    built: Built, backend: str, phase: Phase
) -> tuple[Callable[[], Tensor], Callable[[Tensor], tuple[Tensor | None, ...]]]:
    """Forward and backward pass of a phase; the second takes the loss and returns the gradients."""
    of_w, of_alpha = PHASES[phase]
    method = METHODS[built.training.method]()
    w: Mapping[str, Tensor] = built.w if of_w else {name: p.detach() for name, p in built.w.items()}
    alpha = built.alpha if of_alpha else {name: a.detach() for name, a in built.alpha.items()}
    wanted = [*(w.values() if of_w else ()), *(alpha.values() if of_alpha else ())]

    def forward() -> Tensor:
        with forced(backend):
            logits = functional_call(built.net, dict(w), (built.images, relax(method, built.training.space, alpha)))
            return F.cross_entropy(logits, built.labels)

    def backward(loss: Tensor) -> tuple[Tensor | None, ...]:
        with forced(backend):
            return torch.autograd.grad(loss, wanted, allow_unused=True)

    return forward, backward
