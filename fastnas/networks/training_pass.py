"""What training adds to a derived network: dropped paths and the auxiliary head."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from fastnas.networks.network import DerivedNetwork
from fastnas.supernet.operations import Noise


class DropPath:
    """Drop whole paths of single images, from a seed (Larsson et al., 2017, arXiv:1605.07648).

    Args:
        probability: Of a path to be dropped; the kept ones are divided by what is left.
        seed: Decides which; paths draw from it in the order in which they run.
        device: Where the images are.
    """

    def __init__(self, probability: float, seed: int, device: torch.device) -> None:
        self.keep = 1 - probability
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, x: Tensor) -> Tensor:
        mask = torch.empty(len(x), *[1] * (x.dim() - 1), dtype=x.dtype, device=x.device)
        return x * mask.bernoulli_(self.keep, generator=self.generator) / self.keep


class TrainingPass(nn.Module):
    """A derived network as its training sees it: ``logits, auxiliary_logits = pass(images, drop_path, seed)``.

    Args:
        network: The network; its parameters are those of the pass.
    """

    def __init__(self, network: DerivedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, drop_path: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor | None]:
        """From ``[N, image_channels, H, W]`` to logits ``[N, num_classes]`` and those of the auxiliary head, ``None``
        where there is none.

        Args:
            images: A batch.
            drop_path: Probability of a dropped path.
            seed: Decides which paths are dropped, and what the primitive ``noise`` draws.
        """
        network = self.network
        auxiliary = network.auxiliary if network.training else None
        inner: list[Tensor] = []
        with ExitStack() as hooks:
            if drop_path > 0 and network.training:
                drop = DropPath(drop_path, seed, images.device)
                for module in network.droppable():
                    hooks.callback(_on_output(module, drop))
            if auxiliary is not None:
                cell = network.get_submodule(f"cells.{network.auxiliary_after}")
                hooks.callback(_on_output(cell, inner.append))
            _seed_noise(network, seed)
            hooks.callback(lambda: _seed_noise(network, 0))
            logits = network(images)
        return logits, None if auxiliary is None else auxiliary(*inner)


def _on_output(module: nn.Module, function: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
    """Let ``function`` see, and replace, what ``module`` returns; call the result to stop it."""

    def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
        return function(output)

    return module.register_forward_hook(hook).remove


def _seed_noise(network: nn.Module, seed: int) -> None:
    for module in network.modules():
        if isinstance(module, Noise):
            module.draw_from(seed)
