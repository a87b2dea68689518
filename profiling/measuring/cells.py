"""Cells to measure, and the ways to evaluate them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastnas.spaces.cell_space import DARTS
from fastnas.supernet.search_cell import plan_cell
from fastnas_kernels.mixed_op.cell import mixed_cell
from fastnas_kernels.mixed_op.definition import reference_cell
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan
from fastnas_kernels.tensors import accumulator
from measuring.device import forced

Scale = Literal["full", "tiny"]
Phase = Literal["both", "alpha step", "weight step"]


class Cell(NamedTuple):
    """A cell at one size: ``images`` of ``side`` times ``side`` pixels."""

    name: str
    plan: CellPlan
    images: int
    side: int


def darts_plan(channels: int, stride: int = 1, k: int = 1) -> CellPlan:
    """A cell of the DARTS space; ``none`` contributes nothing and is left out."""
    names = tuple(primitive for primitive in DARTS.primitives if primitive != "none")
    plan = plan_cell(DARTS, channels, stride, k, (names,) * len(DARTS.edges))
    assert plan is not None, "the kernels know all primitives of the space"
    return plan


def tiny_plan(channels: int = 4, stride: int = 1, k: int = 1) -> CellPlan:
    """One edge with a pool, a skip and a convolution: what Triton's interpreter runs in a second."""
    candidates = (Candidate("max_pool"), Candidate("skip"), Candidate("depthwise"))
    return CellPlan(channels, 1, 1, (EdgePlan(0, 1, candidates),), stride, k)


def cells(scale: Scale) -> tuple[Cell, ...]:
    """What is timed."""
    if scale == "tiny":
        return (Cell("tiny", tiny_plan(), 1, 4),)
    return (
        Cell("DARTS normal, C=16, 32×32, batch 64", darts_plan(16), 64, 32),
        Cell("DARTS reduction, C=32, 32×32, batch 64", darts_plan(32, stride=2), 64, 32),
        Cell("PC-DARTS ImageNet, C=16, K=2, 28×28, batch 128", darts_plan(16, k=2), 128, 28),
        Cell("late PC-DARTS ImageNet, C=64, K=2, 7×7, batch 128", darts_plan(64, k=2), 128, 7),
        Cell("late DARTS, C=64, 8×8, batch 64", darts_plan(64), 64, 8),
    )


class Arguments(NamedTuple):
    """What a cell is a function of: states channels last, weights, coefficients of candidates and of edges. ``dy`` is
    the gradient of its nodes: at random, since a constant one all but vanishes behind a normalisation."""

    states: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    mix: Tensor
    edge_mix: Tensor | None
    dy: Tensor


def arguments_of(cell: Cell, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Arguments:
    """Random arguments; coefficients are at least float32."""
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: Sequence[int], scale: float, dtype: torch.dtype) -> Tensor:
        values = torch.empty(shape) if device.type == "meta" else scale * torch.randn(shape, generator=generator)
        return values.to(device, dtype)

    plan, exact = cell.plan, accumulator(dtype)
    shape = (cell.images, plan.channels, cell.side, cell.side)
    states = (draw(shape, 1, dtype).to(memory_format=torch.channels_last) for _ in range(plan.num_inputs))
    filters = [shape for shapes in plan.weight_shapes.values() for shape in shapes]
    weights = tuple(draw(shape, (shape[1] * shape[2] * shape[3]) ** -0.5, dtype) for shape in filters)
    mix = draw([plan.num_coefficients], 1, exact)
    edge_mix = draw([len(plan.edges)], 1, exact) if plan.k > 1 else None
    nodes = (cell.images, plan.num_nodes * plan.channels, *plan.size_after(cell.side, cell.side))
    dy = draw(nodes, 1, dtype).to(memory_format=torch.channels_last)
    return Arguments(tuple(states), weights, mix, edge_mix, dy)


Evaluate = Callable[[Arguments, CellPlan], Tensor]
"""All nodes of a cell, ``[N, num_nodes * C, H', W']``."""


class Contender(NamedTuple):
    """A way to evaluate a cell, on one backend."""

    evaluate: Evaluate
    backend: str = "reference"


