"""A cell in plain PyTorch: the specification of the kernels, their fallback, and the source of higher derivatives.

The cell is evaluated state by state. What the edges that leave a state have in common is computed once: the
ReLU, each pool and its normalisation. Their convolutions are the same function of the same input with other
weights, so they can run as one; a node is one weighted sum of everything that enters it.

Shape suffixes: N images, C channels, H W pixels, E edges in a group, M = N H W.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastnas_kernels.convolution import Geometry, conv2d
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, Norm
from fastnas_kernels.mixture import mixed_sum
from fastnas_kernels.normalisation import normalise
from fastnas_kernels.partial_channels import merge_channels


class Group(NamedTuple):
    """Edges that leave one state and whose candidate is of one kind: they are evaluated by one convolution."""

    candidate: Candidate
    places: tuple[tuple[int, int], ...]
    """``(edge, position)`` of each."""


def groups(plan: CellPlan, source: int, batched: bool) -> list[Group]:
    """The candidates on edges that leave ``source``, joined over edges if ``batched``."""
    places: dict[Candidate, list[tuple[int, int]]] = {}
    for edge in plan.leaving(source):
        for position, candidate in enumerate(plan.edges[edge].candidates):
            places.setdefault(candidate, []).append((edge, position))
    joined = [Group(candidate, tuple(where)) for candidate, where in places.items()]
    if batched:
        return joined
    pools = ("max_pool", "avg_pool")
    parts = [[g] if g.candidate.kind in pools else [Group(g.candidate, (p,)) for p in g.places] for g in joined]
    return [group for part in parts for group in part]


@dataclass
class _Normaliser:
    """Normalises by the statistics of the batch and notes them, or by those that it was given."""

    plan: CellPlan
    given: Tensor | None
    like: Tensor
    noted: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, z: Tensor, norms: Sequence[Norm]) -> Tensor:
        """Normalise ``[N, E * C, H, W]``; ``norms`` has one entry for each of the E blocks of channels."""
        if self.given is not None:
            mean, var = self.given[[self.plan.row(norm, shared=False) for norm in norms]].unbind(1)
            return torch.native_batch_norm(z, None, None, mean.flatten(), var.flatten(), False, 0.0, self.plan.eps)[0]
        y, mean, rstd = normalise(z, self.plan.eps)
        var = (rstd.detach() ** -2 - self.plan.eps).clamp_min(0)
        blocks = zip(norms, mean.detach().chunk(len(norms)), var.chunk(len(norms)), strict=True)
        self.noted |= {self.plan.row(norm, shared=True): (m, v) for norm, m, v in blocks}
        return y

    def statistics(self) -> Tensor:
        """Mean and biased variance of every normalisation, ``[R, 2, C]``."""
        if self.given is not None:
            return self.given
        rows = [self.plan.row(norm, shared=True) for norm in self.plan.norms]
        if not rows:
            return self.like.new_empty(0, 2, self.plan.mixed_channels)
        return torch.stack([torch.stack(self.noted[row]) for row in rows])


def _product(x: Tensor, depthwise: Sequence[Tensor], pointwise: Sequence[Tensor], geometry: Geometry) -> Tensor:
    """Depthwise and 1x1 convolution of E edges, from ``[N, C, H, W]`` (one input for all) or ``[N, E * C, H, W]``
    to ``[N, E * C, H', W']``."""
    num_edges, channels = len(depthwise), depthwise[0].shape[0]
    if num_edges == 1:
        return conv2d(conv2d(x, depthwise[0], None, geometry._replace(groups=channels)), pointwise[0])
    shared = x.shape[1] == channels
    # With one input for all edges the output's channels lie as [C, E], with one input each as [E, C]
    filters = torch.stack(list(depthwise), dim=1 if shared else 0).flatten(0, 1)
    t = conv2d(x, filters, None, geometry._replace(groups=x.shape[1])).permute(0, 2, 3, 1)
    batch, height, width, _ = t.shape
    t_EMC = (
        t.reshape(-1, channels, num_edges).permute(2, 0, 1)
        if shared
        else t.reshape(-1, num_edges, channels).transpose(0, 1)
    )
    weights_ECC = torch.stack(list(pointwise)).flatten(2).transpose(1, 2)
    z = torch.bmm(t_EMC, weights_ECC.to(t_EMC.dtype)).transpose(0, 1)
    return z.reshape(batch, height, width, num_edges * channels).permute(0, 3, 1, 2)


def _halved(x: Tensor, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The two 1x1 convolutions of E factorised reductions, ``[N, E * C, H / 2, W / 2]``."""
    height, width = x.shape[2:]
    shifted = F.pad(x, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]  # padded, so that odd maps round up alike
    halves = [conv2d(y, torch.cat(list(w)), None, Geometry(stride=2)) for y, w in ((x, first), (shifted, second))]
    if len(first) == 1:
        return torch.cat(halves, dim=1)
    return torch.stack([half.unflatten(1, (len(first), -1)) for half in halves], dim=2).flatten(1, 3)


