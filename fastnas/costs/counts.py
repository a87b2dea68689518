"""Parameters, multiply-adds and activation bytes of a network."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastnas_kernels.tensors import storage_id


def num_parameters(network: nn.Module, without: str = "auxiliary") -> int:
    """Number of trained scalars, the auxiliary head left out as the field does."""
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith(f"{without}."))


def multiply_adds(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of the convolutions and matrix products of one image's forward pass in evaluation mode."""
    parameter = next(network.parameters(), torch.empty(0))
    images = torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype)
    counter = FlopCounterMode(display=False)
    was_training = network.training
    network.eval()
    with torch.no_grad(), counter:
        network(images)
    network.train(was_training)
    return counter.get_total_flops() // 2


def activation_bytes(module: nn.Module, x: Tensor, without: Sequence[nn.Module] = ()) -> int:
    """Bytes that a training pass of ``module`` keeps for its backward pass: those of the distinct storages that
    autograd saves, parameters and buffers left out.

    Args:
        module: Takes ``x`` alone. On the device "meta" nothing is computed or allocated.
        x: What it reads. Where the backward needs ``x`` itself (as that of a pool does), it counts.
        without: Submodules whose savings are not counted.
    """
    kept = {storage_id(t) for t in (*module.parameters(), *module.buffers())}
    saved: dict[int, Tensor] = {}  # holds the tensors, so that no storage is freed and its address used again
    depth = [0]

    def pack(t: Tensor) -> Tensor:
        if depth[0] == 0 and storage_id(t) not in kept:
            saved[storage_id(t)] = t
        return t

    with _count_calls(without, depth), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        module(x.detach().requires_grad_())
    return sum(t.untyped_storage().nbytes() for t in saved.values())


@contextmanager
def _count_calls(modules: Sequence[nn.Module], depth: list[int]) -> Generator[None, None, None]:
    """Keep in ``depth[0]`` how many of ``modules`` are running."""

    def enter(module: nn.Module, arguments: object) -> None:
        depth[0] += 1

    def leave(module: nn.Module, arguments: object, output: object) -> None:
        depth[0] -= 1

    handles = [m.register_forward_pre_hook(enter) for m in modules] + [m.register_forward_hook(leave) for m in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
