"""Paths that are dropped while a derived network is trained."""

import torch
from torch import Tensor


class DropPath:
    """Drops whole paths of single images, from a seed (Larsson et al., 2017, arXiv:1605.07648).

    Args:
        probability: Of a path to be dropped; the kept ones are divided by what is left.
        seed: Decides which; paths draw from it in the order in which they are asked.
        device: Where the images are.
    """

    def __init__(self, probability: float, seed: int, device: torch.device) -> None:
        self.keep = 1 - probability
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, x: Tensor) -> Tensor:
        mask = torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device)
        return x * mask.bernoulli_(self.keep, generator=self.generator) / self.keep
