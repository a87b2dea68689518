"""The oracle: is the architecture gradient of a method, on a supernet, what it should be?

Published code of this family holds architecture gradients that are wrong in silence: a virtual step that does nothing,
logits that never get a gradient, a penalty without slope. Each check here is a few lines that compare a method with
finite differences of its own losses, in float64 on a tiny problem, or watch what a step touches.
"""

from dataclasses import dataclass, replace

from torch import nn

from fastnas.check.bench import Bench
from fastnas.check.claims import outcomes
from fastnas.method import Method
from fastnas.seeds import torch_seed
from fastnas.space.cell_space import CellSpace
from fastnas_kernels.check import require

__all__ = ["Finding", "check"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        claim: What should hold.
        holds: Whether it does.
        detail: What was measured.
    """

    claim: str
    holds: bool
    detail: str = ""


def check(
    supernet_or_space: nn.Module | CellSpace,
    method: Method,
    *,
    image_shape: tuple[int, int, int] = (1, 8, 8),
    num_classes: int = 10,
    seed: int = 0,
) -> list[Finding]:
    """Compare what ``method`` does on a supernet with what it claims, in float64 on random images.

    Args:
        supernet_or_space: A space, for which a small supernet is built, or a supernet of your own, which is copied and
            left as it is; keep it small, since finite differences evaluate it some dozens of times.
        method: What to check.
        image_shape: ``(channels, height, width)`` that the supernet takes.
        num_classes: Classes that it tells apart.
        seed: Decides images, logits and draws.

    Returns:
        A finding for every claim that makes sense for the method.

    Raises:
        ValueError: If the supernet has no space.
    """
    space = supernet_or_space if isinstance(supernet_or_space, CellSpace) else getattr(supernet_or_space, "space", None)
    rule, remedy = "supernet must have a space", "Give it an attribute `space`, a CellSpace."
    require(isinstance(space, CellSpace), "check", rule, type(supernet_or_space).__name__, remedy)
    method = replace(method, protocol=replace(method.protocol, alpha_every=1))
    if isinstance(supernet_or_space, CellSpace):
        image_shape, num_classes = (1, 8, 8), 10
    bench = Bench(supernet_or_space, method, image_shape, num_classes, seed)
    with torch_seed(seed):
        return [Finding(claim, *outcome) for claim, outcome in outcomes(bench)]
