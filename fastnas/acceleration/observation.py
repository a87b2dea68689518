"""What a foreign forward reads, calls, draws and leaves behind, watched while it runs on a copy.

Equality at some inputs proves nothing about a forward that reads a schedule, branches on values or counts its calls.
So whatever it reads must be one of: arguments, modules that the engine evaluates too, plain values that are compared
again before every step (guards), and code. Whatever it computes must be made of operations for which equality at
random points means equality: sums, products, views, and the layers of the candidates.
"""

import inspect
import sys
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastnas.acceleration.guards import OF_EVERY_MODULE, Guard, guard_reads, is_same, read_state, require_untouched
from fastnas.acceleration.primitives import Unrecognised
from fastnas.acceleration.source import guard_code, is_foreign, read_words
from fastnas_kernels.tensors import storage_id

_OPERATIONS = read_words("""
    add add_ sub sub_ rsub mul mul_ div div_ neg sum mean mm bmm addmm mv dot

    view _unsafe_view reshape _reshape_alias select slice split split_with_sizes unbind transpose t permute squeeze
    unsqueeze expand alias as_strided clone _to_copy copy_ cat stack index index_select detach lift_fresh narrow
    channel_shuffle native_channel_shuffle pixel_shuffle pixel_unshuffle

    zeros zeros_like new_zeros empty empty_like zero_ fill_ ones ones_like new_ones full full_like scalar_tensor arange

    convolution convolution_overrideable mkldnn_convolution cudnn_convolution relu relu_ constant_pad_nd
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update
    cudnn_batch_norm miopen_batch_norm _batch_norm_no_update max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d
""")
"""Sums and products, views and copies, constants, and the layers of candidates."""
_NORMALISATIONS = read_words("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training")
_ELEMENTWISE = read_words("add mul relu")
_TENSOR_FILE = inspect.getfile(Tensor.__len__)
_COMPARISONS = read_words("ne eq gt lt ge le is_nonzero any all nonzero argmax argmin logical_not logical_and abs")
_HOST_READS = read_words("item tolist numpy __bool__ __float__ __int__ __index__ __array__ is_nonzero equal allclose")
_OF_TENSORS = read_words("requires_grad grad grad_fn is_leaf _version register_hook retain_grad requires_grad_")
_SHAPES = read_words("shape size __len__ dim ndim numel stride is_contiguous nbytes storage_offset")


@dataclass(frozen=True)
class Observation:
    """What a forward depends on beside its arguments and weights.

    Args:
        guards: Plain values that it read.
        modes: Names of the parts whose ``training`` it read.
        reads_coefficients: Whether it looked at the values of its coefficients.
        reads_shapes: Whether it looked at the shapes of tensors.
    """

    guards: tuple[Guard, ...]
    modes: tuple[str, ...]
    reads_coefficients: bool
    reads_shapes: bool


def observe(
    module: nn.Module,
    forward: Callable[[], object],
    coefficients: Sequence[Tensor],
    evaluated: Collection[str],
    by_themselves: Sequence[nn.Module],
    method: str,
    drops: bool = False,
) -> Observation:
    """Run ``forward`` of ``module`` once and report what it depends on.

    Args:
        module: A copy that may be run.
        forward: Runs it.
        coefficients: Those tensors among its arguments whose values it may look at.
        evaluated: Names of the parts whose weights the engine takes.
        by_themselves: Parts that run themselves also beside the engine, so that what they read does not matter.
        method: That ``forward`` calls.
        drops: Whether it may draw as drop-path does.

    Raises:
        Unrecognised: If it depends on anything else, or leaves something behind.
    """
    exempt = {id(part) for root in by_themselves for part in root.modules()}
    parts = {name: part for name, part in module.named_modules() if id(part) not in exempt}
    before = {name: read_state(part) for name, part in parts.items()}
    counters = [x for name, x in module.named_buffers() if name.endswith("num_batches_tracked")]
    calls = _Calls(coefficients, counters, _OPERATIONS | {"new_empty", "bernoulli_"} if drops else _OPERATIONS)
    reads = _watch(parts, by_themselves, calls, forward)
    for name, part in parts.items():
        require_untouched(name or type(module).__name__, before[name], read_state(part))
    if calls.refused:
        raise Unrecognised(calls.refused)
    guards, modes = guard_reads(parts, reads, evaluated)
    guards += guard_code(parts, reads | {("", method)}, drops)
    for guard in guards:
        if not is_same(guard.read(module), guard.value):
            raise Unrecognised(f"its forward changes {guard}")
    return Observation(tuple(guards), tuple(modes), calls.reads_coefficients, calls.reads_shapes)


