"""Compiles kernels in processes of their own, from any process.

Where ``TRITON_INTERPRET=1``, nothing can be compiled: the helpers of a kernel, and Triton's own ``tl.sum`` or
``tl.cdiv``, are interpreted functions, too. So a kernel is named here by its file and its name, and a fresh process
without that variable imports and compiles it. A crash of the compiler then ends only that process.
"""

import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from fastnas_audit.assembly import Assembly, Type
from fastnas_kernels.check import complaint, invalid


@dataclass(frozen=True)
class Reference:
    """A kernel by the module, the file and the name it is found under."""

    module: str
    file: str
    name: str


@dataclass(frozen=True)
class Job:
    """One kernel to compile for one target; the fields are the arguments of ``compile_for``."""

    kernel: Reference
    signature: Mapping[str, Type]
    target: str
    constants: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int | None = None
    maxnreg: int | None = None
    divisible_by_16: Sequence[str] | None = None


@dataclass(frozen=True)
class Failure:
    """Why a kernel could not be compiled, in the compiler's words."""

    message: str


def reference(kernel: Any) -> Reference:
    """Where to find ``kernel``, whatever ``triton.jit`` has made of it.

    Raises:
        ValueError: if it does not stand at the top of a module.
    """
    function = kernel
    while not inspect.isfunction(function):
        function = function.fn
    if "<locals>" in function.__qualname__:
        rule = "kernel must stand at the top of a module, where another process finds it"
        raise invalid("reference", rule, function.__qualname__)
    return Reference(function.__module__, inspect.getfile(function), function.__qualname__)


def assemblies(jobs: Sequence[Job], processes: int = 2) -> list[Assembly | Failure]:
    """Compile and audit each of ``jobs`` in one of ``processes`` fresh processes; results in the order of the jobs.

    Raises:
        RuntimeError: if a process ends early for another reason than a crash of the compiler, such as a file that it
            cannot import; with what it said last.
    """
    if processes < 1:
        raise invalid("assemblies", "processes must be at least 1", processes)
    results: list[Assembly | Failure | None] = [None] * len(jobs)
    with ThreadPoolExecutor(processes) as pool:
        for first, part in enumerate(pool.map(_compiled, [jobs[i::processes] for i in range(processes)])):
            results[first::processes] = part
    return [result for result in results if result is not None]


def _compiled(jobs: Sequence[Job]) -> list[Assembly | Failure]:
    """The results of ``jobs``, from one process, and after each crash of the compiler another one."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "fastnas_audit.worker"]
    results: list[Assembly | Failure] = []
    while len(results) < len(jobs):
        request = pickle.dumps(list(jobs[len(results) :]))
        done = subprocess.run(command, input=request, capture_output=True, env=environment, check=False)
        results += _pickles(done.stdout)
        said = done.stderr.decode(errors="replace").strip()[-2000:]
        if done.returncode < 0:  # a signal, raised by the compiler on the job after the last result
            results.append(Failure(f"the compiler crashed with signal {-done.returncode}: {said}"))
        elif done.returncode:
            raise RuntimeError(complaint("assemblies", "the compiling process must succeed", said))
    return results


def _pickles(stream: bytes) -> Iterator[Assembly | Failure]:
    file = BytesIO(stream)
    while file.tell() < len(stream):
        yield pickle.load(file)  # written by our own process a moment ago
