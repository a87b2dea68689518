"""What a supernet drops at random on its edges while it is searched: a pure function of rates and a seed."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastnas.seeds import stream


class EdgeNoise(NamedTuple):
    """Rates of what is dropped, and the seed that decides what.

    Args:
        drop_path: Probability, for each image and edge, that the edge's mixed output is zero; the others are divided
            by the probability of staying (Zela et al., 2020, arXiv:1909.09656, section 5.1).
        skip_dropout: Probability that an element of a skip connection's output is zero where it keeps the resolution;
            the others are divided likewise (Chen et al., 2019, arXiv:1904.12760, section 3.3).
        seed: Decides what is dropped.
    """

    drop_path: float
    skip_dropout: float
    seed: int


class NoiseSource:
    """Drops outputs in the order in which it is asked, always the same from a fresh source.

    Args:
        noise: Rates and seed.
        cell_type: Each cell type has streams of its own.
        device: Where the outputs are.
        place: Which of the network's cells asks; each has a stream of its own, so that it can be evaluated again by
            itself.
    """

    def __init__(self, noise: EdgeNoise, cell_type: str, device: torch.device, place: int = 0) -> None:
        self.noise, self.cell_type, self.device = noise, cell_type, device
        self.generator = torch.Generator(device).manual_seed(stream(noise.seed, cell_type, place))

    def at(self, place: int) -> "NoiseSource":
        """The fresh source of the cell at ``place``."""
        return NoiseSource(self.noise, self.cell_type, self.device, place)

    def drop(self, names: Sequence[str], outputs: Sequence[Tensor], stride: int) -> list[Tensor]:
        """The outputs of one edge's candidates after both kinds of noise."""
        dropped = list(outputs)
        if self.noise.skip_dropout > 0 and stride == 1 and "skip_connect" in names:
            position = names.index("skip_connect")
            dropped[position] = dropped[position] * self._kept(
                dropped[position].shape, self.noise.skip_dropout, outputs
            )
        if self.noise.drop_path > 0 and dropped:
            kept = self._kept((len(dropped[0]), *[1] * (dropped[0].dim() - 1)), self.noise.drop_path, outputs)
            dropped = [x * kept for x in dropped]
        return dropped

    def _kept(self, shape: Sequence[int], rate: float, like: Sequence[Tensor]) -> Tensor:
        empty = like[0].new_empty(tuple(shape), dtype=torch.get_default_dtype())
        mask = empty.bernoulli_(1 - rate, generator=self.generator)
        return (mask / (1 - rate)).to(like[0].dtype)
