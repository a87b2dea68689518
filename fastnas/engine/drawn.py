"""Steps whose draws the host never sees: what runs is picked from tables on the device, and nobody waits for it.

Where a compiled plan of the drawn candidates alone is worth the wait, or candidates are evaluated one by one, the host
reads every draw instead; :func:`find_reader` says where.

Shape suffixes: E edges, K candidates of an edge.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor, nn

from fastnas.mechanisms.draw import Draw
from fastnas.methods.method import Method
from fastnas.spaces.space import Space
from fastnas.supernet.mix import list_built
from fastnas.supernet.search_cell import SearchCell
from fastnas.supernet.supernets import DartsSupernet, NasBench201Supernet
from fastnas_kernels.backend import backend_for
from fastnas_kernels.mixed_op.drawn import DrawnPaths
from fastnas_kernels.normalisation import is_synchronised


def stays_on_device(supernet: nn.Module, method: Method, device: torch.device, noise: bool) -> bool:
    """Whether a step turns candidates off by draws that the host does not read."""
    return bool(_draws(method)) and find_reader(supernet, method, device, noise) is None


def _draws(method: Method) -> list[Draw]:
    """Those that turn candidates off."""
    return [draw for draw in (method.draw, method.weight_draw) if draw is not None and draw.turns_off]


def find_reader(supernet: nn.Module, method: Method, device: torch.device, noise: bool) -> str | None:
    """Why the host reads what a step draws; ``None`` where it need not, and where all candidates run.

    Args:
        supernet: What is searched.
        method: How.
        device: Where.
        noise: Whether outputs are dropped at random.
    """
    draws = _draws(method)
    if not draws:
        return None
    if not _are_served(device):
        return "what was not drawn is not evaluated, and no kernel on the device decides that"
    reasons = [
        (not _is_known(supernet), "the space has candidates that no kernel knows, and PyTorch runs the drawn ones"),
        (not all(draw.one_hot or draw.single for draw in draws), "how many candidates a draw leaves on is not known"),
        (any(draw.has_offsets() for draw in draws), "the gradient of every scalar is added to an edge by PyTorch"),
        (noise, "what is dropped at random is dropped by PyTorch"),
        (method.update_schedule.joint, "a step that moves alpha and the weights at once is of no published draw"),
        (is_synchronised(), "several processes share their statistics, for which no kernel waits"),
    ]
    return next((why for broken, why in reasons if broken), None)


def _are_served(device: torch.device) -> bool:
    return device.type == "cuda" and backend_for(device) == "triton"


def _is_known(supernet: nn.Module) -> bool:
    if type(supernet) not in (DartsSupernet, NasBench201Supernet):
        return False
    return all(cell.planned for cell in supernet.modules() if isinstance(cell, SearchCell))


@lru_cache(maxsize=64)
def _positions(space: Space, cell_type: str, device: torch.device) -> Tensor:
    """``[E, K]``: where each candidate stands among those of its edge that a cell has, -1 where it has none."""
    built = [list_built(space, cell_type, row) for row in range(len(space.edges))]
    rows = [[names.index(name) if name in names else -1 for name in space.primitives] for names in built]
    return torch.tensor(rows).to(device)


def draw_on_device(space: Space, cell_type: str, on_EK: Tensor, paths: int) -> DrawnPaths:
    """What runs, at most ``paths`` candidates of an edge, from the mask of it."""
    on, columns = on_EK.to(torch.float32).topk(paths, -1)
    positions = _positions(space, cell_type, on_EK.device).gather(1, columns)
    return DrawnPaths(torch.where(on > 0, positions, -1))


@contextmanager
def resting(
    optimizer: torch.optim.Optimizer,
    supernet: nn.Module,
    w: Mapping[str, nn.Parameter],
    gradients: Mapping[str, Tensor | None],
) -> Generator[None]:
    """What a step inside the block makes of weights whose gradient is zero everywhere is undone, but for the last
    layer's, which every step reads.

    These are the weights of what was not drawn, and of what nothing that was drawn reads. Where the host knows a draw,
    they have no gradient, and neither weight decay nor momentum moves them; kernels give them zeros.
    """
    read = set(supernet.classifier.parameters())  # type: ignore[union-attr]
    found = {w[name]: g for name, g in gradients.items() if g is not None and w[name] not in read}
    weights = list(found)
    largest = torch.stack(torch._foreach_norm(list(found.values()), torch.inf))  # pyright: ignore[reportPrivateImportUsage]
    sizes = tuple(p.numel() for p in weights)
    moves = (largest > 0).repeat_interleave(_on_device(sizes, largest.device), output_size=sum(sizes))
    before = [_flat(family) for family in (weights, _momentum(optimizer, weights))]
    yield
    with torch.no_grad():
        for family, old in zip((weights, _momentum(optimizer, weights)), before, strict=True):
            kept = torch.where(moves, _flat(family), old).split(sizes)
            pairs = [(x, part.view(x.shape)) for x, part in zip(family, kept, strict=True) if x is not None]
            torch._foreach_copy_([x for x, _ in pairs], [part for _, part in pairs])  # pyright: ignore[reportPrivateImportUsage]


@lru_cache(maxsize=16)
def _on_device(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(sizes).to(device)


def _momentum(optimizer: torch.optim.Optimizer, weights: Sequence[nn.Parameter]) -> list[Tensor]:
    """That of each weight: zeros where there is none yet, which a step takes for the same."""
    return [
        torch.zeros_like(p) if b is None else b for p in weights for b in [optimizer.state[p].get("momentum_buffer")]
    ]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.detach().flatten() for x in tensors])
