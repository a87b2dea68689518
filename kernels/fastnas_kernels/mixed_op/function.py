"""The kernels of a cell as one differentiable function.

Two raw operators, which tracers see from the outside, and one autograd Function around them. The Function saves the
states and the statistics of their normalisation, nothing else. Its backward runs the kernels where no graph of the
backward is asked for; where one is (second order, ``torch.func``), it differentiates the plain PyTorch form of the
same cell, which is exact to any order. Dual numbers go through that form from the start: its forward mode costs two
passes, that of a Function would be two backward passes on top of the kernels.

Shape suffixes: I input states, N H W images and pixels, S channels of a state, D channels of all nodes.
"""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastnas_kernels.backend import backend_for, on_device_of
from fastnas_kernels.mixed_op.lowering import lower
from fastnas_kernels.mixed_op.plan import CellPlan, plan_from_text
from fastnas_kernels.mixed_op.reference import reference_cell
from fastnas_kernels.operator import operator
from fastnas_kernels.precision import accumulator


def _launch(images: Tensor) -> ModuleType:
    """The module whose ``run_forward`` serves ``images``."""
    if backend_for(images.device) == "cpu":
        from fastnas_kernels.cpu import launch  # noqa: PLC0415
    else:
        from fastnas_kernels.mixed_op import launch  # noqa: PLC0415  (Triton, which exists on Linux only)
    return launch


def _launch_backward(images: Tensor) -> ModuleType:
    """The module whose ``run_backward`` serves ``images``."""
    if backend_for(images.device) == "cpu":
        return _launch(images)
    from fastnas_kernels.mixed_op import launch_backward  # noqa: PLC0415

    return launch_backward


