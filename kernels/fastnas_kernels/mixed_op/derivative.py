"""The kernels of a cell as one differentiable function.

Around the raw operators stand autograd Functions: the cell, its gradient, and both parts of the cell at dual numbers.
With ``J`` the cell's derivative at ``x`` and ``u`` a direction, all three need only ``J u``, ``J^T c`` and the
derivative of ``J^T c`` along ``u``: what pulls ``u`` back through the gradient ``J^T c`` is that derivative, because
second derivatives are symmetric, and ``J u``. So that is one pass forward and one backward on numbers with a tangent,
whether a product with second derivatives goes forward over reverse (dual numbers) or reverse over reverse. For third
derivatives the definition of the same cell in plain PyTorch is differentiated, which is exact to any order, and for
tangents where a compiler fails that made the code for values.

The cell saves its states and the statistics of their normalisation, nothing else.

Shape suffixes: I input states, N H W images and pixels, S channels of a state, D channels of all nodes.
"""

from collections.abc import Callable, Sequence
from itertools import compress

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastnas_kernels.backend import are_cells_as_on_a_gpu, backend_for
from fastnas_kernels.cpu.choice import cpu_knows_tangents
from fastnas_kernels.mixed_op import operators
from fastnas_kernels.mixed_op.definition import gradients_of, nodes_of, spread, tangent_of
from fastnas_kernels.mixed_op.plan import CellPlan, plan_from_text
from fastnas_kernels.operators import signed

Some = Tensor | None


