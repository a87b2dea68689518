"""Bytes that a computation keeps and moves, counted on meta tensors: no device is needed."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
