"""Architecture logits: alpha for candidates, beta for edges, and one for every set of states that a node may read.

They are never among a network's parameters. Shape suffixes: B nodes of a cell, S sets of a node at most, E edges.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor, nn

from fastnas.seeds import stream
from fastnas.spaces.space import Space

Sets = tuple[tuple[tuple[int, ...], ...], ...]
"""For every node its sets, each a tuple of rows of alpha."""


def list_input_sets(space: Space) -> Sets:
    """The sets of edges that a node may keep, in lexicographic order; empty where no node has a choice of them."""
    if space.kept_edges is None:
        return ()
    sets = tuple(tuple(combinations(space.rows(target), space.kept_edges)) for target in space.targets)
    return sets if any(len(of_node) > 1 for of_node in sets) else ()


@lru_cache(maxsize=32)
def make_input_mask(space: Space, device: torch.device) -> Tensor:
    """Which entries of the logits of inputs ``[B, S]`` stand for a set."""
    sets = list_input_sets(space)
    width = max(map(len, sets))
    return torch.tensor([[s < len(of_node) for s in range(width)] for of_node in sets], device=device)


@lru_cache(maxsize=32)
def _members(space: Space, device: torch.device) -> Tensor:
    """Whether an edge belongs to a set of its node, ``[B, S, E]``, as zeros and ones."""
    sets, mask = list_input_sets(space), make_input_mask(space, torch.device("cpu"))
    members = torch.zeros(*mask.shape, len(space.edges))
    for b, of_node in enumerate(sets):
        for s, rows in enumerate(of_node):
            members[b, s, list(rows)] = 1
    return members.to(device)


def mark_edges(space: Space, choice_BS: Tensor) -> Tensor:
    """One for the edges of the chosen sets and zero for the others, ``[E]``, from one-hot rows."""
    return torch.einsum("bs,bse->e", choice_BS, _members(space, choice_BS.device).to(choice_BS.dtype))


def mark_most_probable(space: Space, logits_BS: Tensor) -> Tensor:
    """One for the edges of each node's best set and zero for the others, ``[E]``; ties go to the first set."""
    scores_BS = logits_BS.detach().masked_fill(~make_input_mask(space, logits_BS.device), -torch.inf)
    best_BS = torch.zeros_like(scores_BS).scatter_(-1, scores_BS.argmax(-1, keepdim=True), 1.0)
    return mark_edges(space, best_BS)


INITIAL_SCALE = 1e-3  # standard deviation of the initial logits, as in the reference implementations


def draw_logits(
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

    if with_inputs and list_input_sets(space):
        mask = make_input_mask(space, torch.device("cpu"))
        shapes |= {f"inputs.{cell_type}": tuple(mask.shape) for cell_type in space.cell_types}

    def draw(name: str, shape: tuple[int, ...]) -> nn.Parameter:
        generator = torch.Generator().manual_seed(stream(seed, name))
        centre = mean if name.startswith("alpha.") else 0.0
        return nn.Parameter(centre + scale * torch.randn(shape, generator=generator).to(device))

    return {name: draw(name, shape) for name, shape in shapes.items()}


def by_cell_type(logits: Mapping[str, Tensor], kind: str, apply: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """``apply`` to every ``<kind>.<cell type>`` of ``logits``, keyed by cell type."""
    return {name.removeprefix(f"{kind}."): apply(x) for name, x in logits.items() if name.startswith(f"{kind}.")}