@operator("mixed_cell")
def _forward_op(
    inputs_INHWS: Tensor, weights: list[Tensor], mix: Tensor, edge_mix: Tensor, statistics: Tensor | None, plan: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with on_device_of(inputs_INHWS):
        run_forward = _launch(inputs_INHWS).run_forward
        return run_forward(inputs_INHWS, weights, mix, edge_mix, statistics, plan_from_text(plan))


@torch.library.register_fake("fastnas::mixed_cell")
def _(
    inputs_INHWS: Tensor, weights: list[Tensor], mix: Tensor, edge_mix: Tensor, statistics: Tensor | None, plan: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    cell = plan_from_text(plan)
    lowered, dtype = lower(cell), accumulator(inputs_INHWS.dtype)
    _, images, height, width, _ = inputs_INHWS.shape
    shape = (images, *cell.size_after(height, width), cell.num_nodes * cell.channels)
    stats = inputs_INHWS.new_empty(lowered.num_rows + 2, 3, cell.mixed_channels, dtype=dtype)
    packed = inputs_INHWS.new_empty(lowered.packing.size, dtype=dtype)
    norms = len(cell.norms) if statistics is None else 0
    return inputs_INHWS.new_empty(shape), stats, packed, stats.new_empty(norms, 2, cell.mixed_channels)


@operator("mixed_cell_backward")
def _backward_op(
    dnodes_NHWD: Tensor,
    inputs_INHWS: Tensor,
    nodes_NHWD: Tensor,
    packed: Tensor,
    mix: Tensor,
    edge_mix: Tensor,
    stats: Tensor,
    frozen: bool,
    needs: list[bool],
    plan: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with on_device_of(inputs_INHWS):
        return _launch_backward(inputs_INHWS).run_backward(
            dnodes_NHWD, inputs_INHWS, nodes_NHWD, packed, mix, edge_mix, stats, frozen, needs, plan_from_text(plan)
        )


@torch.library.register_fake("fastnas::mixed_cell_backward")
def _(
    dnodes_NHWD: Tensor,
    inputs_INHWS: Tensor,
    nodes_NHWD: Tensor,
    packed: Tensor,
    mix: Tensor,
    edge_mix: Tensor,
    stats: Tensor,
    frozen: bool,
    needs: list[bool],
    plan: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weights = lower(plan_from_text(plan)).unpacking.size
    like = (
        inputs_INHWS.new_empty(inputs_INHWS.shape),
        *(packed.new_empty(n) for n in (weights, *mix.shape, *edge_mix.shape)),
    )
    return tuple(x if need else inputs_INHWS.new_empty(0) for x, need in zip(like, needs, strict=True))  # type: ignore[return-value]


def _reference(plan: CellPlan, statistics: Tensor | None, inputs_INHWS: Tensor, mix: Tensor, edge_mix: Tensor,
               *weights: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The nodes ``[N, H, W, D]`` and their statistics in plain PyTorch, from the arguments that carry gradients; in the
    precision in which the kernels calculate."""
    exact = accumulator(inputs_INHWS.dtype)
    states = [state.permute(0, 3, 1, 2).to(exact) for state in inputs_INHWS]
    filters = [weight.to(exact) for weight in weights]
    edges = edge_mix if plan.k > 1 else None
    nodes, noted = reference_cell(states, filters, mix, edges, plan, statistics)
    return nodes.permute(0, 2, 3, 1).to(inputs_INHWS.dtype), noted


class _Cell(torch.autograd.Function):
    @staticmethod
    def forward(
        plan: str, statistics: Tensor | None, inputs: Tensor, mix: Tensor, edge_mix: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return _forward_op(inputs, list(weights), mix, edge_mix, statistics, plan)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.plan, statistics, *differentiable = inputs
        nodes, stats, packed, noted = output
        ctx.mark_non_differentiable(stats, packed, noted)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(statistics, nodes, stats, packed, *differentiable)

    @staticmethod
    def backward(ctx, dnodes: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        statistics, nodes, stats, packed, inputs, mix, edge_mix, *weights = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        if dnodes is None:
            return (None, None, *(None for _ in needed))
        if torch.is_grad_enabled() or _has_tangent((dnodes, inputs, mix, edge_mix, *weights)):
            arguments = (inputs, mix, edge_mix, *weights)
            return (None, None, *_reference_gradients(plan_from_text(ctx.plan), statistics, arguments, needed, dnodes))
        needs = [needed[0], any(needed[3:]), needed[1], needed[2]]
        dinputs, dweights, dmix, dedge_mix = _backward_op(
            dnodes, inputs, nodes, packed, mix, edge_mix, stats, statistics is not None, needs, ctx.plan
        )
        gradients: list[Tensor | None] = [dinputs, dmix.to(mix.dtype), dedge_mix.to(edge_mix.dtype)]
        if needs[1]:
            parts = torch._utils._unflatten_dense_tensors(dweights, weights)  # type: ignore[attr-defined]
            gradients += [g if g.dtype == w.dtype else g.to(w.dtype) for g, w in zip(parts, weights, strict=True)]
        else:
            gradients += [None] * len(weights)
        return (None, None, *(g if need else None for g, need in zip(gradients, needed, strict=True)))


class _DualCell(_Cell):
    """The same with forward mode where transforms of ``torch.func`` hide the tangents of what they wrap; which
    ``torch.compile`` does not know."""

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        _Cell.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def jvp(ctx, *tangents: Tensor | None) -> tuple[Tensor, None, None, None]:
        statistics, *arguments = ctx.saved_tensors
        plan = plan_from_text(ctx.plan)
        filled = [torch.zeros_like(x) if t is None else t for x, t in zip(arguments, tangents[2:], strict=True)]
        # Twice backward is once forward: the gradient is linear in what it is given, and the derivative of a linear
        # function is the function. Dual numbers within dual numbers would need nested forward mode instead.
        nodes, pull = torch.func.vjp(lambda *xs: _reference(plan, statistics, *xs)[0], *arguments)  # type: ignore[misc]
        _, push = torch.func.vjp(pull, torch.zeros_like(nodes))  # type: ignore[misc]
        return push(tuple(filled))[0].contiguous(), None, None, None


class _PlainCell(_Cell):
    """The same without transforms of ``torch.func``: where a Function has a ``setup_context``, PyTorch looks up the
    signature of its ``forward`` at every call, which takes longer than the kernels of a small cell."""

    @staticmethod
    def forward(ctx, *inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        output = _Cell.forward(*inputs)
        _Cell.setup_context(ctx, inputs, output)
        return output

    setup_context = staticmethod(torch.autograd.Function.setup_context)


def _has_tangent(tensors: Sequence[Tensor]) -> bool:
    """Whether any of them is a dual number."""
    inside = not torch.compiler.is_compiling() and forward_ad._current_level >= 0
    return inside and any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def _reference_gradients(
    plan: CellPlan,
    statistics: Tensor | None,
    arguments: Sequence[Tensor],
    needed: Sequence[bool],
    dnodes: Tensor,
) -> list[Tensor | None]:
    """Gradients of the arguments that need one, themselves differentiable."""

    def of_needed(*chosen: Tensor) -> Tensor:
        remaining = iter(chosen)
        return _reference(
            plan, statistics, *(next(remaining) if n else x for x, n in zip(arguments, needed, strict=True))
        )[0]

    chosen = [x for x, n in zip(arguments, needed, strict=True) if n]
    wrapped = any(torch._C._functorch.is_functorch_wrapped_tensor(x) for x in (*chosen, dnodes))  # type: ignore[attr-defined]
    if torch.is_grad_enabled() and not wrapped:  # hooks on what graphs keep do not go with the transforms of torch.func
        own = [x.view_as(x) for x in chosen]  # a state may depend on a weight, whose gradient is that of the cell alone
        gradients = iter(torch.autograd.grad(of_needed(*own), own, dnodes, create_graph=True))
    else:
        _, pull = torch.func.vjp(of_needed, *chosen)  # type: ignore[misc]
        gradients = iter(pull(dnodes))
    return [next(gradients) if n else None for n in needed]


def _function() -> type[_Cell]:
    if torch.compiler.is_compiling():
        return _Cell
    return _DualCell if torch._C._are_functorch_transforms_active() else _PlainCell  # type: ignore[attr-defined]


def fused_cell(
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    mix: Tensor,
    edge_mix: Tensor | None,
    plan: CellPlan,
    statistics: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """:func:`fastnas_kernels.mixed_op.cell.mixed_cell` by the kernels, which calculate in at least float32."""
    inputs_INHWS = torch.stack([state.permute(0, 2, 3, 1) for state in states])
    if edge_mix is None:  # nothing reads it without partial channels
        edges = mix.new_ones(len(plan.edges)) if plan.k > 1 else mix.new_empty(len(plan.edges))
    else:
        edges = edge_mix
    if _has_tangent((inputs_INHWS, mix, edges, *weights)):
        nodes, noted = _reference(plan, statistics, inputs_INHWS, mix, edges, *weights)
        return nodes.permute(0, 3, 1, 2), noted
    function = _function()
    nodes, _, _, noted = function.apply(plan.text, statistics, inputs_INHWS, mix, edges, *weights)
    return nodes.permute(0, 3, 1, 2), noted if statistics is None else statistics