def _watch(
    parts: dict[str, nn.Module], by_themselves: Sequence[nn.Module], calls: "_Calls", forward: Callable[[], object]
) -> set[tuple[str, str]]:
    """Attributes of parts that were read, as ``(name of the part, attribute)``."""
    reads: set[tuple[str, str]] = set()
    names = {id(part): name for name, part in parts.items()}
    depth = [0]

    def note(part: nn.Module, attribute: str) -> None:
        if not depth[0] and attribute not in OF_EVERY_MODULE:
            reads.add((names[id(part)], attribute))

    def enter(*_: object) -> None:
        depth[0] += 1
        calls.paused = True

    def leave(*_: object) -> None:
        depth[0] -= 1
        calls.paused = depth[0] > 0

    with ExitStack() as stack:
        for part in by_themselves:
            for handle in (part.register_forward_pre_hook(enter), part.register_forward_hook(leave)):
                stack.callback(handle.remove)
        for part in parts.values():
            stack.enter_context(_noting(part, note))
        stack.enter_context(_Reads(calls))
        stack.enter_context(calls)
        forward()
    return reads


@contextmanager
def _noting(part: nn.Module, note: Callable[[nn.Module, str], None]) -> Generator[None, None, None]:
    """``part`` tells ``note`` of every attribute that is read of it."""
    kind = type(part)
    try:
        part.__class__ = _make_noting_class(kind)
    except TypeError as error:
        raise Unrecognised(f"{kind.__name__} cannot be watched: {error}") from None
    _NOTES[id(part)] = note
    try:
        yield
    finally:
        part.__class__ = kind
        del _NOTES[id(part)]


_NOTES: dict[int, Callable[[nn.Module, str], None]] = {}


@lru_cache(maxsize=256)
def _make_noting_class(kind: type) -> type:
    def __getattribute__(self: nn.Module, name: str) -> object:
        note = _NOTES.get(id(self))
        if note is not None:
            note(self, name)
        return kind.__getattribute__(self, name)  # type: ignore[attr-defined]

    return type(kind.__name__, (kind,), {"__getattribute__": __getattribute__, "__module__": kind.__module__})


