"""A device as a measurement sees it: it times a call, captures it as a graph and says what memory it took.

Everything else runs on any device, so a machine without a GPU can try all of it but these three.
"""

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import NamedTuple, Protocol, TypeVar

import torch
from triton import knobs
from triton.errors import TritonError

from fastnas_audit.interpreter import exact_bfloat16
from fastnas_kernels.check import complaint, invalid

T = TypeVar("T")

FAULTS = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError, TritonError)
"""What a contender may raise without ending the run: it is reported in its place in the table."""


class Memory(NamedTuple):
    """Bytes that a step took beside what was there before: kept when its forward pass had ended, and at most."""

    held: int
    peak: int


class Device(Protocol):
    """What measuring needs of a device."""

    @property
    def torch_device(self) -> torch.device: ...

    def properties(self) -> Mapping[str, str]:
        """What to print of it; ``name`` is among them."""
        ...

    def seconds(self, run: Callable[[], object]) -> float:
        """Seconds that the device takes for one call."""
        ...

    def forget(self) -> None:
        """Leave nothing useful in a GPU's second-level cache."""
        ...

    def captured(self, run: Callable[[], T]) -> Callable[[], T]:
        """``run`` as a graph that is replayed; raises ``RuntimeError`` where that cannot be."""
        ...

    def memory(self, forward: Callable[[], T], backward: Callable[[T], object]) -> Memory | None:
        """What a step takes; ``None`` where the device does not count."""
        ...


@dataclass(frozen=True)
class CudaDevice:
    """A GPU, timed by its own events."""

    torch_device: torch.device

    def properties(self) -> Mapping[str, str]:
        found = torch.cuda.get_device_properties(self.torch_device)
        return {
            "name": found.name,
            "compute capability": f"{found.major}.{found.minor}",
            "multiprocessors": str(found.multi_processor_count),
            "memory": f"{found.total_memory / 2**30:.1f} GiB",
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }

    def seconds(self, run: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def forget(self) -> None:
        size = 2 * torch.cuda.get_device_properties(self.torch_device).L2_cache_size
        torch.empty(size, dtype=torch.int8, device=self.torch_device).zero_()

    def captured(self, run: Callable[[], T]) -> Callable[[], T]:
        stream = torch.cuda.Stream(self.torch_device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # everything that is compiled, chosen or cached must be so before the capture
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()

        def replay() -> T:
            graph.replay()
            return result

        return replay

    def memory(self, forward: Callable[[], T], backward: Callable[[T], object]) -> Memory | None:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = forward()
        held = torch.cuda.memory_allocated() - before
        backward(result)
        torch.cuda.synchronize()
        return Memory(held, torch.cuda.max_memory_allocated() - before)


@dataclass(frozen=True)
class HostDevice:
    """The CPU: captures nothing and does not count memory.

    Args:
        clock: The wall's; or ``time.process_time``, the processor's own seconds, where a machine does other work.
    """

    clock: Callable[[], float] = perf_counter

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu")

    def properties(self) -> Mapping[str, str]:
        return {"name": f"cpu {platform.machine()}", "threads": str(torch.get_num_threads())}

    def seconds(self, run: Callable[[], object]) -> float:
        started = self.clock()
        run()
        return self.clock() - started

    def forget(self) -> None:
        pass

    def captured(self, run: Callable[[], T]) -> Callable[[], T]:
        rule = "a device must be a GPU to capture graphs"
        raise RuntimeError(complaint("HostDevice", rule, self.torch_device))

    def memory(self, forward: Callable[[], T], backward: Callable[[T], object]) -> Memory | None:
        backward(forward())
        return None


def device_named(name: str, where: str) -> Device:
    """``cuda``, ``cuda:1``, …, or ``cpu`` for trying a script with Triton's interpreter.

    Raises:
        ValueError: If ``name`` is no such device.
        RuntimeError: If it is not there, or Triton compiles and the device is the CPU, or interprets and it is a GPU.
    """
    if name != "cpu" and not name.startswith("cuda"):
        raise invalid(where, "device must be cuda, cuda:<n> or cpu", repr(name))
    interprets = bool(knobs.runtime.interpret)
    if name == "cpu":
        if not interprets:
            remedy = "Set TRITON_INTERPRET=1, which tries everything and measures nothing."
            raise RuntimeError(complaint(where, "on the CPU, Triton must interpret kernels", "a compiler", remedy))
        return HostDevice()
    if not torch.cuda.is_available():
        remedy = "Take --device cpu with TRITON_INTERPRET=1 to try the script."
        raise RuntimeError(complaint(where, "a GPU must be there", "none", remedy))
    if interprets:
        raise RuntimeError(complaint(where, "on a GPU, Triton must compile kernels", "TRITON_INTERPRET=1", "Unset it."))
    device = torch.device(name)
    torch.cuda.set_device(device)
    return CudaDevice(device)


def clock_of(device: torch.device) -> Device:
    """The clock of whatever device PyTorch computes on, kernels or not."""
    return HostDevice() if device.type == "cpu" else CudaDevice(device)


def interpreter() -> AbstractContextManager[None]:
    """A context in which Triton's interpreter, if that is what runs kernels, computes in bfloat16 as PyTorch does."""
    return exact_bfloat16() if knobs.runtime.interpret else nullcontext()


@contextmanager
def forced(backend: str) -> Iterator[None]:
    """``FASTNAS_BACKEND`` within the context."""
    before = os.environ.get("FASTNAS_BACKEND")
    os.environ["FASTNAS_BACKEND"] = backend
    try:
        yield
    finally:
        if before is None:
            del os.environ["FASTNAS_BACKEND"]
        else:
            os.environ["FASTNAS_BACKEND"] = before


@contextmanager
def exact_float32() -> Iterator[None]:
    """float32 convolutions and matrix products keep all their bits: what errors are compared in."""
    places = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # pyright: ignore[reportAttributeAccessIssue]
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "ieee"
    try:
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def medians(
    device: Device, contenders: Mapping[str, Callable[[], object]], runs: int, cold: bool = False
) -> dict[str, float]:
    """Median seconds of each contender. They run in turn, so that whatever slows the device down slows all of them.

    If ``cold``, the second-level cache has forgotten their arguments: what is small would else never leave it.
    """
    for contender in contenders.values():
        device.seconds(contender)
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, contender in contenders.items():
            if cold:
                device.forget()
            samples[name].append(device.seconds(contender))
    return {name: median(values) for name, values in samples.items()}
