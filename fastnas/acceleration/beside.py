"""Candidates that are known and have no kernel, evaluated once for all edges that leave a state."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastnas.acceleration.primitives import Layer, Primitive
from fastnas.acceleration.wiring import Wiring
from fastnas_kernels.tensors import accumulator


class Beside:
    """The maps of one evaluation of a cell.

    A pool without normalisation is computed once for each state. The convolutions of one geometry that leave a state
    read one rectified copy of it and are one convolution with all of their filters, and their normalisations are one:
    no channel depends on another. Its scale is the candidate's own times its coefficient, so that neither the scaled
    nor the normalised map is kept for the backward pass.

    Args:
        wiring: Of the cell.
        convolutions: By name.
        norms: By name.
        rows: Coefficients of the candidates of every edge.
        shares: Weights of the edges, if they have any.
    """

    def __init__(
        self,
        wiring: Wiring,
        convolutions: Mapping[str, nn.Conv2d],
        norms: Mapping[str, nn.BatchNorm2d],
        rows: Tensor | Sequence[Tensor | Sequence[Tensor | float]],
        shares: Tensor | Sequence[Tensor] | None,
    ) -> None:
        self.wiring, self.convolutions, self.norms, self.rows, self.shares = wiring, convolutions, norms, rows, shares
        self._pooled: dict[tuple[int, Layer], Tensor] = {}
        self._convolved: dict[int, dict[tuple[int, int], Tensor]] = {}

    def coefficient(self, edge: int, position: int) -> Tensor:
        """Of a candidate, a tensor without dimensions."""
        number = torch.as_tensor(self.rows[edge][position])
        return number if self.shares is None else number * self.shares[edge]

    def pool(self, source: int, state: Tensor, layer: Layer) -> Tensor:
        """The pool of a state, or the state itself."""
        if layer.kind == "same":
            return state
        if (source, layer) not in self._pooled:
            _, kernel, stride, padding, _ = layer
            if layer.kind == "max_pool":
                y = F.max_pool2d(state, kernel, stride, padding)
            else:
                y = F.avg_pool2d(state, kernel, stride, padding, count_include_pad=False)
            self._pooled[source, layer] = y
        return self._pooled[source, layer]

    def convolve(self, source: int, state: Tensor) -> dict[tuple[int, int], Tensor]:
        """For every edge and position of a convolution that leaves a state, its map times its coefficient."""
        if source not in self._convolved:
            rectified = state.relu()
            groups: dict[tuple[Layer, bool, float], list[tuple[int, int, Primitive]]] = {}
            for edge in self.wiring.plan.leaving(source):
                for position, one in enumerate(self.wiring.edges[edge].primitives):
                    if one.layer is not None and one.layer.kind == "conv":
                        biased = self.convolutions[one.convolutions[0]].bias is not None
                        groups.setdefault((one.layer, biased, one.eps[0]), []).append((edge, position, one))
            self._convolved[source] = {
                (edge, position): y
                for (layer, _, eps), members in groups.items()
                for (edge, position, _), y in zip(members, self._group(rectified, layer, eps, members), strict=True)
            }
        return self._convolved[source]

    def _group(
        self, rectified: Tensor, layer: Layer, eps: float, members: Sequence[tuple[int, int, Primitive]]
    ) -> Sequence[Tensor]:
        filters = [self.convolutions[one.convolutions[0]] for _, _, one in members]
        norms = [self.norms[one.norms[0]] for _, _, one in members]
        weight = torch.cat([one.weight for one in filters])
        bias = None if filters[0].bias is None else torch.cat([one.bias for one in filters])  # type: ignore[misc]
        z = F.conv2d(rectified, weight, bias, layer.stride, layer.padding, layer.dilation)
        channels, dtype = norms[0].num_features, accumulator(z.dtype)
        coefficients = [self.coefficient(edge, position).to(z.device, dtype) for edge, position, _ in members]
        scales = [
            c.expand(channels) if n.weight is None else c * n.weight for c, n in zip(coefficients, norms, strict=True)
        ]
        shifts = [
            z.new_zeros(channels, dtype=dtype) if n.bias is None else c * n.bias
            for c, n in zip(coefficients, norms, strict=True)
        ]
        by_batch = uses_batch(norms[0])
        if by_batch:
            mean, var = z.new_zeros(2, z.shape[1], dtype=dtype)
        else:
            mean, var = (
                torch.cat([getattr(n, name) for n in norms]).to(dtype) for name in ("running_mean", "running_var")
            )
        y = F.batch_norm(z, mean, var, torch.cat(scales), torch.cat(shifts), by_batch, 1.0, eps)
        if by_batch:
            statistics = torch.stack([mean, var]).unflatten(1, (len(norms), channels)).transpose(0, 1)
            for _ in range(self.wiring.updates):
                move_running(norms, statistics, 1.0)
        return y.split(channels, 1)


def uses_batch(norm: nn.BatchNorm2d) -> bool:
    return norm.training or norm.running_mean is None


@torch.no_grad()
def move_running(norms: Sequence[nn.BatchNorm2d], statistics: Tensor, unbiased: float) -> None:
    """Running mean and unbiased variance, exactly as :class:`torch.nn.BatchNorm2d` moves them."""
    # A cell has hundreds of buffers, and a module looks for a name in several tables before it looks there
    held = [n._buffers for n in norms]
    moved = [
        row
        for row, n in enumerate(norms)
        if n.training and n.track_running_stats and held[row]["running_mean"] is not None
    ]
    if not moved:
        return
    counters = [held[row]["num_batches_tracked"] for row in moved]
    torch._foreach_add_([counter for counter in counters if counter is not None], 1)  # type: ignore[attr-defined]
    by_factor: dict[float, list[int]] = {}
    for row, counter in zip(moved, counters, strict=True):
        momentum = norms[row].momentum
        if momentum is None:  # the cumulative average
            momentum = 1.0 / float(counter) if counter is not None else 0.0
        by_factor.setdefault(momentum, []).append(row)
    means, variances = statistics.unbind(1)
    means, variances = means.unbind(), (variances * unbiased).unbind()
    for factor, rows in by_factor.items():
        running = [held[row][name] for name in ("running_mean", "running_var") for row in rows]
        new = [*(means[row] for row in rows), *(variances[row] for row in rows)]
        if any(old.dtype != statistics.dtype for old in running):  # type: ignore[union-attr]
            new = [value.to(old.dtype) for value, old in zip(new, running, strict=True)]  # type: ignore[union-attr]
        torch._foreach_lerp_(running, new, factor)  # type: ignore[arg-type]
