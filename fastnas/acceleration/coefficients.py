"""From the coefficients that foreign code hands to a mixed operation or cell to those that the engine takes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastnas.acceleration.wiring import Wiring
from fastnas_kernels.check import require

Rows = Tensor | Sequence[Tensor | float]
"""Coefficients of one edge: a tensor ``[K]`` or K numbers."""


def rows_of(weights: object, wiring: Wiring) -> Tensor | Sequence[Rows]:
    """One row of coefficients for each edge, whatever the foreign code keeps them in."""
    if not wiring.is_cell:
        return weights[None] if isinstance(weights, Tensor) else [weights]  # type: ignore[list-item]
    if not wiring.nested:
        return weights  # type: ignore[return-value]
    return [row for of_node in weights for row in of_node]  # type: ignore[attr-defined]


def live_coefficients(
    where: str,
    rows: Tensor | Sequence[Rows],
    beta: Tensor | Sequence[Tensor] | None,
    wiring: Wiring,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """The flat coefficients of all live candidates with those of their edges multiplied in, and those of the edges.

    All coefficients take part in the graph, also those of ``none``, so that their gradient is zero and not absent.
    """
    num_edges, columns = len(wiring.edges), wiring.columns
    require(len(rows) >= num_edges, where, f"weights must have a row for each of {num_edges} edges", len(rows))
    edge_mix = None
    if beta is not None:
        require(len(beta) >= num_edges, where, f"weights of edges must be {num_edges}", len(beta))
        edge_mix = (beta if isinstance(beta, Tensor) else torch.stack(list(beta)))[:num_edges].to(device)
    span = range(columns[0][0], columns[0][-1] + 1) if columns[0] else range(0)
    if isinstance(rows, Tensor) and all(columns_of_edge == tuple(span) for columns_of_edge in columns):
        _require_width(where, rows.shape[1], wiring.edges[0].primitives)
        mix_EK = rows[:num_edges, span.start : span.stop].to(device)
        mix_EK = mix_EK if edge_mix is None else mix_EK * edge_mix[:, None]
        return mix_EK.reshape(-1), edge_mix
    picked = []
    for number, (row, columns_of_edge) in enumerate(zip(rows, columns, strict=False)):
        _require_width(where, len(row), wiring.edges[number].primitives)  # type: ignore[arg-type]
        numbers = _numbers(row)
        if columns_of_edge:
            live = torch.stack([numbers[column] for column in columns_of_edge]).to(device)
            picked.append(live if edge_mix is None else live * edge_mix[number])
    return torch.cat(picked), edge_mix


def _numbers(row: Rows) -> Sequence[Tensor]:
    if isinstance(row, Tensor):
        return row.unbind()
    # Stacked first: the gradient of a number that is not picked is then zero, as where it is multiplied by zero
    return torch.stack([torch.as_tensor(number) for number in row]).unbind()


def _require_width(where: str, width: int, primitives: Sequence[object]) -> None:
    require(width >= len(primitives), where, f"weights must be {len(primitives)} for each edge", width)