def _pool(x: Tensor, kind: str, stride: int) -> Tensor:
    if kind == "max_pool":
        return F.max_pool2d(x, 3, stride, 1)
    return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)


def _outputs(
    x: Tensor,
    source: int,
    plan: CellPlan,
    weights: dict[tuple[int, int], list[Tensor]],
    norm: _Normaliser,
    batched: bool,
) -> Iterable[tuple[tuple[int, int], Tensor]]:
    """Output of every candidate on the edges that leave ``source``, as ``((edge, position), output)``."""
    stride, rectified = plan.stride_of(source), x.relu()
    for (kind, kernel, dilation, repeats), places in groups(plan, source, batched):
        of_group = [weights[place] for place in places]
        if kind == "skip" and stride == 1:
            yield from ((place, x) for place in places)
            continue
        if kind in ("max_pool", "avg_pool"):
            y = _pool(x, kind, stride)
            if norm.given is not None:  # the statistics that were given may differ from edge to edge
                yield from ((place, norm(y, [Norm(*place, 0)])) for place in places)
                continue
            y = norm(y, [Norm(*places[0], 0)])
            yield from ((place, y) for place in places)
            continue
        if kind == "skip":
            y = norm(_halved(rectified, *zip(*of_group, strict=True)), [Norm(*place, 0) for place in places])
        else:
            y = rectified
            for stage in range(repeats):
                depthwise, pointwise = ([w[2 * stage + i] for w in of_group] for i in (0, 1))
                geometry = Geometry(stride if stage == 0 else 1, dilation * (kernel // 2), dilation)
                z = _product(y if stage == 0 else y.relu(), depthwise, pointwise, geometry)
                y = norm(z, [Norm(*place, stage) for place in places])
        yield from zip(places, y.split(plan.mixed_channels, dim=1), strict=True)


def reference_cell(
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    mix: Tensor,
    edge_mix: Tensor | None,
    plan: CellPlan,
    statistics: Tensor | None = None,
    batched: bool = False,
) -> tuple[Tensor, Tensor]:
    """See :func:`fastnas_kernels.mixed_op.cell.mixed_cell`; ``batched`` joins the convolutions of a state's edges."""
    remaining = iter(weights)
    of_candidate = {place: [next(remaining) for _ in shapes] for place, shapes in plan.weight_shapes.items()}
    norm = _Normaliser(plan, statistics, states[0])
    outputs: dict[tuple[int, int], Tensor] = {}
    bypass: list[Tensor] = []
    states = list(states)
    for target in range(plan.num_inputs, plan.num_states):
        for source in range(len(bypass), len(states)):
            taken, passed = _split(states[source], plan, source)
            bypass.append(passed)
            outputs |= dict(_outputs(taken, source, plan, of_candidate, norm, batched))
        states.append(_node(target, outputs, bypass, mix, edge_mix, plan))
    return torch.cat(states[plan.num_inputs :], dim=1), norm.statistics()


def _split(state: Tensor, plan: CellPlan, source: int) -> tuple[Tensor, Tensor]:
    if plan.k == 1:
        return state, state
    taken, passed = state.split([plan.mixed_channels, plan.channels - plan.mixed_channels], dim=1)
    if plan.stride_of(source) == 2:
        # ceil_mode: strided candidates round an odd map up, and so must the channels that pass by
        passed = F.max_pool2d(passed, 2, 2, ceil_mode=True)
    # Each layout keeps its own arithmetic: PyTorch's normalisation on a CPU is less accurate in channels-last memory
    channels_last = state.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return taken.contiguous(memory_format=layout), passed


def _node(
    target: int,
    outputs: dict[tuple[int, int], Tensor],
    bypass: Sequence[Tensor],
    mix: Tensor,
    edge_mix: Tensor | None,
    plan: CellPlan,
) -> Tensor:
    entering = plan.entering(target)
    places = [(edge, position) for edge in entering for position in range(len(plan.edges[edge].candidates))]
    first, last = plan.first_coefficient[entering[0]], plan.first_coefficient[entering[-1] + 1]
    mixed = mixed_sum([outputs[place] for place in places], mix[first:last])
    if plan.k == 1:
        return mixed
    passed = [bypass[plan.edges[edge].source] for edge in entering]
    ones = mix.new_ones(len(entering))
    coefficients = ones if edge_mix is None else edge_mix[entering[0] : entering[-1] + 1]
    return merge_channels(mixed, mixed_sum(passed, coefficients), plan.k)
