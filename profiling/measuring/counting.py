"""Bytes that a computation keeps and moves, counted on meta tensors: no device is needed."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastnas_kernels.mixed_op import launch, launch_backward
from fastnas_kernels.mixed_op.dual import launch as launch_dual
from fastnas_kernels.mixed_op.dual import launch_backward as launch_dual_backward
from fastnas_kernels.mixed_op.plan import plan_from_text

CELLS: dict[str, Callable[..., Any]] = {
    "mixed_cell": launch.run_forward,
    "mixed_cell_backward": launch_backward.run_backward,
    "mixed_cell_dual": launch_dual.run_dual_forward,
    "mixed_cell_dual_backward": launch_dual_backward.run_dual_backward,
}
"""What serves the operators of a cell on a GPU."""
LOOK_FOR_NAN = ("isnan", "any", "_local_scalar_dense")
NO_LAUNCH = (
    "detach",
    "is_same_size",
    "_has_same_storage_numel",
    "_unsafe_view",
    "_reshape_alias",
    "lift_fresh",
    "promote_types",
    *LOOK_FOR_NAN,
)


def kept_bytes(forward: Callable[[], Tensor], given: Iterable[Tensor]) -> int:
    """Bytes of all storages that the graph of ``forward``, or its result, keeps and that are none of ``given``."""
    known = {_key(tensor) for tensor in given}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[_key(tensor)] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        pack(forward())
    return sum(num_bytes for key, (num_bytes, _) in kept.items() if key not in known)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # meta tensors all have the address 0


class _Traffic(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        schema = function._schema
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
        if not is_view:
            touched = [*tree_leaves(arguments), *tree_leaves(options), *tree_leaves(result)]
            self.num_bytes += sum(x.numel() * x.itemsize for x in touched if isinstance(x, Tensor))
        return result


def moved_bytes(run: Callable[[], object]) -> int:
    """Bytes that the operations of ``run`` read and write if each touches its arguments and results once.

    A lower bound of what PyTorch moves: a normalisation reads its argument twice. Caches may serve part of it.
    """
    with _Traffic() as traffic:
        run()
    return traffic.num_bytes


class Operators(TorchDispatchMode):
    """Counts operators that start a kernel, and bytes of their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        if name in CELLS:
            with self:  # its inner operators are seen as well
                return CELLS[name](*args[:-1], plan_from_text(args[-1]))
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func.namespace != "fastnas" and "empty" not in name and name not in NO_LAUNCH:
            self.launches[name] += 1
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.num_bytes += sum(map(_num_bytes, {id(x): x for x in tensors}.values()))
        return result


def _num_bytes(x: Tensor) -> int:
    return min(x.numel() * x.itemsize, x.untyped_storage().nbytes())  # the latter where it is expanded
