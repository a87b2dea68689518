"""Heads that give a class to each place of a map, for segmentation."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastnas.errors import invalid
from fastnas.spaces.cell_space import CellSpace
from fastnas.spaces.space import Space
from fastnas.tasks import Dense, Task

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class DenseClassifier(nn.Linear):
    """A linear classifier of every place of the last maps, whose logits are interpolated to the size of the targets.

    Args:
        linear: The classifier, whose weights it takes.
        scale: Side of the targets over that of the maps.
        dimensions: Of the maps.
    """

    def __init__(self, linear: nn.Linear, scale: float, dimensions: int) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features)
        self.weight, self.bias = linear.weight, linear.bias
        self.scale, self.dimensions, self.mode = scale, dimensions, MODES[dimensions]

    def forward(self, input: Tensor) -> Tensor:
        """From maps ``[N, C, *size]`` to ``[N, classes, *targets]``."""
        logits = F.linear(input.movedim(1, -1), self.weight, self.bias).movedim(-1, 1)
        return F.interpolate(logits, scale_factor=self.scale, mode=self.mode, align_corners=False)


def fit_head(network: Any, task: Task, space: Space, resolution: tuple[int, ...], large: bool) -> Any:
    """``network``, a supernet or a derived network, with the head that its task needs."""
    if not isinstance(task, Dense):
        return network
    if not isinstance(space, CellSpace):
        raise invalid("task", "a dense task needs a space of cells", space.name, "Search darts or nasbench201.")
    if getattr(network, "auxiliary", None) is not None:
        raise invalid("task", "auxiliary must be 0 for a dense task, whose auxiliary head would see no map", "more")
    stride = 32 if large else 4
    scales = {stride * target / side for target, side in zip(task.size, resolution, strict=True)}
    if any(side % stride for side in resolution) or len(scales) > 1:
        rule = f"images of a dense task must have sides divisible by {stride}, and targets their proportions"
        raise invalid("task", rule, f"images {list(resolution)} and targets {list(task.size)}", "Pad or crop both.")
    network.dense = True
    network.classifier = DenseClassifier(network.classifier, scales.pop(), len(resolution))
    return network
