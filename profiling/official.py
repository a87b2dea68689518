"""Does a search step make the weights and the logits that the official code makes of them?

Runs whole steps of the published search beside the library's, from the same weights, logits and batches, in float64:
the architecture's step, the gradient of the weights, clipping, and both optimisers. Prints how far weights and logits
are apart after every step. Give the folder of an official checkout that has ``model_search.py`` and ``architect.py``:
quark0/darts (its ``cnn``) or yuhuixu1993/PC-DARTS. Its modules are imported and run; nothing of it is part of this
repository.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from fastnas.data import Batch, load_data
from fastnas.engine import Run, fresh_state, search_step, stage_supernet
from fastnas.methods import darts, darts_2nd, pc_darts
from fastnas.spaces.cell_space import DARTS
from fastnas.training.config import SearchConfig
from fastnas_kernels.check import require
from measuring.foreign import foreign_module

CPU = torch.device("cpu")
METHODS = {"darts": darts, "darts_2nd": lambda: darts_2nd(by_differences=True), "pc_darts": pc_darts}


@dataclass(frozen=True, kw_only=True)
class Official:
    """What to compare.

    Args:
        checkout: Folder of the official code.
        method: Which search: darts, darts_2nd (as published) or pc_darts.
        channels: Channels of the first cells.
        layers: Cells.
        batch_size: Images a step, of each half.
        steps: Steps of the search.
        tolerance: Largest relative difference that counts as equal.
    """

    checkout: Path
    method: str = "darts"
    channels: int = 8
    layers: int = 3
    batch_size: int = 4
    steps: int = 3
    tolerance: float = 1e-7


def compare(settings: Official) -> list[tuple[float, float]]:
    """Relative differences of weights and of logits after each step."""
    require(settings.method in METHODS, "official", f"method must be one of {', '.join(METHODS)}", settings.method)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    theirs, architect, optimizer = _official(settings)
    ours = _library(settings, theirs)
    generator, found = torch.Generator().manual_seed(1), []
    for _ in range(settings.steps):
        images = torch.rand(2, settings.batch_size, 3, 32, 32, generator=generator)
        labels = torch.randint(10, (2, settings.batch_size), generator=generator)
        _official_step(settings, theirs, architect, optimizer, images, labels)
        search_step(ours, Batch(images[0], labels[0]), Batch(images[1], labels[1]))
        of_weights = _difference(list(ours.state.w.values()), list(theirs.parameters()))
        found.append((of_weights, _difference(list(ours.state.alpha.values()), _logits(theirs))))
    return found


def _official(settings: Official) -> tuple[Any, Any, torch.optim.Optimizer]:
    code: Any = foreign_module(settings.checkout, "model_search", CPU)
    steps: Any = foreign_module(settings.checkout, "architect", CPU)
    network = code.Network(settings.channels, 10, settings.layers, nn.CrossEntropyLoss())
    numbers = SimpleNamespace(momentum=0.9, weight_decay=3e-4, arch_learning_rate=3e-4, arch_weight_decay=1e-3)
    optimizer = torch.optim.SGD(network.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
    return network, steps.Architect(network, numbers), optimizer


def _official_step(
    settings: Official, network: Any, architect: Any, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    unrolled = settings.method == "darts_2nd"
    architect.step(images[0], labels[0], images[1], labels[1], 0.025, optimizer, unrolled=unrolled)
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(images[0]), labels[0]).backward()
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()


def _library(settings: Official, theirs: Any) -> Run:
    """A search from the same weights and logits, in the first of its epochs."""
    method, data = METHODS[settings.method](), replace(load_data("digits"), channels=3, resolution=(32, 32))
    config = SearchConfig(
        channels=settings.channels,
        cells=settings.layers,
        batch_size=settings.batch_size,
        warmup_epochs=0,
        weight_lr=0.025,
        alpha_lr=3e-4,
        device="cpu",
    )
    supernet = stage_supernet(DARTS, method, data, config, 0)
    state = fresh_state(supernet, method, config, CPU)
    weights = list(theirs.parameters())
    shapes = [[tuple(p.shape) for p in network] for network in (state.w.values(), weights)]
    require(shapes[0] == shapes[1], "official", "both networks must have the same weights in the same order", "others")
    with torch.no_grad():
        for own, other in zip([*state.w.values(), *state.alpha.values()], [*weights, *_logits(theirs)], strict=True):
            own.copy_(other)
    return Run(method, data, config, CPU, (np.arange(2), np.arange(2)), settings.steps + 1, state)


def _logits(network: Any) -> list[Tensor]:
    names = ("alphas_normal", "alphas_reduce", "betas_normal", "betas_reduce")
    return [getattr(network, name) for name in names if hasattr(network, name)]


def _difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    one, other = (torch.cat([x.detach().flatten() for x in tensors]) for tensors in (ours, theirs))
    return float((one - other).norm() / other.norm())


def main(settings: Official) -> None:
    """Compare, print, and fail where they differ."""
    found = compare(settings)
    for step, (weights, logits) in enumerate(found, 1):
        print(f"{settings.method}, step {step}: weights differ by {weights:.1e}, logits by {logits:.1e}")
    worst = max(map(max, found))
    require(worst <= settings.tolerance, "official", f"they must agree to {settings.tolerance:g}", f"{worst:.1e}")


if __name__ == "__main__":
    main(tyro.cli(Official))
