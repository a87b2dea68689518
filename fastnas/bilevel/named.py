"""What products share: gradients that are asked for by name, and what is said where there is none."""

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from fastnas.bilevel.problem import Tensors, restore_state
from fastnas_kernels.check import complaint, invalid
from fastnas_kernels.tensors import accumulator, storage_id

LossOf = Callable[[Tensors], Tensor]
"""From named tensors to a loss, a scalar."""

# What PyTorch says of operations that know no second derivative, or no forward mode
_REFUSALS = ("once_differentiable", "derivative for", "forward AD", "jvp function", "order derivatives")


def norm(tensors: Tensors) -> float:
    """The Euclidean norm of all numbers together."""
    return float(torch.stack([x.detach().to(accumulator(x.dtype)).norm() for x in tensors.values()]).norm())


def gradients(
    where: str, value: Tensor, leaves: Tensors, allow_unused: bool, *, create_graph: bool = False, twice: bool = True
) -> list[Tensor | None]:
    if value.ndim != 0:
        raise invalid(where, "loss must be a scalar", f"shape {list(value.shape)}", "Take its mean.")
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if value.requires_grad:
        if twice:
            require_twice(where, value)
        found = torch.autograd.grad(value, list(leaves.values()), create_graph=create_graph, allow_unused=True)
    absent = [name for name, g in zip(leaves, found, strict=True) if g is None]
    if not allow_unused and absent:
        remedy = "Leave them out of v and of, or pass allow_unused=True for rows of zeros."
        raise invalid(where, "the loss must depend on every tensor", f"no trace of {absent}", remedy)
    return list(found)


def fill_missing(at: Tensors, rows: Sequence[str], found: Sequence[Tensor | None]) -> dict[str, Tensor]:
    pairs = zip(rows, found, strict=True)
    return {name: torch.zeros_like(at[name]) if x is None else x for name, x in pairs}


def select_rows(v: Tensors, of: Collection[str] | None) -> tuple[str, ...]:
    return tuple(v if of is None else of)


def require_names(where: str, at: Tensors, v: Tensors, rows: Collection[str]) -> None:
    if not v:
        raise invalid(where, "v must not be empty", "no tensor")
    strange = sorted({*v, *rows} - set(at))
    if strange:
        raise invalid(where, f"v and of must have names out of {sorted(at)}", strange)
    for name, x in v.items():
        expected = list(at[name].shape)
        if list(x.shape) != expected:
            raise invalid(where, f"v[{name!r}] must have shape {expected}", list(x.shape))


def require_entering(where: str, losses: Sequence[LossOf], at: Tensors, state: Sequence[Tensor]) -> None:
    """Raise if none of the tensors enters one of the losses: its Hessian would be zero in silence."""
    for loss in losses:
        with restore_state(state), torch.enable_grad():
            leaves = {name: x.detach().requires_grad_() for name, x in at.items()}
            value = loss(leaves)
        ids, seen, waiting = {id(x) for x in leaves.values()}, set(), [value.grad_fn]
        found = any(value is x for x in leaves.values())
        while waiting and not found:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                found = id(getattr(node, "variable", None)) in ids
                waiting += [parent for parent, _ in node.next_functions]
        if not found:
            remedy = "Evaluate the network at them: torch.func.functional_call(network, tensors, inputs)."
            raise ValueError(complaint(where, "every loss must depend on a tensor of at", "none of them", remedy))


@contextmanager
def refuse_inplace(where: str, remedy: str) -> Generator[None, None, None]:
    """Say in one line what PyTorch says of an operation that has no second derivative."""
    try:
        yield
    except RuntimeError as error:
        if not any(refusal in str(error) for refusal in _REFUSALS):
            raise
        said = " ".join(str(error).split())[:160]
        switches = [switch for name, switch in _SWITCHES.items() if name in str(error)]
        remedy = " ".join([*switches, remedy.replace("Use", "Or use", 1) if switches else remedy])
        raise ValueError(complaint(where, "loss must be twice differentiable", repr(said), remedy)) from error


_SWITCHES = {  # what makes an operation of PyTorch one that it can differentiate twice
    "scaled_dot_product": "Compute it inside torch.nn.attention.sdpa_kernel(SDPBackend.MATH).",
    "cudnn_rnn": "Compute it inside torch.backends.cudnn.flags(enabled=False).",
}


@contextmanager
def copy_when_saved(state: Sequence[Tensor]) -> Generator[None, None, None]:
    """Let graphs keep copies of ``state``, which is put back before they are differentiated."""
    storages = {storage_id(x) for x in state}
    if not storages:
        yield
        return
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.clone() if storage_id(x) in storages else x, lambda x: x):
        yield


_ONCE = torch.autograd.function.once_differentiable(lambda ctx, dy: dy).__code__  # one for all that it decorates


def require_twice(where: str, value: Tensor) -> None:
    """Raise if a function that may be differentiated once lies behind ``value``: PyTorch itself takes its second
    derivative as zero, in silence, in forward mode and where the gradient that it is given is a constant."""
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [parent for parent, _ in node.next_functions]
        function = getattr(node, "_forward_cls", None)
        if function is not None and getattr(function.backward, "__code__", None) is _ONCE:
            got = f"{function.__name__}, which is marked once_differentiable"
            raise invalid(
                where,
                "loss must be twice differentiable",
                got,
                "Use central_difference, as product=by_differences.",
            )
