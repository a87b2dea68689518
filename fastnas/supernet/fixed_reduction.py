"""The reduction cell that GDAS does not search."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastnas.supernet.operations import batch_norm, convolution
from fastnas_kernels.check import require

GROUPS = 8  # of the two thin convolutions


class FixedReduction(nn.Module):
    """Halves the resolution without anything to choose: of both inputs a 1x3 and 3x1 convolution and a pool, side by
    side (Dong and Yang, 2019, arXiv:1910.04465, section 3.3, with the numbers of the published code).

    Args:
        inputs: One module for each of the two input states, which brings it to ``channels``.
        channels: Channels of every branch, a multiple of 8.
        searching: See :func:`fastnas.supernet.operations.batch_norm`.
    """

    def __init__(self, inputs: Sequence[nn.Module], channels: int, searching: bool) -> None:
        super().__init__()
        remedy = "Its thin convolutions have 8 groups: choose channels that are a multiple of 4."
        require(channels % GROUPS == 0, "FixedReduction", f"channels must be a multiple of {GROUPS}", channels, remedy)
        self.inputs = nn.ModuleList(inputs)
        self.thin = nn.ModuleList(_thin(channels, searching) for _ in inputs)
        self.pools = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(3, 2, 1), batch_norm(channels, searching)) for _ in inputs
        )

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """From the input states ``[N, *, H, W]`` to ``[N, 4 * channels, H / 2, W / 2]``."""
        states: list[Tensor] = []
        for i, prepare in enumerate(self.inputs):
            states.append(prepare(inputs[i]))
        branches: list[Tensor] = []
        for i, branch in enumerate(self.thin):
            branches.append(branch(states[i]))
        for i, branch in enumerate(self.pools):
            branches.append(branch(states[i]))
        return torch.cat(branches, dim=1)


def _thin(channels: int, searching: bool) -> nn.Sequential:
    """Grouped convolutions along rows and along columns, and a 1x1 convolution that brings the groups together."""
    across = nn.Conv2d(channels, channels, (1, 3), (1, 2), (0, 1), groups=GROUPS, bias=False)
    down = nn.Conv2d(channels, channels, (3, 1), (2, 1), (1, 0), groups=GROUPS, bias=False)
    mixed = [nn.ReLU(), convolution(channels, channels, 1, searching=searching), batch_norm(channels, searching)]
    return nn.Sequential(nn.ReLU(), across, down, batch_norm(channels, searching), *mixed)
