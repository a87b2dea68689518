"""A cell in plain PyTorch, and its derivatives of any order: the specification of the kernels and their fallback.

The cell is evaluated state by state. What the edges that leave a state have in common is computed once: the
ReLU, each pool and its normalisation. Their convolutions are the same function of the same input with other
weights, so they can run as one. What leaves a state is a sum of parts, each of which adds its weighted candidates to
the nodes that it reaches: a part can be forgotten after the forward pass and evaluated again in the backward one.

Shape suffixes: I input states, N images, C channels, S those of a state, D those of all nodes, H W pixels, E edges in
a group, M = N H W.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastnas_kernels.checkpoint import checkpointed
from fastnas_kernels.convolution import Geometry, conv2d
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, Norm
from fastnas_kernels.mixture import mixed_sum
from fastnas_kernels.normalisation import normalise_by_batch
from fastnas_kernels.partial_channels import merge_channels
from fastnas_kernels.tensors import accumulator


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
        y, mean, var = normalise_by_batch(z, self.plan.eps)
        blocks = zip(norms, mean.chunk(len(norms)), var.chunk(len(norms)), strict=True)
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


Sums = dict[int, Tensor]
"""For some nodes a sum of candidates that enter them, ``[N, C, H', W']``."""


class Part(NamedTuple):
    """Candidates on edges that leave one state and that are evaluated together."""

    groups: tuple[Group, ...]

    @property
    def places(self) -> list[tuple[int, int]]:
        return [place for group in self.groups for place in group.places]


def parts(plan: CellPlan, source: int, batched: bool) -> list[Part]:
    """All candidates that leave ``source``: those without weights, and those of each edge, or of all if ``batched``."""
    free: list[Group] = []
    by_edge: dict[int | None, list[Group]] = {}
    for group in groups(plan, source, batched):
        edge, position = group.places[0]
        if plan.weight_shapes[edge, position]:
            by_edge.setdefault(None if batched else edge, []).append(group)
        else:
            free.append(group)
    return [Part(tuple(of_part)) for of_part in ([free] if free else []) + list(by_edge.values())]


def _outputs(
    x: Tensor,
    rectified: Tensor,
    source: int,
    part: Part,
    weights: dict[tuple[int, int], list[Tensor]],
    norm: _Normaliser,
) -> Iterable[tuple[tuple[int, int], Tensor]]:
    """Output of every candidate of a part, as ``((edge, position), output)``."""
    stride = norm.plan.stride_of(source)
    for (kind, kernel, dilation, repeats), places in part.groups:
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
        yield from zip(places, y.split(norm.plan.mixed_channels, dim=1), strict=True)


def _sums(
    x: Tensor, rectified: Tensor, source: int, part: Part, norm: _Normaliser, arguments: Sequence[Tensor]
) -> Sums:
    """What a part adds to each node that it reaches; ``arguments`` are its coefficients, and then its weights."""
    places, plan = part.places, norm.plan
    coefficients = dict(zip(places, arguments, strict=False))
    remaining = iter(arguments[len(places) :])
    weights = {place: [next(remaining) for _ in plan.weight_shapes[place]] for place in places}
    entering: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for place, y in _outputs(x, rectified, source, part, weights, norm):
        entering.setdefault(plan.edges[place[0]].target, []).append((y, coefficients[place]))
    return {
        target: mixed_sum([y for y, _ in pairs], torch.stack([coefficient for _, coefficient in pairs]))
        for target, pairs in entering.items()
    }


def reference_cell(
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    mix: Tensor,
    edge_mix: Tensor | None,
    plan: CellPlan,
    statistics: Tensor | None = None,
    batched: bool = False,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """See :func:`fastnas_kernels.mixed_op.cell.mixed_cell`; ``batched`` joins the convolutions of a state's edges."""
    remaining, coefficients = iter(weights), mix.unbind()
    of_candidate = {place: [next(remaining) for _ in shapes] for place, shapes in plan.weight_shapes.items()}
    norm = _Normaliser(plan, statistics, states[0])
    sums: Sums = {}
    bypass: list[Tensor] = []
    states = list(states)
    for target in range(plan.num_inputs, plan.num_states):
        for source in range(len(bypass), len(states)):
            taken, passed = split(states[source], plan, source)
            bypass.append(passed)
            rectified = taken.relu()
            for part in parts(plan, source, batched):
                arguments = [coefficients[plan.first_coefficient[edge] + position] for edge, position in part.places]
                arguments += [weight for place in part.places for weight in of_candidate[place]]
                evaluate = partial(_sums, source=source, part=part, norm=norm)
                more = _evaluated(recompute, evaluate, taken, rectified, arguments)
                sums |= {node: sums[node] + y if node in sums else y for node, y in more.items()}
        states.append(_node(target, sums.pop(target), bypass, edge_mix, plan))
    return torch.cat(states[plan.num_inputs :], dim=1), norm.statistics()


