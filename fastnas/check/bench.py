"""The tiny problems that claims are checked on, and how two gradients are compared."""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from fastnas.bilevel.problem import Bilevel, Tensors
from fastnas.mechanisms.penalty import loss_alone
from fastnas.method import Method
from fastnas.search import Run, alpha_gradients, alpha_problem, fresh_state, stage_supernet
from fastnas.space.cell_space import CellSpace
from fastnas.train.config import SearchConfig
from fastnas.train.data import Batch, load_data

STEP = 1e-5  # of central differences of smooth functions: an error of 1e-10, and of 1e-11 by rounding
SHORT_STEP = 1e-8  # of those of networks, to fall between the kinks: rounding leaves an error of 1e-8
DIRECTIONS = 9  # in which the slope of a network is measured; a wrong gradient is wrong in all of them
TOLERANCE = 1e-5  # relative, of slopes

Outcome = tuple[bool, str]
"""Whether a claim holds, and what was measured."""


class Bench:
    """Makes identical tiny searches on demand."""

    def __init__(
        self,
        source: nn.Module | CellSpace,
        method: Method,
        image_shape: tuple[int, int, int],
        num_classes: int,
        seed: int,
    ) -> None:
        self.method, self.seed, self.data = method, seed, load_data("digits")
        self.config = SearchConfig(channels=4 * method.connection.k, cells=1, epochs=9, warmup_epochs=0, seed=seed)
        self.config = replace(self.config, device="cpu", weight_decay=0.0, alpha_weight_decay=0.0, weight_lr=0.1)
        if isinstance(source, CellSpace):
            in_depth = self.config if len(source.cell_types) == 1 else replace(self.config, cells=3)
            source = stage_supernet(source, method, self.data, in_depth, 0)
        self.supernet = copy.deepcopy(source).double()
        space: CellSpace = self.supernet.space  # type: ignore[assignment]
        self.none = [k for k, primitive in enumerate(space.primitives) if primitive == "none"]
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(2, 8, *image_shape, generator=generator, dtype=torch.float64)
        self.batches = [Batch(half, torch.arange(8) % num_classes) for half in images]

    def run(self) -> Run:
        """A search that is about to begin, its logits in general position."""
        device = torch.device("cpu")
        state = fresh_state(copy.deepcopy(self.supernet), self.method, self.config, device)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for name, a in state.alpha.items():
                spread = 0.5 * torch.rand(a.shape, generator=generator).double()
                if name.startswith("alpha."):  # a state that is all ``none`` stands on the kink of a ReLU
                    spread[:, self.none] = 0
                a.data = a.double() + spread
        indices = torch.arange(2).numpy()
        return Run(self.method, self.data, self.config, device, (indices, indices), 1000, state)

    def problem(self, run: Run) -> Bilevel:
        return alpha_problem(run, *self.batches)

    def gradients(self, run: Run) -> dict[str, Tensor]:
        """Alpha's gradient, without taking a step."""
        return alpha_gradients(run, *self.batches)[1]

    def without_penalties(self) -> "Bench":
        """The same searches of the method without its costs."""
        bare = copy.copy(self)
        bare.method = replace(self.method, penalties=(), objective=loss_alone)
        return bare


def copies(tensors: Tensors) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in tensors.items()}


def changed(tensors: Tensors, before: Tensors) -> list[str]:
    return [name for name, x in tensors.items() if not torch.equal(x, before[name])]


def slopes(loss: Callable[[dict[str, Tensor]], Tensor], at: Tensors) -> dict[str, Tensor]:
    """Central differences of ``loss`` in every variable."""
    found = {}
    for name, x in at.items():
        flat = []
        for i in range(x.numel()):
            unit = torch.zeros(x.numel(), dtype=x.dtype)
            unit[i] = STEP
            above, below = (loss({**at, name: x.detach() + sign * unit.view_as(x)}) for sign in (1, -1))
            flat.append((above - below).detach() / (2 * STEP))
        found[name] = torch.stack(flat).view_as(x)
    return found


def agree(ours: Tensors, slopes: Tensors, tolerance: float = TOLERANCE) -> Outcome:
    """Whether two gradients are the same, and neither is all zero."""
    error = max((ours[name] - slope).abs().max().item() for name, slope in slopes.items())
    scale = max(slope.abs().max().item() for slope in slopes.values())
    return error <= tolerance * scale and scale > 0, f"error {error:.1e} of slopes up to {scale:.1e}"


def agree_along(ours: Tensors, loss: Callable[[dict[str, Tensor]], Tensor], at: Tensors, seed: int) -> Outcome:
    """Whether a gradient is the slope of ``loss`` along random directions.

    Of a network's loss, that is: a few of the differences may straddle a kink of a ReLU, so the median counts.
    """
    generator = torch.Generator().manual_seed(seed)
    errors, scale = [], 0.0
    for _ in range(DIRECTIONS):
        v = {name: torch.randn(x.shape, generator=generator, dtype=x.dtype) for name, x in at.items()}
        above, below = (
            loss({name: x.detach() + h * v[name] for name, x in at.items()}) for h in (SHORT_STEP, -SHORT_STEP)
        )
        slope = (above - below).item() / (2 * SHORT_STEP)
        errors.append(abs(sum((ours[name] * v[name]).sum().item() for name in at) - slope))
        scale = max(scale, abs(slope))
    middle = sorted(errors)[len(errors) // 2]
    return middle <= TOLERANCE * scale and scale > 0, f"median error {middle:.1e} of slopes up to {scale:.1e}"
