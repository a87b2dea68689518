"""The parts of a supernet marked for the profiler while they run, and operations that should not be there."""

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from torch.utils._python_dispatch import TorchDispatchMode

from fastnas.acceleration.shapes import find_candidates, find_cell_methods, find_mixing_methods
from fastnas.acceleration.stand_in import find_stand_ins
from fastnas.supernet.search_cell import SearchCell
from fastnas_kernels.tensors import storage_id

LABEL = "fastnas: "


def find_parts(network: nn.Module) -> dict[nn.Module, tuple[str, str]]:
    """Cells, edges and candidates of ``network`` with their names; of our own supernets the cells."""
    kinds: dict[nn.Module, tuple[str, str]] = {}

    def visit(module: nn.Module, name: str) -> None:
        if module in kinds:
            return
        if isinstance(module, SearchCell):
            kinds[module] = "cells", name
            return
        present = find_stand_ins(module)
        if present:  # what lies inside does not run, and a hook on it would bring back its own forward
            kinds[module] = "cells" if present[0].wiring.is_cell else "edges", name
            return
        ours = any(isinstance(part, SearchCell) for part in module.modules())
        if find_cell_methods(module) and not ours:
            kinds[module] = "cells", name
        elif find_mixing_methods(module) and not ours:
            kinds[module] = "edges", name
            for path, candidate in find_candidates(module).items():
                kinds[candidate] = "candidates", f"{name}.{path}"
            return
        for child_name, child in module.named_children():
            visit(child, f"{name}.{child_name}" if name else child_name)

    visit(network, "")
    return kinds


class Labels:
    """Marks cells, edges and candidates for the profiler, counts their calls and the bytes that they save."""

    def __init__(self, kinds: dict[nn.Module, tuple[str, str]]) -> None:
        self.kinds, self.calls = kinds, defaultdict[nn.Module, int](int)
        self.saved = defaultdict[str, int](int)
        self._stack: list[tuple[str, Any, bool]] = []
        self._exit = ExitStack()

    def __enter__(self) -> "Labels":
        for module in self.kinds:
            for handle in (module.register_forward_pre_hook(self._begin), module.register_forward_hook(self._end)):
                self._exit.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def reset(self) -> None:
        self.calls.clear()

    def in_engine(self) -> bool:
        """Whether the engine evaluates the part that runs now."""
        return bool(self._stack) and self._stack[-1][2]

    def _begin(self, module: nn.Module, _: object) -> None:
        self.calls[module] += 1
        kind = self.kinds[module][0]
        mark = record_function(LABEL + kind)
        mark.__enter__()
        self._stack.append((kind, mark, isinstance(module, SearchCell) or bool(find_stand_ins(module))))

    def _end(self, _module: nn.Module, _inputs: object, _output: object) -> None:
        self._stack.pop()[1].__exit__(None, None, None)

    @contextmanager
    def saving(self) -> Generator[None, None, None]:
        seen: set[int] = set()

        def pack(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter) and storage_id(tensor) not in seen:
                seen.add(storage_id(tensor))
                self.saved[self._stack[-1][0] if self._stack else ""] += tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield


class Watch(TorchDispatchMode):
    """Counts values that the host waits for, and changes of memory layout."""

    def __init__(self, in_engine: Callable[[], bool]) -> None:
        super().__init__()
        self.in_engine = in_engine  # which looks for NaN where nobody has to wait
        self.waits = 0
        self.turns: list[bool] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        name = function.overloadpacket.__name__
        if name == "_local_scalar_dense" and not self.in_engine():
            self.waits += 1
        elif name in ("clone", "_to_copy", "copy_") and isinstance(result, Tensor) and result.dim() == 4:
            source = arguments[1] if name == "copy_" else arguments[0]
            before, after = _is_channels_last(source), _is_channels_last(result)
            if before is not None and after is not None and before != after:
                self.turns.append(after)
        return result

    def faults(self, num_edges: int) -> Iterator[str]:
        if self.waits:
            each = f", {self.waits / num_edges:.1f} an edge" if num_edges else ""
            yield (
                f"the host waits for {self.waits} values a step{each} (.item(), float(), if tensor): "
                "leave them on the device"
            )
        back_and_forth = sum(one != other for one, other in pairwise(self.turns))
        if back_and_forth:
            yield (
                f"maps change between contiguous and channels-last memory {len(self.turns)} times a step: "
                "choose one layout for network and images"
            )


def _is_channels_last(tensor: object) -> bool | None:
    """``None`` if both layouts are the same, as for one channel or one pixel."""
    if not isinstance(tensor, Tensor) or tensor.dim() != 4:
        return None
    wide, plain = tensor.is_contiguous(memory_format=torch.channels_last), tensor.is_contiguous()
    return None if wide == plain else wide
