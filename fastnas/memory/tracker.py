"""Which storages are alive, and why, while a computation runs: on real tensors or on ones without memory.

PyTorch's own tracker (``torch.distributed._tools.mem_tracker``, 2.14) refuses a network that is called twice in a step,
as unrolled steps do, and does not know the workspace of kernels.
"""

import weakref
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastnas_kernels.mixed_op.operators import workspace_bytes
from fastnas_kernels.tensors import storage_id

WORKSPACE, KEPT = "workspace and recomputation", "kept for the backward pass"
SECOND, GRADIENTS = "second graph", "gradients of weights"


class Peak(NamedTuple):
    """The moment of most bytes.

    Args:
        num_bytes: All of them.
        causes: Bytes of each cause.
    """

    num_bytes: int
    causes: Mapping[str, int]


class Tracker(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, by cause.

    Every operation's results count from the moment at which it returns until the last tensor that sees their memory
    is gone. So gradients, recomputed results and temporaries are in it, and what the kernels of a cell hold while they
    run. What one operation of PyTorch holds inside itself is not. The storages of tensors without memory (fake ones)
    count like real ones.

    A storage is workspace until something says more: autograd keeps it, or it is the gradient of a weight.

    Args:
        granularity: Bytes that an allocator rounds up to: 512 for CUDA's, where Triton's kernels are counted, 1 on a
            CPU, to count what is asked for.
    """

    def __init__(self, granularity: int = 1) -> None:
        super().__init__()
        self.granularity = granularity
        self.alive: dict[int, tuple[int, str]] = {}
        self.causes: Counter[str] = Counter()
        self.num_bytes = self.highest = 0
        self.peak = Peak(0, {})

    def hold(self, tensors: Iterable[Tensor], cause: str) -> None:
        """Count ``tensors``, which are alive already."""
        for tensor in tensors:
            self._add(tensor, cause)
        self._look()

    def explain(self, tensor: Tensor, cause: str) -> None:
        """Move a storage from workspace to ``cause``."""
        key = storage_id(tensor)
        size, known = self.alive.get(key, (0, cause))
        if known == WORKSPACE:
            self.alive[key] = size, cause
            self.causes.update({WORKSPACE: -size, cause: size})

    def forget_peak(self) -> None:
        """Look for a new peak from here on."""
        self.peak = Peak(0, {})
        self._look()

    @contextmanager
    def explaining(self, weights: Iterable[Tensor]) -> Generator[None, None, None]:
        """Note inside the block what autograd keeps, and the gradients of ``weights``."""

        def pack(tensor: Tensor) -> Tensor:
            # a graph that is built while another one is walked is that of a gradient
            self.explain(tensor, KEPT if torch._C._current_graph_task_id() == -1 else SECOND)
            return tensor.detach()  # an output that a graph kept as it is would keep the graph

        handles = [w.register_hook(self._on_gradient) for w in weights]
        try:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _on_gradient(self, gradient: Tensor) -> None:
        self.explain(gradient, GRADIENTS)

    def _add(self, tensor: Tensor, cause: str) -> None:
        storage, key = tensor.untyped_storage(), storage_id(tensor)
        if key in self.alive:
            return
        size = -(-storage.nbytes() // self.granularity) * self.granularity
        self.alive[key] = size, cause
        self.causes[cause] += size
        self.num_bytes += size
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        size, cause = self.alive.pop(key)
        self.causes[cause] -= size
        self.num_bytes -= size

    def take_highest(self) -> int:
        """The most bytes since this was last asked."""
        highest, self.highest = self.highest, self.num_bytes
        return highest

    def _look(self, inside: int = 0) -> None:
        now = self.num_bytes + inside
        self.highest = max(self.highest, now)
        if now > self.peak.num_bytes:
            causes = self.causes + Counter({WORKSPACE: inside})
            self.peak = Peak(now, {cause: size for cause, size in causes.items() if size})

    def __torch_dispatch__(self, function: OpOverload, types: Any, arguments: Any = (), options: Any = None) -> Any:
        results = function(*arguments, **(options or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                self._add(result, WORKSPACE)
        self._look(workspace_bytes(function, arguments, self.granularity > 1))
        return results
