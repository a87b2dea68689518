"""Activation checkpointing: inner results are recomputed in the backward pass instead of being kept."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def checkpointed(function: Callable[..., T], *arguments: object) -> T:
    """``function(*arguments)``, of whose inner results the graph keeps none (Chen et al., 2016, arXiv:1604.06174).

    The graph is the one that the plain call would build, node for node, and only what its nodes keep is replaced: the
    first of them that is asked for runs ``function`` once more. So gradients are the same to the last bit, in every
    order of differentiation, and none is computed that nobody asked for. A graph of a gradient (``create_graph``)
    keeps what it needs of a part after that part was recomputed.

    Under the transforms of ``torch.func``, which know no such replacement, this is the plain call.

    Args:
        function: A pure function: the same arguments give the same bits. It may close over tensors; those and the
            arguments are kept. Gradients reach them all.
        arguments: What it is called with.
    """
    if not torch.is_grad_enabled() or _transformed() or torch.compiler.is_compiling():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False, determinism_check="none")


def _transformed() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None  # type: ignore[attr-defined]
