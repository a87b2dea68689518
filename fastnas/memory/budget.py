"""How many bytes a search may take, from what a user says."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pynvml

from fastnas_kernels.check import complaint, require

WHERE = "plan"
MIB, GIB = 2**20, 2**30
GPUS: Mapping[str, int] = {
    "1080ti": 11178 * MIB,
    "3090": 24576 * MIB,
    "4090": 24564 * MIB,
    "t4": 15109 * MIB,
    "l4": 23034 * MIB,
    "v100-16gb": 16160 * MIB,
    "v100-32gb": 32510 * MIB,
    "a100-40gb": 40536 * MIB,
    "a100-80gb": 81251 * MIB,
    "h100": 81559 * MIB,
    "h200": 143771 * MIB,
}
"""What the driver of each card says that it has in all."""
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": MIB, "gib": GIB}
_CONTEXT = 640 * MIB  # of a process on a GPU: CUDA's context, and the workspaces of cuBLAS and cuDNN
_CUDA_SHARE = 0.92  # the rest is what an allocator of blocks loses
_HOST = 512 * MIB  # of the process itself: Python and PyTorch's libraries
_HOST_SHARE = 0.9  # the rest is for what operations hold inside themselves, and for the data


@dataclass(frozen=True)
class Budget:
    """Bytes.

    Args:
        text: What the user said.
        total: What there is.
        usable: What the tensors of a search may take of it.
        granularity: What the allocator rounds up to.
        why: What the difference is for.
    """

    text: str
    total: int
    usable: int
    granularity: int = 1
    why: str = "all of it is for tensors"


FreeBytes = Callable[[int], int]


def read_budget(text: str, free_on_gpu: FreeBytes | None = None) -> Budget:
    """The budget that ``text`` names.

    Args:
        text: A size as ``24GiB`` or ``8 GB``, all of which is for tensors; a GPU of :data:`GPUS` as ``H100``;
            ``cuda:N`` for what is free on that GPU now; or ``ram`` for what is free in this machine now. Of the last
            three a part is left to the process and its allocator.
        free_on_gpu: Asks a GPU; by default its driver.

    Raises:
        ValueError: If the text names nothing, or there is no such GPU or no driver.
    """
    word = text.strip().lower()
    if word == "ram":
        return _of_host(text, _available())
    if word == "cuda" or re.fullmatch(r"cuda:\d+", word):
        number = int(word.partition(":")[2] or 0)
        return _of_gpu(text, (free_on_gpu or free_bytes)(number))
    name = re.sub(r"nvidia|geforce|tesla|rtx|gtx|\s|_", "", word)
    if name in GPUS:
        return _of_gpu(text, GPUS[name])
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*([kmg]?i?b)", word)
    rule = f"budget must be a size as 24GiB, cuda:N, ram, or one of {', '.join(GPUS)}"
    require(match is not None and match[2] in _UNITS, WHERE, rule, repr(text))
    assert match is not None
    size = int(float(match[1]) * _UNITS[match[2]])
    require(size > 0, WHERE, rule, repr(text))
    return Budget(text, size, size)


def _of_gpu(text: str, total: int) -> Budget:
    usable = max(0, int((total - _CONTEXT) * _CUDA_SHARE))
    why = f"{_CONTEXT // MIB} MiB for CUDA's context and workspaces, and {1 - _CUDA_SHARE:.0%} for its allocator"
    return Budget(text, total, usable, 512, why)


def _of_host(text: str, total: int) -> Budget:
    usable = max(0, int((total - _HOST) * _HOST_SHARE))
    why = f"{_HOST // MIB} MiB for the process, and {1 - _HOST_SHARE:.0%} for what operations hold inside and for data"
    return Budget(text, total, usable, 1, why)


def _available() -> int:
    """Bytes that this machine, or the container around the process, can still give."""
    about = Path("/proc/meminfo")
    lines = about.read_text().splitlines() if about.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    free = found[0] if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def free_bytes(number: int) -> int:
    """What the driver says is free on the GPU that this process calls ``cuda:number``.

    Raises:
        ValueError: If there is no driver or no such GPU.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else None
    rule, remedy = f"cuda:{number} must exist", "Give a size as 24GiB, or the name of a GPU."
    try:
        pynvml.nvmlInit()
        try:
            name = str(number) if names is None else names[number].strip()
            by_number = pynvml.nvmlDeviceGetHandleByIndex
            handle = by_number(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)
            return int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)
        finally:
            pynvml.nvmlShutdown()
    except (pynvml.NVMLError, IndexError) as error:
        raise ValueError(complaint(WHERE, rule, str(error), remedy)) from None


def show_bytes(num_bytes: float) -> str:
    """Bytes as people read them."""
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.2f} {unit}" if num_bytes < 100 * size else f"{num_bytes / size:.0f} {unit}"
    return f"{num_bytes:.0f} B"