def edge_by_edge(arguments: Arguments, plan: CellPlan) -> Tensor:
    """As the published code does it: every candidate of every edge by itself, in PyTorch's operations."""
    states, remaining = list(arguments.states), iter(arguments.weights)
    for target in range(plan.num_inputs, plan.num_states):
        total: Tensor | None = None
        for edge in plan.entering(target):
            source, _, candidates = plan.edges[edge]
            x, stride = states[source], plan.stride_of(source)
            seen, mixed = x[:, : plan.mixed_channels], None
            for position, candidate in enumerate(candidates):
                filters = [next(remaining) for _ in plan.weight_shapes[edge, position]]
                coefficient = arguments.mix[plan.first_coefficient[edge] + position].to(x.dtype)
                y = coefficient * _candidate(seen, candidate, stride, filters, plan.eps)
                mixed = y if mixed is None else mixed + y
            if plan.k > 1:
                mixed = _merged(x, mixed, edge, stride, arguments.edge_mix, plan)
            if mixed is not None:
                total = mixed if total is None else total + mixed
        assert total is not None, "every node has a candidate"
        states.append(total)
    return torch.cat(states[plan.num_inputs :], dim=1)


def _merged(x: Tensor, mixed: Tensor | None, edge: int, stride: int, edge_mix: Tensor | None, plan: CellPlan) -> Tensor:
    assert mixed is not None, "the cells that are measured have candidates on every edge"
    rest = x[:, plan.mixed_channels :]
    rest = rest if stride == 1 else F.max_pool2d(rest, 2, 2, ceil_mode=True)
    rest = rest if edge_mix is None else edge_mix[edge].to(x.dtype) * rest
    return F.channel_shuffle(torch.cat([mixed, rest], dim=1), plan.k)


def _candidate(x: Tensor, candidate: Candidate, stride: int, filters: Sequence[Tensor], eps: float) -> Tensor:
    kind, kernel, dilation, repeats = candidate

    def normalised(z: Tensor) -> Tensor:
        return F.batch_norm(z, None, None, training=True, eps=eps)

    if kind == "max_pool":
        return normalised(F.max_pool2d(x, 3, stride, 1))
    if kind == "avg_pool":
        return normalised(F.avg_pool2d(x, 3, stride, 1, count_include_pad=False))
    if kind == "skip":
        if stride == 1:
            return x
        x = x.relu()
        height, width = x.shape[2:]
        further = F.pad(x, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]
        return normalised(torch.cat([F.conv2d(y, w, stride=2) for y, w in zip((x, further), filters, strict=True)], 1))
    for stage in range(repeats):
        depthwise, pointwise = filters[2 * stage : 2 * stage + 2]
        of_stage, padding = (stride if stage == 0 else 1), dilation * (kernel // 2)
        t = F.conv2d(x.relu(), depthwise, None, of_stage, padding, dilation, x.shape[1])
        x = normalised(F.conv2d(t, pointwise))
    return x


CONTENDERS: Mapping[str, Contender] = {
    "edge by edge": Contender(edge_by_edge),
    "by state": Contender(lambda a, plan: reference_cell(a.states, a.weights, a.mix, a.edge_mix, plan)[0]),
    "batched": Contender(lambda a, plan: reference_cell(a.states, a.weights, a.mix, a.edge_mix, plan, batched=True)[0]),
    "fused": Contender(lambda a, plan: mixed_cell(a.states, a.weights, a.mix, a.edge_mix, plan)[0], "triton"),
}
PHASES: Mapping[Phase, tuple[bool, bool]] = {
    "both": (True, True),
    "alpha step": (False, True),
    "weight step": (True, False),
}
"""Whether gradients of the weights, and of the coefficients, are asked for. Those of the states always are: the cells
before this one need them."""


def step(
    contender: Contender, arguments: Arguments, plan: CellPlan, phase: Phase
) -> tuple[Callable[[], Tensor], Callable[[Tensor], tuple[Tensor, ...]]]:
    """Forward and backward pass of a phase; the second takes what the first gives and returns gradients."""
    of_weights, of_mix = PHASES[phase]
    mine = Arguments(
        tuple(x.detach().requires_grad_() for x in arguments.states),
        tuple(w.detach().requires_grad_(of_weights) for w in arguments.weights),
        arguments.mix.detach().requires_grad_(of_mix),
        None if arguments.edge_mix is None else arguments.edge_mix.detach().requires_grad_(of_mix),
        arguments.dy,
    )
    flat = [*mine.states, *mine.weights, mine.mix, *(() if mine.edge_mix is None else (mine.edge_mix,))]
    wanted = [x for x in flat if x.requires_grad]

    def forward() -> Tensor:
        with forced(contender.backend):
            return contender.evaluate(mine, plan)

    def backward(y: Tensor) -> tuple[Tensor, ...]:
        with forced(contender.backend):
            return torch.autograd.grad(y, wanted, mine.dy)

    return forward, backward


def whole(
    forward: Callable[[], Tensor], backward: Callable[[Tensor], tuple[Tensor, ...]]
) -> Callable[[], list[Tensor]]:
    """Both passes in one call, which returns the nodes and the gradients."""

    def run() -> list[Tensor]:
        y = forward()
        return [y.detach(), *backward(y)]

    return run