def _evaluated(
    recompute: bool, evaluate: Callable[..., Sums], x: Tensor, rectified: Tensor, arguments: Sequence[Tensor]
) -> Sums:
    if not recompute:
        return evaluate(x, rectified, arguments=arguments)
    return checkpointed(lambda x, rectified, *rest: evaluate(x, rectified, arguments=rest), x, rectified, *arguments)


def split(state: Tensor, plan: CellPlan, source: int) -> tuple[Tensor, Tensor]:
    """The channels of a state that the candidates see, and the others as they arrive at the nodes."""
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


def _node(target: int, mixed: Tensor, bypass: Sequence[Tensor], edge_mix: Tensor | None, plan: CellPlan) -> Tensor:
    """The state of a node, from the sum of its candidates and the channels that passed by them."""
    if plan.k == 1:
        return mixed
    entering = plan.entering(target)
    passed = [bypass[plan.edges[edge].source] for edge in entering]
    if edge_mix is None:
        coefficients = torch.ones(len(entering), dtype=accumulator(mixed.dtype), device=mixed.device)
    else:
        coefficients = edge_mix[entering[0] : entering[-1] + 1]
    return merge_channels(mixed, mixed_sum(passed, coefficients), plan.k)


def nodes_of(
    plan: CellPlan, statistics: Tensor | None, inputs_INHWS: Tensor, mix: Tensor, edge_mix: Tensor, *weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The nodes ``[N, H', W', D]`` and their statistics, calculated in the precision of the kernels."""
    exact = accumulator(inputs_INHWS.dtype)
    states = [state.permute(0, 3, 1, 2).to(exact) for state in inputs_INHWS]
    filters = [weight.to(exact) for weight in weights]
    edges = edge_mix if plan.k > 1 else None
    nodes, noted = reference_cell(states, filters, mix, edges, plan, statistics)
    return nodes.permute(0, 2, 3, 1).to(inputs_INHWS.dtype), noted


def spread(found: Sequence, needed: Sequence[bool]) -> list:
    """Each in the place of one that is needed, ``None`` in the others."""
    rest = iter(found)
    return [next(rest) if need else None for need in needed]


def gradients_of(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    x: Sequence[Tensor],
    needed: Sequence[bool],
    *cotangents: Tensor | None,
) -> list[Tensor]:
    """What ``cotangents`` of the results of ``function`` pull back to those of ``x`` that are needed, itself
    differentiable; zeros where nothing arrives. ``None`` stands for a cotangent of zeros."""

    def of_needed(*chosen: Tensor) -> tuple[Tensor, ...]:
        rest = iter(chosen)
        found = function(*(next(rest) if need else v for v, need in zip(x, needed, strict=True)))
        found = found if isinstance(found, tuple) else (found,)
        return tuple(compress(found, (c is not None for c in cotangents)))

    chosen, given = list(compress(x, needed)), tuple(c for c in cotangents if c is not None)
    wrapped = any(torch._C._functorch.is_functorch_wrapped_tensor(v) for v in (*chosen, *given))  # type: ignore[attr-defined]
    if torch.is_grad_enabled() and not wrapped:  # hooks on what graphs keep do not go with the transforms of torch.func
        own = [v.view_as(v) for v in chosen]  # a state may depend on a weight, whose gradient is that of the cell alone
        return list(
            torch.autograd.grad(
                of_needed(*own), own, given, create_graph=True, allow_unused=True, materialize_grads=True
            )
        )
    _, pull = torch.func.vjp(of_needed, *chosen)  # type: ignore[misc]
    return list(pull(given))


def tangent_of(
    function: Callable[..., Tensor | tuple[Tensor, ...]], x: Sequence[Tensor], u: Sequence[Tensor | None]
) -> tuple:
    """The results of ``function`` at ``x`` and their derivatives along ``u``, in which ``None`` stands for zeros.

    Twice backward is once forward: the gradient is linear in what it is given, and the derivative of a linear function
    is the function. Dual numbers within dual numbers would need nested forward mode instead.
    """
    along = tuple(torch.zeros_like(v) if t is None else t for v, t in zip(x, u, strict=True))
    results, pull = torch.func.vjp(function, *x)  # type: ignore[misc]
    zeros = tuple(map(torch.zeros_like, results)) if isinstance(results, tuple) else torch.zeros_like(results)
    _, push = torch.func.vjp(pull, zeros)  # type: ignore[misc]
    return results, push(along)[0]
