"""What several processes, each with batches of its own, agree on.

Every quantity here is linear in the loss: a gradient, a product with a Hessian. The mean over processes of such a
quantity is that of the mean of their losses, so averaging each where it is first known, and before anything nonlinear
is done with it (a step, a solve, a norm), gives every process what one process with all batches would have. It is the
mean of losses that is meant: a network whose batch normalisation takes the statistics of each process's own images is
another function than one that sees all images at once, in one process as in several.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from fastnas_kernels.check import require

Average = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""From the tensors of this process to the means over all processes; called by all of them in the same order."""


def alone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One process: nothing to average."""
    return dict(tensors)


@dataclass(frozen=True)
class OverProcesses:
    """The mean over the processes of a group, all tensors in one message.

    Args:
        group: Of ``torch.distributed``; ``None`` for all processes.
    """

    group: distributed.ProcessGroup | None = None

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        remedy = "Call torch.distributed.init_process_group first."
        require(distributed.is_initialized(), "OverProcesses", "processes must have been joined", "none", remedy)
        if not tensors:
            return {}
        flat = torch.cat([x.detach().flatten() for x in tensors.values()])
        distributed.all_reduce(flat, group=self.group)
        parts = (flat / distributed.get_world_size(self.group)).split([x.numel() for x in tensors.values()])
        return {name: part.view(x.shape) for part, (name, x) in zip(parts, tensors.items(), strict=True)}