class _Mode(TorchDispatchMode):
    """Is never compiled, so that PyTorch need not load its compiler, which takes seconds."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _Calls(_Mode):
    """Refuses operations that equality at random points says nothing about, and values that the host reads."""

    def __init__(self, coefficients: Sequence[Tensor], counters: Sequence[Tensor], allowed: Collection[str]) -> None:
        super().__init__()
        self.allowed = allowed
        self.refused = ""
        self.reads_coefficients = self.reads_shapes = False
        self.paused = False
        self._known = {storage_id(x) for x in coefficients}
        self._decided: set[int] = set()
        self._counters = {storage_id(x) for x in counters}
        self._alive: list[object] = list(coefficients)

    def read(self, tensor: Tensor) -> None:
        """The host reads the values of ``tensor``."""
        if self.paused or storage_id(tensor) in self._counters:
            return
        if storage_id(tensor) in self._known | self._decided:
            self.reads_coefficients = True
        else:
            self.refuse("its forward looks at the values of its images")

    def refuse(self, reason: str) -> None:
        self.refused = self.refused or reason

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        if self.paused:
            return result
        name = function.overloadpacket.__name__
        inputs = [x for x in tree_leaves((arguments, options)) if isinstance(x, Tensor)]
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        self._alive += outputs
        if name == "_local_scalar_dense":
            self.read(inputs[0])
            return result
        keys = {storage_id(x) for x in inputs}
        if name in _COMPARISONS and keys and keys <= self._known | self._decided:
            self._decided |= {storage_id(x) for x in outputs}
        elif keys & self._decided and not all(storage_id(x) in keys for x in outputs):
            self.refuse(f"its forward computes with a comparison of its coefficients ({name})")
        elif name not in self.allowed:
            self.refuse(f"its forward calls {name}, which the engine does not")
        elif keys and keys <= self._known:
            self._known |= {storage_id(x) for x in outputs}
        return result


class _Reads(TorchFunctionMode):
    """Sees what Python asks tensors for without an operation."""

    def __init__(self, calls: _Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = function.__name__
        if name in ("__get__", "__set__"):
            name = getattr(function.__self__, "__name__", name)
        if not self.calls.paused:
            if name in _HOST_READS:
                for tensor in tree_leaves(arguments):
                    if isinstance(tensor, Tensor):
                        self.calls.read(tensor)
            elif name in _SHAPES and _caller_is_foreign():
                self.calls.reads_shapes = True
            elif name in _OF_TENSORS and _caller_is_foreign():
                self.calls.refuse(f"its forward asks a tensor for {name}")
        return function(*arguments, **(options or {}))


_ARITHMETIC, _TESTS, _OTHERS = (
    [f"__{name}__" for name in text.split()]
    for text in (
        "add radd sub rsub mul rmul truediv rtruediv neg pos",
        "lt le gt ge eq ne bool",
        "float int hash round trunc floor ceil abs pow rpow mod rmod divmod rdivmod floordiv rfloordiv str repr format",
    )
)


class Probability(float):
    """A number between 0 and 1 that notes what a forward does with it beside sums, products and quotients.

    Comparisons that come out the same for all such numbers are not noted: ``p > 0``, and ``1 - p > 0``.

    Args:
        value: The number.
        uses: What was done with it and with all numbers that were computed from it.
        is_share: Whether it lies between 0 and 1 whatever the probability is.
    """

    uses: list[str]
    is_share: bool

    def __new__(cls, value: float, uses: list[str] | None = None, is_share: bool = True) -> "Probability":
        self = super().__new__(cls, value)
        self.uses, self.is_share = [] if uses is None else uses, is_share
        return self

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__") and name not in ("uses", "is_share"):
            self.uses.append(name)
        return super().__getattribute__(name)

    def _watch_method(name: str) -> Any:  # type: ignore[misc]
        def method(self: "Probability", *others: Any) -> Any:
            result = getattr(float, name)(self, *others)
            if name in _ARITHMETIC:
                share = name == "__rsub__" and self.is_share and others[0] == 1
                return Probability(result, self.uses, share) if type(result) is float else result
            if not (name in _TESTS and self.is_share and all(number <= 0 or number >= 1 for number in others)):
                self.uses.append(name)
            return result

        return method

    for _name in (*_ARITHMETIC, *_TESTS, *_OTHERS):
        locals()[_name] = _watch_method(_name)
    del _name, _watch_method


def _caller_is_foreign() -> bool:
    frame: Any = sys._getframe(2)
    while frame.f_code.co_filename == _TENSOR_FILE:  # methods of tensors that are written in Python
        frame = frame.f_back
    return is_foreign(frame.f_code)


class _Names(_Mode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = function.overloadpacket.__name__
        self.names.append(name)
        if name in _NORMALISATIONS:  # PyTorch works out these shapes by a decomposition, which takes half of all time
            x = arguments[0]
            return torch.empty_like(x), x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
        if name in _ELEMENTWISE:
            tensors = [x for x in arguments if isinstance(x, Tensor)]
            return tensors[0].new_empty(torch.broadcast_shapes(*(x.shape for x in tensors)))
        return function(*arguments, **(options or {}))


def operations(forward: Callable[[], object]) -> list[str]:
    """Names of the operations that ``forward`` calls on tensors of the meta device, in order."""
    with _Names() as called, torch.no_grad():
        forward()
    return called.names
