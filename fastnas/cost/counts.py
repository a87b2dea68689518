"""Parameters and multiply-adds of a network."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def num_parameters(network: nn.Module, without: str = "auxiliary") -> int:
    """Number of trained scalars, the auxiliary head left out as the field does.

    Args:
        network: Any module.
        without: Name of the direct submodule to leave out.
    """
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith(f"{without}."))


def multiply_adds(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of the convolutions and matrix products of one image's forward pass in evaluation mode.

    Args:
        network: A module that takes images alone.
        image_shape: ``(C, H, W)``.
    """
    parameter = next(network.parameters())
    images = torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype)
    counter = FlopCounterMode(display=False)
    was_training = network.training
    network.eval()
    with torch.no_grad(), counter:
        network(images)
    network.train(was_training)
    return counter.get_total_flops() // 2
