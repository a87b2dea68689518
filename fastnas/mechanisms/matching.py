"""Two regularisers of the weight step that compare gradients: freezing candidates, and aligning cells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastnas.errors import invalid


@dataclass(frozen=True)
class GradientMatching:
    """Freeze a candidate when its gradients on the two halves of the images no longer agree: operation-level early
    stopping (Jiang et al., 2023, NeurIPS 36, section 4).

    Args:
        window: Steps over which the cosine of the two gradients is averaged (code: 20).
        threshold: Mean below which the weights of the candidate stay for the rest of the search (code: 0.4).
    """

    window: int = 20
    threshold: float = 0.4

    def __post_init__(self) -> None:
        if self.window < 1:
            raise invalid("GradientMatching", "window must be at least 1", self.window)
        if not -1 <= self.threshold <= 1:
            raise invalid("GradientMatching", "threshold must lie in [-1, 1]", self.threshold)


def cosine(ones: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Of two gradients in parts, taken as one vector each.

    Example:
        >>> float(cosine([torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 2.0])]))
        0.0
    """
    one, other = (torch.cat([x.detach().flatten() for x in parts]) for parts in (ones, others))
    return torch.nn.functional.cosine_similarity(one, other, dim=0)


@dataclass(frozen=True)
class Alignment:
    """Let the cells of a network agree on what to choose: the mean cosine between the gradients that any two cells of
    the normal type give the coefficients is added to what the weights climb (Movahedi et al., 2023, arXiv:2210.07998,
    eq. 10).

    Args:
        weight: Of the mean cosine, by epoch (code: from 0 to 0.125).
        radius: Length of the step to both sides of a central difference, which the published code takes for the second
            derivatives (1e-4); unset for these exactly. In small networks such a step crosses many kinks.
        cell_type: Whose cells.
    """

    weight: Callable[[Any], float]
    radius: float | None = None
    cell_type: str = "normal"

    def __post_init__(self) -> None:
        if self.radius is not None and not self.radius > 0:
            raise invalid("Alignment", "radius must be positive", self.radius)

    def directions(self, slopes: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The derivative of the mean cosine for the gradient of each cell."""
        units = {place: g / g.norm().clamp(min=torch.finfo(g.dtype).tiny) for place, g in slopes.items()}
        total, pairs = torch.stack(list(units.values())).sum(0), len(units) * (len(units) - 1) / 2
        return {
            place: (total - u * (u * total).sum()) / pairs / slopes[place].norm().clamp(min=torch.finfo(u.dtype).tiny)
            for place, u in units.items()
        }
