"""The cost of an architecture that is not decided yet, with a slope in its coefficients.

Shape suffixes: E edges of a cell, K candidates of an edge.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fastnas.costs.tables import CostTable
from fastnas.spaces.space import Space
from fastnas_kernels.check import invalid, require_shape


def expected_cost(
    mix: Mapping[str, Tensor], table: CostTable, edge_share: Mapping[str, Tensor] | None = None
) -> Tensor:
    """The cost of a mixture: ``constant + sum_e s_e sum_k mix[e, k] cost[e, k]``, over the edges of all cell types.

    Where the rows of ``mix`` are probabilities, this is the exact expectation of the derived network's cost when
    every edge draws its candidate independently (ProxylessNAS, Cai et al., 2019, arXiv:1812.00332, section 3.3;
    SNAS, Xie et al., 2019, arXiv:1812.09926). At a relaxed sample it is the relaxed cost, at a one-hot sample (also
    one with a straight-through gradient) the cost of what was sampled. Linear in ``mix``, so the gradient for alpha
    is exact.

    Args:
        mix: Coefficients ``[E, K]`` of every cell type, as ``Mix.candidates``; dimensionless.
        table: The costs.
        edge_share: How likely each edge is kept, ``[E]`` for every cell type; by default :func:`even_edge_share`.

    Returns:
        A scalar of the dtype of ``mix``, in the unit of the table.
    """
    shares = edge_share or even_edge_share(table.space)
    shape = [len(table.space.edges), len(table.space.primitives)]
    total = None
    for cell_type, costs_EK in table.candidates.items():
        if cell_type not in mix:
            raise invalid("expected_cost", f"mix must have the cell type {cell_type}", sorted(mix))
        mix_EK = mix[cell_type]
        require_shape("expected_cost", f"mix[{cell_type!r}]", mix_EK, shape, "that of alpha")
        part = ((mix_EK * costs_EK.to(mix_EK)).sum(-1) * shares[cell_type].to(mix_EK)).sum()
        total = part if total is None else total + part
    assert total is not None, "a space has a cell type"
    return total + table.constant


def sampled_cost(
    choice: Mapping[str, Tensor], table: CostTable, edge_share: Mapping[str, Tensor] | None = None
) -> Tensor:
    """The cost of one sampled architecture, without a slope: the reward of a score-function estimator.

    Args:
        choice: The chosen column of alpha of every edge, integers ``[E]`` for every cell type.
        table: The costs.
        edge_share: As for :func:`expected_cost`.

    Returns:
        A float64 scalar in the unit of the table.
    """
    num_primitives = len(table.space.primitives)
    one_hot = {
        cell_type: torch.nn.functional.one_hot(columns.long(), num_primitives).double()
        for cell_type, columns in choice.items()
    }
    return expected_cost(one_hot, table, edge_share)


def even_edge_share(space: Space) -> Mapping[str, Tensor]:
    """How likely each edge is kept if nothing is known of them: 1 where derivation keeps all edges, otherwise the
    kept edges of a node divided by all that enter it. Float64 ``[E]`` for every cell type."""
    kept = space.kept_edges
    share = [1.0 if kept is None else kept / target for _, target in space.edges]
    return dict.fromkeys(space.cell_types, torch.tensor(share, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class RelativeCost:
    """The expected cost in units of a target, a function of the coefficients alone: a term to add to a loss.

    Times a strength it is the linear penalty of SNAS and ProxylessNAS but for a constant, see
    :class:`fastnas.costs.penalties.LinearPenalty`.

    Args:
        table: The costs.
        target: In the unit of the table; it makes the strength a number without unit.
    """

    table: CostTable
    target: float

    def __post_init__(self) -> None:
        if not self.target > 0:
            raise invalid("RelativeCost", "target must be positive", self.target)

    def __call__(self, mix: Mapping[str, Tensor]) -> Tensor:
        """From coefficients ``[E, K]`` of every cell type to a scalar."""
        return expected_cost(mix, self.table) / self.target


@dataclass(frozen=True, eq=False)
class CostReward:
    """What a sampled network is worth: its accuracy times ``(target / cost) ** exponent`` (Tan et al., 2019,
    arXiv:1807.11626, eq. 2, which ProxylessNAS-R takes: Cai et al., 2019, arXiv:1812.00332, section 4.2).

    Args:
        table: The costs.
        target: In the unit of the table.
        exponent: Positive, dimensionless (published code of ProxylessNAS: 0.1).
    """

    table: CostTable
    target: float
    exponent: float = 0.1

    def __post_init__(self) -> None:
        for name in ("target", "exponent"):
            if not getattr(self, name) > 0:
                raise invalid("CostReward", f"{name} must be positive", getattr(self, name))

    def __call__(self, accuracy: Tensor, mix: Mapping[str, Tensor]) -> Tensor:
        """From the accuracy and the one-hot coefficients ``[E, K]`` of every cell type to a scalar."""
        return accuracy * (self.target / expected_cost(mix, self.table)) ** self.exponent


@dataclass(frozen=True, eq=False)
class CostObjective:
    """What alpha descends on: a loss and the expected cost, joined by a penalty.

    Args:
        table: The costs.
        penalty: One of :mod:`fastnas.costs.penalties`, or any function of loss and cost.
    """

    table: CostTable
    penalty: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, loss: Tensor, mix: Mapping[str, Tensor]) -> Tensor:
        """From the loss of a network and its coefficients ``[E, K]`` of every cell type to a scalar."""
        return self.penalty(loss, expected_cost(mix, self.table))
