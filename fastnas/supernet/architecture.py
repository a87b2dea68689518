"""Architecture logits: alpha for candidates and beta for edges, never among a network's parameters."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fastnas.seeds import stream
from fastnas.spaces.space import Space
from fastnas.supernet.inputs import input_sets, set_mask

INITIAL_SCALE = 1e-3  # standard deviation of the initial logits, as in the reference implementations


def initial_logits(
    space: Space,
    with_beta: bool,
    seed: int,
    device: torch.device,
    mean: float = 0.0,
    scale: float = INITIAL_SCALE,
    with_inputs: bool = False,
) -> dict[str, nn.Parameter]:
    """Normal logits: ``alpha.<cell type>`` of shape ``[E, K]`` and, if asked for, ``beta.<cell type>`` ``[E]`` and
    ``inputs.<cell type>`` ``[B, S]``.

    Args:
        space: Gives the edges, candidates and cell types.
        with_beta: Whether edges have logits too.
        seed: Decides the values; alpha's do not depend on whether there is a beta.
        device: Where to put them. They are float32 whatever the network's precision is.
        mean: Mean of alpha; that of the others is zero.
        scale: Standard deviation of all.
        with_inputs: Whether the sets of states that a node may read have logits: B nodes with at most S sets.
    """
    shapes = {f"alpha.{cell_type}": (len(space.edges), len(space.primitives)) for cell_type in space.cell_types}
    if with_beta:
        shapes |= {f"beta.{cell_type}": (len(space.edges),) for cell_type in space.cell_types}

    if with_inputs and input_sets(space):
        mask = set_mask(space, torch.device("cpu"))
        shapes |= {f"inputs.{cell_type}": tuple(mask.shape) for cell_type in space.cell_types}

    def draw(name: str, shape: tuple[int, ...]) -> nn.Parameter:
        generator = torch.Generator().manual_seed(stream(seed, name))
        centre = mean if name.startswith("alpha.") else 0.0
        return nn.Parameter(centre + scale * torch.randn(shape, generator=generator).to(device))

    return {name: draw(name, shape) for name, shape in shapes.items()}


def only_candidates(space: Space, logits: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``logits`` with minus infinity where alpha's entry stands for no candidate of its edge.

    A softmax of them, at any temperature and with any Gumbel noise, gives such an entry the coefficient 0, and the
    gradient 0. Logits of spaces in which all edges have all primitives are returned as they are.
    """
    if space.rectangular:
        return logits

    def masked(name: str, x: Tensor) -> Tensor:
        kind, _, cell_type = name.partition(".")
        if kind != "alpha":
            return x
        return x.masked_fill(~torch.tensor(space.alive(cell_type), device=x.device), -torch.inf)

    return {name: masked(name, x) for name, x in logits.items()}


def by_cell_type(logits: Mapping[str, Tensor], kind: str, apply: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """``apply`` to every ``<kind>.<cell type>`` of ``logits``, keyed by cell type."""
    return {name.removeprefix(f"{kind}."): apply(x) for name, x in logits.items() if name.startswith(f"{kind}.")}
