"""What a CUDA graph would do, without a GPU: a step as a list of operations on fixed memory.

:class:`Watched` notes what a step asks of the host; :func:`simulated_capture` repeats a step from the list alone.
"""

import traceback
from collections import Counter
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {Tensor.tolist, Tensor.item, Tensor.cpu, Tensor.numpy, Tensor.__bool__, Tensor.__float__, Tensor.__int__,
         Tensor.__index__}  # fmt: skip
TO_HOST = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "is_nonzero"}
FROM_HOST = {"lift_fresh", "lift_fresh_copy"}


class _Reads(TorchFunctionMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in READS:
            self.found[f"{func.__name__} in {_place()}"] += 1
        return func(*args, **(kwargs or {}))


class Watched(TorchDispatchMode):
    """Counts ``transfers`` between device and host by their places, and notes ``operations`` with all their numbers."""

    def __init__(self):
        super().__init__()
        self.transfers, self.operations = Counter(), []

    def __enter__(self):
        self.reads = _Reads(self.transfers)
        self.reads.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.reads.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._schema.name.split("::")[1]
        if name in TO_HOST or name in FROM_HOST:
            self.transfers[f"{name} in {_place()}"] += 1
        if any(isinstance(x, torch.Generator) for x in tree_leaves((args, kwargs))):
            self.transfers[f"a generator in {_place()}"] += 1
        if func.namespace != "profiler":
            self.operations.append((str(func), _sizes((args, kwargs)), _sizes(out)))
        return out


def _sizes(nest):
    """Sizes of tensors, and numbers as they are: a graph repeats both."""
    numbers = (int, float, str, torch.dtype)
    return tuple(
        tuple(x.shape) if isinstance(x, Tensor) else x if isinstance(x, numbers) else type(x) for x in tree_leaves(nest)
    )


def _place():
    """The innermost line of the library."""
    frames = [f for f in traceback.extract_stack() if "/fastnas/" in f.filename or "/fastnas_kernels/" in f.filename]
    return f"{frames[-1].filename.rsplit('/fastnas', 1)[1].lstrip('/')}: {frames[-1].name}" if frames else "a test"


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.namespace != "profiler":
            self.calls.append((func, args, kwargs, out))  # all stay, so no address is used twice
        return out


def simulated_capture(work):
    """Do ``work``, and undo what it moved: a capture moves nothing. Returns what repeats it in the same memory."""
    recorder, before = _Recorder(), {}
    with _kept(before), recorder:
        work()
    with torch.no_grad():
        for tensor, value in before.values():
            tensor.copy_(value)

    @torch.no_grad()
    def replay():
        for func, args, kwargs, out in recorder.calls:
            new = func(*args, **kwargs)
            if any(r.alias_info is not None for r in func._schema.returns) or func._schema.is_mutable:
                continue  # a view of the same memory, or moved in place already
            for theirs, ours in zip(tree_leaves(new), tree_leaves(out), strict=True):
                if isinstance(ours, Tensor) and not ours._is_zerotensor():
                    ours.copy_(theirs)

    return replay


class _Keeper(TorchDispatchMode):
    def __init__(self, before):
        super().__init__()
        self.before = before

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[place] if place < len(args) else kwargs.get(argument.name)
                for tensor in tree_leaves(value):
                    if isinstance(tensor, Tensor) and tensor.data_ptr() not in self.before:
                        self.before[tensor.data_ptr()] = (tensor, tensor.detach().clone())
        return func(*args, **kwargs)


@contextmanager
def _kept(before):
    with _Keeper(before):
        yield