class _Cell(torch.autograd.Function):
    """Nodes from ``x``: the input states, mix, weights of the edges, and filters."""

    @staticmethod
    @signed
    def forward(plan: str, statistics: Some, *x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs, mix, edge_mix, *weights = x
        return operators.forward(inputs, list(weights), mix, edge_mix, statistics, plan)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.plan, statistics, *x = inputs
        nodes, stats, packed, noted = output
        ctx.mark_non_differentiable(stats, packed, noted)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(statistics, nodes, stats, packed, *x)

    @staticmethod
    def backward(ctx, dnodes: Some, *_: None) -> tuple[Some, ...]:
        statistics, nodes, stats, packed, *x = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        if dnodes is None:
            return None, None, *(None for _ in needed)
        kept = nodes, stats, packed
        if not torch.is_grad_enabled():
            tangent = _tangent(dnodes)
            found = _gradients(ctx.plan, statistics, needed, kept, dnodes, x)
            if tangent is not None:  # of what stands behind the cell: the gradient is linear in it
                along = _gradients(ctx.plan, statistics, needed, kept, tangent, x)
                found = [forward_ad.make_dual(g, t) for g, t in zip(found, along, strict=True)]
        elif _tangent(dnodes) is None:
            found = _Gradient.apply(ctx.plan, statistics, needed, *kept, dnodes, *x)
        else:
            found = gradients_of(_definition(ctx.plan, statistics), x, needed, dnodes)
        return None, None, *spread(found, needed)


class _DualCell(_Cell):
    """The same with forward mode where transforms of ``torch.func`` hide the tangents of what they wrap; which
    ``torch.compile`` does not know."""

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        _Cell.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def jvp(ctx, _plan: None, _statistics: None, *u: Some) -> tuple[Tensor, None, None, None]:
        statistics, *x = ctx.saved_tensors
        return _dual_nodes(ctx.plan, statistics, x, u)[1], None, None, None


class _Gradient(torch.autograd.Function):
    """``J^T dnodes``: the gradients of those of ``x`` that ``needed`` marks, from what the cell kept."""

    @staticmethod
    def forward(
        plan: str, statistics: Some, needed: Sequence[bool], nodes: Tensor, stats: Tensor, packed: Tensor,
        dnodes: Tensor, *x: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        return tuple(_gradients(plan, statistics, needed, (nodes, stats, packed), dnodes, x))

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.plan, statistics, ctx.needed, _, _, _, *differentiable = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(statistics, *differentiable)
        ctx.save_for_forward(statistics, *differentiable)

    @staticmethod
    def backward(ctx, *u: Some) -> tuple[Some, ...]:
        statistics, *differentiable = ctx.saved_tensors
        wanted = ctx.needs_input_grad[6:]
        if torch.is_grad_enabled() or any(_tangent(t) is not None for t in u):
            found = gradients_of(_gradient(ctx.plan, statistics, ctx.needed), differentiable, wanted, *u)
            return *(None,) * 6, *spread(found, wanted)
        dnodes, *x = differentiable
        along = spread(u, ctx.needed)
        of_dnodes, found = _derivatives(ctx.plan, statistics, wanted[1:], dnodes, None, x, along)
        return *(None,) * 6, of_dnodes if wanted[0] else None, *spread([t for _, t in found], wanted[1:])

    @staticmethod
    def jvp(ctx, *tangents: Some) -> tuple[Tensor, ...]:
        statistics, *differentiable = ctx.saved_tensors
        along = tangents[6:]
        if any(_is_wrapped(t) for t in (*differentiable, *along)):  # transforms within transforms
            return tangent_of(_gradient(ctx.plan, statistics, ctx.needed), differentiable, along)[1]
        dnodes, *x = differentiable
        _, found = _derivatives(ctx.plan, statistics, ctx.needed, dnodes, along[0], x, along[1:])
        return tuple(t for _, t in found)


class _Dual(torch.autograd.Function):
    """Nodes at ``x + e u`` for a constant ``u``, in which ``None`` stands for zeros; and what the pass kept."""

    @staticmethod
    def forward(plan: str, statistics: Some, u: Sequence[Some], *x: Tensor) -> tuple[Tensor, ...]:
        return _dual_forward(plan, statistics, x, u)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.plan, statistics, u, *x = inputs
        nodes, tangent, stats, packed, noted = output
        ctx.mark_non_differentiable(tangent, stats, packed, noted)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(statistics, nodes, tangent, stats, packed, *x, *u)

    @staticmethod
    def backward(ctx, dnodes: Some, *_: None) -> tuple[Some, ...]:
        statistics, nodes, tangent, stats, packed, *x_and_u = ctx.saved_tensors
        (x, u), needed = _halves(x_and_u), ctx.needs_input_grad[3:]
        if dnodes is None:
            return None, None, None, *(None for _ in needed)
        if torch.is_grad_enabled():
            found = gradients_of(_definition(ctx.plan, statistics), _with_tangents(x, u), needed, dnodes)
            return None, None, None, *spread(found, needed)
        kept = [nodes, tangent], stats, packed
        pairs = _dual_gradients(ctx.plan, statistics, needed, kept, _unpacked(dnodes), x, u)
        found = [forward_ad.make_dual(*pair) for pair in pairs] if _is_dual_level() else [g for g, _ in pairs]
        return None, None, None, *spread(found, needed)


class _Tangent(torch.autograd.Function):
    """``J u``, which :class:`_Dual` has computed. PyTorch's own operations on dual numbers keep the graphs of tangents
    alive, in cycles of references, until their level ends; so this keeps no more than it must."""

    @staticmethod
    def forward(plan: str, statistics: Some, tangent: Tensor, *x_and_u: Some) -> Tensor:
        return tangent.detach()

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.plan, statistics, _, *x_and_u = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(statistics, *x_and_u)

    @staticmethod
    def backward(ctx, of_tangent: Some) -> tuple[Some, ...]:
        statistics, *x_and_u = ctx.saved_tensors
        (x, u), wanted = _halves(x_and_u), ctx.needs_input_grad[3:]
        if of_tangent is None:
            return None, None, None, *(None for _ in wanted)
        if torch.is_grad_enabled() or _is_dual_level():
            filled = [torch.zeros_like(v) if t is None else t for v, t in zip(x, u, strict=True)]
            at = (*_with_tangents(x, u), *filled)
            found = gradients_of(_derivative(ctx.plan, statistics), at, wanted, of_tangent)
            return None, None, None, *spread(found, wanted)
        either = [a or b for a, b in zip(*_halves(wanted), strict=True)]
        pairs = spread(_derivatives(ctx.plan, statistics, either, of_tangent, None, x, u)[1], either)
        found = [*(pair and pair[1] for pair in pairs), *(pair and pair[0] for pair in pairs)]
        return None, None, None, *(g if want else None for g, want in zip(found, wanted, strict=True))


def _dual_nodes(plan: str, statistics: Some, x: Sequence[Tensor], u: Sequence[Some]) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes, their tangent, and the statistics of the normalisations, differentiable for ``x`` and ``u``."""
    constant = [None if t is None else t.detach() for t in u]
    nodes, tangent, _, _, noted = _Dual.apply(plan, statistics, constant, *x)
    return nodes, _Tangent.apply(plan, statistics, tangent, *x, *u), noted


def _dual_forward(plan: str, statistics: Some, x: Sequence[Tensor], u: Sequence[Some]) -> tuple[Tensor, ...]:
    """Nodes, their tangent, what :func:`_dual_gradients` takes, and the statistics of the normalisations."""
    if not _knows_tangents(x[0], plan):
        inputs, mix, edge_mix, *weights = x
        nodes, stats, packed, noted = operators.forward(inputs, weights, mix, edge_mix, statistics, plan)
        return nodes, tangent_of(_definition(plan, statistics), x, u)[1], stats, packed, noted
    inputs, mix, edge_mix = _pairs(x[:3], u[:3])
    tangents = [] if all(t is None for t in u[3:]) else [t for _, t in _pairs(x[3:], u[3:])]
    return operators.dual_forward(inputs, list(x[3:]), tangents, mix, edge_mix, statistics, plan)


def _with_tangents(x: Sequence[Tensor], u: Sequence[Some]) -> Sequence[Tensor]:
    """Dual numbers again, if that is what the cell was given: saved tensors have no tangent."""
    if not _is_dual_level():
        return x
    return [v if t is None else forward_ad.make_dual(v, t) for v, t in zip(x, u, strict=True)]


def _definition(plan: str, statistics: Some) -> Callable[..., Tensor]:
    """The nodes as a function of ``x`` in plain PyTorch."""
    return lambda *x: nodes_of(plan_from_text(plan), statistics, *x)[0]


def _derivative(plan: str, statistics: Some) -> Callable[..., Tensor]:
    """``J u`` as a function of ``x`` and ``u``."""
    return lambda *x_and_u: tangent_of(_definition(plan, statistics), *_halves(x_and_u))[1]


def _gradient(plan: str, statistics: Some, needed: Sequence[bool]) -> Callable[..., tuple[Tensor, ...]]:
    """The gradients of those of ``x`` that are needed, as a function of the nodes' gradient and ``x``."""
    return lambda dnodes, *x: tuple(gradients_of(_definition(plan, statistics), x, needed, dnodes))


def _gradients(
    plan: str, statistics: Some, needed: Sequence[bool], kept: tuple[Tensor, Tensor, Tensor], dnodes: Tensor,
    x: Sequence[Tensor],
) -> list[Tensor]:  # fmt: skip
    """The gradients that are needed, by the kernels."""
    nodes, stats, packed = kept
    inputs, mix, edge_mix, *_ = x
    found = operators.backward(
        dnodes, inputs, nodes, packed, mix, edge_mix, stats, statistics is not None, families(needed), plan
    )
    return chosen(found, x, needed)


def _derivatives(
    plan: str, statistics: Some, needed: Sequence[bool], dnodes: Tensor, along: Some, x: Sequence[Tensor],
    u: Sequence[Some],
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:  # fmt: skip
    """``J u``, and the gradients that are needed with their derivatives along ``u`` and, of ``dnodes``, ``along``."""
    nodes, tangent, stats, packed, _ = _dual_forward(plan, statistics, x, u)
    if not any(needed):
        return tangent, []
    kept = [nodes, tangent], stats, packed
    return tangent, _dual_gradients(plan, statistics, needed, kept, (dnodes, along), x, u)


def _dual_gradients(
    plan: str, statistics: Some, needed: Sequence[bool], kept: tuple[list[Tensor], Tensor, Tensor],
    dnodes: tuple[Tensor, Some], x: Sequence[Tensor], u: Sequence[Some],
) -> list[tuple[Tensor, Tensor]]:  # fmt: skip
    """The gradients that are needed, each with its tangent, from what :func:`_dual_forward` kept."""
    nodes, stats, packed = kept
    if not _knows_tangents(x[0], plan):
        values = _gradients(plan, statistics, needed, (nodes[0], stats, packed), dnodes[0], x)
        _, tangents = tangent_of(_gradient(plan, statistics, needed), (dnodes[0], *x), (dnodes[1], *u))
        return list(zip(values, tangents, strict=True))
    inputs, mix, edge_mix = _pairs(x[:3], u[:3])
    (both,) = _pairs(dnodes[:1], dnodes[1:])
    found = operators.dual_backward(
        both, inputs, nodes, packed, mix, edge_mix, stats, statistics is not None, families(needed), plan
    )
    return list(zip(chosen(found[:4], x, needed), chosen(found[4:], x, needed), strict=True))


def families(needed: Sequence[bool]) -> list[bool]:
    """Which of the four gradients of the kernels are needed: that of all filters comes as one."""
    inputs, mix, edge_mix, *weights = needed
    return [inputs, any(weights), mix, edge_mix]


def chosen(found: Sequence[Tensor], x: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    """Gradients as ``x`` is, of those that are needed, from those of the kernels."""
    dinputs, dweights, dmix, dedge_mix = found
    inputs, mix, edge_mix, *weights = x
    of_weights: Sequence[Some] = [None] * len(weights)
    if any(needed[3:]):  # one operation for all, which are many
        of_weights = torch._utils._unflatten_dense_tensors(dweights.to(weights[0].dtype), weights)  # type: ignore[attr-defined]
    gradients = dinputs.to(inputs.dtype), dmix.to(mix.dtype), dedge_mix.to(edge_mix.dtype), *of_weights
    return list(compress(gradients, needed))  # type: ignore[arg-type]


def _halves(both: Sequence) -> tuple[Sequence, Sequence]:
    return both[: len(both) // 2], both[len(both) // 2 :]


def _pairs(x: Sequence[Tensor], u: Sequence[Some]) -> list[list[Tensor]]:
    return [[v, v.new_zeros(()).expand_as(v) if t is None else t] for v, t in zip(x, u, strict=True)]


def _knows_tangents(inputs: Tensor, plan: str) -> bool:
    """Whether the backend computes on numbers with a tangent: unless a compiler of the CPU fails, it does."""
    if are_cells_as_on_a_gpu() or backend_for(inputs.device) == "triton":
        return True
    return cpu_knows_tangents(inputs, plan_from_text(plan))


def _is_dual_level() -> bool:
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def _tangent(x: Some) -> Some:
    """That of a dual number, ``None`` if it is none."""
    return forward_ad.unpack_dual(x).tangent if x is not None and _is_dual_level() else None


def _unpacked(x: Tensor) -> tuple[Tensor, Some]:
    if not _is_dual_level():
        return x, None
    primal, tangent = forward_ad.unpack_dual(x)
    return primal, tangent


def _is_wrapped(x: Some) -> bool:
    return x is not None and torch._C._functorch.is_functorch_wrapped_tensor(x)  # type: ignore[attr-defined]


def prepared(
    states: Sequence[Tensor], weights: Sequence[Tensor], mix: Tensor, edge_mix: Some, plan: CellPlan
) -> tuple[Tensor, ...]:
    """What a cell is a function of, as the kernels take it: input states, mix, weights of the edges, and filters."""
    inputs_INHWS = torch.stack([state.permute(0, 2, 3, 1) for state in states])
    if edge_mix is None:  # nothing reads it without partial channels
        edge_mix = mix.new_ones(len(plan.edges)) if plan.k > 1 else mix.new_empty(len(plan.edges))
    return inputs_INHWS, mix, edge_mix, *weights


def fused_cell(
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    mix: Tensor,
    edge_mix: Some,
    plan: CellPlan,
    statistics: Some,
) -> tuple[Tensor, Tensor]:
    """:func:`fastnas_kernels.mixed_op.cell.mixed_cell` by the kernels, which calculate in at least float32."""
    x = prepared(states, weights, mix, edge_mix, plan)
    u = [_tangent(v) for v in x] if _is_dual_level() else [None] * len(x)
    if all(t is None for t in u):
        function = _Cell if torch.compiler.is_compiling() else _DualCell
        nodes, _, _, noted = function.apply(plan.text, statistics, *x)
    else:
        values = [forward_ad.unpack_dual(v).primal for v in x]
        *both, noted = _dual_nodes(plan.text, statistics, values, u)
        nodes = forward_ad.make_dual(*both)
    return nodes.permute(0, 3, 1, 2), noted if statistics is None else statistics
