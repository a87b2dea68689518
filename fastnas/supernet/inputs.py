"""Which states a node reads, where that is drawn: one choice a node between all sets of as many as derivation keeps.

Shape suffixes: B nodes of a cell, S sets of a node at most, E edges of a cell.
"""

from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor

from fastnas.spaces.space import Space

Sets = tuple[tuple[tuple[int, ...], ...], ...]
"""For every node its sets, each a tuple of rows of alpha."""


def input_sets(space: Space) -> Sets:
    """The sets of edges that a node may keep, in lexicographic order; empty where no node has a choice of them."""
    if space.kept_edges is None:
        return ()
    sets = tuple(tuple(combinations(space.rows(target), space.kept_edges)) for target in space.targets)
    return sets if any(len(of_node) > 1 for of_node in sets) else ()


@lru_cache(maxsize=32)
def set_mask(space: Space, device: torch.device) -> Tensor:
    """Which entries of the logits of inputs ``[B, S]`` stand for a set."""
    sets = input_sets(space)
    width = max(map(len, sets))
    return torch.tensor([[s < len(of_node) for s in range(width)] for of_node in sets], device=device)


@lru_cache(maxsize=32)
def _members(space: Space, device: torch.device) -> Tensor:
    """Whether an edge belongs to a set of its node, ``[B, S, E]``, as zeros and ones."""
    sets, mask = input_sets(space), set_mask(space, torch.device("cpu"))
    members = torch.zeros(*mask.shape, len(space.edges))
    for b, of_node in enumerate(sets):
        for s, rows in enumerate(of_node):
            members[b, s, list(rows)] = 1
    return members.to(device)


def edges_of(space: Space, choice_BS: Tensor) -> Tensor:
    """One for the edges of the chosen sets and zero for the others, ``[E]``, from one-hot rows."""
    return torch.einsum("bs,bse->e", choice_BS, _members(space, choice_BS.device).to(choice_BS.dtype))


def most_probable(space: Space, logits_BS: Tensor) -> Tensor:
    """One for the edges of each node's best set and zero for the others, ``[E]``; ties go to the first set."""
    scores_BS = logits_BS.detach().masked_fill(~set_mask(space, logits_BS.device), -torch.inf)
    best_BS = torch.zeros_like(scores_BS).scatter_(-1, scores_BS.argmax(-1, keepdim=True), 1.0)
    return edges_of(space, best_BS)
