"""How many bytes a search may take, from what a user says."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import psutil
import torch
from pydantic import ByteSize, TypeAdapter, ValidationError

from fastnas.errors import invalid

WHERE = "plan"
Target = Literal["cuda", "cpu"]
"""Whose kernels and allocator a plan is for."""
MIB, GIB = 2**20, 2**30
_GAMES, _ECC = 0.975, 0.92  # of the nominal size that drivers leave, without and with error correction in GDDR memory
_NOMINAL: Mapping[str, tuple[float, float]] = {
    "1070": (8, _GAMES), "1080": (8, _GAMES), "1080ti": (11, _GAMES), "1660": (6, _GAMES),
    "2060": (6, _GAMES), "2070": (8, _GAMES), "2080": (8, _GAMES), "2080ti": (11, _GAMES), "titanrtx": (24, _GAMES),
    "3050": (8, _GAMES), "3060": (12, _GAMES), "3060ti": (8, _GAMES), "3070": (8, _GAMES), "3070ti": (8, _GAMES),
    "3080": (10, _GAMES), "3080-12gb": (12, _GAMES), "3080ti": (12, _GAMES), "3090": (24, _GAMES),
    "3090ti": (24, _GAMES), "4060": (8, _GAMES), "4060ti": (8, _GAMES), "4060ti-16gb": (16, _GAMES),
    "4070": (12, _GAMES), "4070super": (12, _GAMES), "4070ti": (12, _GAMES), "4070tisuper": (16, _GAMES),
    "4080": (16, _GAMES), "4080super": (16, _GAMES), "4090": (24, _GAMES), "5060": (8, _GAMES),
    "5060ti": (8, _GAMES), "5060ti-16gb": (16, _GAMES), "5070": (12, _GAMES), "5070ti": (16, _GAMES),
    "5080": (16, _GAMES), "5090": (32, _GAMES), "a2000": (12, _ECC), "a4000": (16, _ECC), "a4500": (20, _ECC),
    "a5000": (24, _ECC), "a6000": (48, _ECC), "4000ada": (20, _ECC), "6000ada": (48, _ECC), "t4": (16, _ECC),
    "a2": (16, _ECC), "a10": (24, _ECC), "a10g": (24, _ECC), "l4": (24, _ECC), "a16": (16, _ECC), "a40": (48, _ECC),
    "l40": (48, _ECC), "l40s": (48, _ECC), "p100": (16, _GAMES), "a30": (24, _GAMES), "v100-16gb": (16, _GAMES),
    "v100-32gb": (32, _GAMES), "a100-40gb": (40, _GAMES), "a100-80gb": (80, _GAMES), "h100": (80, _GAMES),
    "h100nvl": (94, _GAMES), "h200": (141, _GAMES), "b200": (180, _GAMES),
}  # fmt: skip
GPUS: Mapping[str, int] = {name: int(gb * share * GIB) for name, (gb, share) in _NOMINAL.items()}
"""About what the driver of each card says that it has in all, never more: GiB of its data sheet and a share of them."""
_CONTEXT = 640 * MIB  # of a process on a GPU: CUDA's context, and the workspaces of cuBLAS and cuDNN
_CUDA_SHARE = 0.92  # the rest is what an allocator of blocks loses
_HOST = 512 * MIB  # of the process itself: Python and PyTorch's libraries
_HOST_SHARE = 0.9  # the rest is for what operations hold inside themselves, and for the data
_SIZE = TypeAdapter(ByteSize)


@dataclass(frozen=True)
class Budget:
    """Bytes.

    Args:
        text: What the user said.
        total: What there is.
        usable: What the tensors of a search may take of it.
        target: Whose memory it is: of a GPU (``"cuda"``) or of the machine (``"cpu"``).
        why: What the difference is for.
    """

    text: str
    total: int
    usable: int
    target: Target = "cpu"
    why: str = "all of it is for tensors"

    @property
    def granularity(self) -> int:
        """What the allocator rounds up to, in bytes."""
        return 512 if self.target == "cuda" else 1


FreeBytes = Callable[[int], int]


def read_budget(text: str | None, target: Target | None = None, free_on_gpu: FreeBytes | None = None) -> Budget:
    """The budget that ``text`` names. A part is left to the process and to its allocator.

    Args:
        text: A size such as ``24GiB`` or ``8 GB``; a GPU by its name such as ``RTX 4090``; ``cuda:N`` for what is free
            on that GPU now; ``ram`` for what is free in this machine now, ``16GB ram`` for that much of it; ``None``
            for what is free on the GPU of this machine, or in the machine if it has none.
        target: ``cuda`` or ``cpu``: whose kernels the plan is for. By default what ``text`` says.
        free_on_gpu: Asks a GPU; by default PyTorch.

    Raises:
        ValueError: If the text names nothing, contradicts ``target``, or there is no such GPU.
    """
    if text is None:
        text = "cuda" if (torch.cuda.is_available() if target is None else target == "cuda") else "ram"
    word = re.sub(r"\s+", " ", text.strip().lower())
    if re.fullmatch(r"cuda(:\d+)?", word):
        _require_target(text, target, "cuda")
        return _budget_gpu(text, (free_on_gpu or read_free_bytes)(int(word.partition(":")[2] or 0)))
    if _bare(word) in _BY_BARE_NAME:
        _require_target(text, target, "cuda")
        return _budget_gpu(text, GPUS[_BY_BARE_NAME[_bare(word)]])
    size, _, of_ram = word.rpartition(" ") if word.endswith(" ram") else (word, "", word if word == "ram" else "")
    if of_ram:
        _require_target(text, target, "cpu")
    if word == "ram":
        return _budget_host(text, _available())
    total = _read_size(text, size)
    return _budget_host(text, total) if of_ram or target == "cpu" else _budget_gpu(text, total)


def _bare(name: str) -> str:
    return re.sub(r"nvidia|geforce|tesla|quadro|rtx|gtx|[\s_-]", "", name)


_BY_BARE_NAME = {_bare(name): name for name in GPUS}


def _read_size(text: str, size: str) -> int:
    rule = "--budget must be a size such as 24GiB, one such as '16GB ram', cuda:N, ram, or the name of a GPU"
    try:
        found = 0 if re.fullmatch(r"[\d.]*", size) else int(_SIZE.validate_python(size))
    except (ValidationError, OverflowError):
        found = 0
    if found <= 0:
        if re.fullmatch(r"[\d.]+", size):
            cards = get_close_matches(size, _BY_BARE_NAME, 1, 0.7) if len(size) > 3 else []
            names = " or ".join([*cards, f"{size}GiB"] if len(size) < 10 else cards or ["24GiB"])
            raise invalid(WHERE, rule, repr(text if len(text) < 40 else f"{text[:40]}..."), f"Did you mean {names}?")
        bare = "" if re.search(r"\d[kmgt]i?b?$", size) else _bare(size)
        close = [b for b in _BY_BARE_NAME if bare and b.startswith(bare)]
        close = close or get_close_matches(bare, [*_BY_BARE_NAME, "ram", "cuda"], 1, 0.6)
        names = " or ".join(_BY_BARE_NAME.get(b, b) for b in close)
        remedy = f"Did you mean {names}?" if names else "Cards have names such as 4090 or a100-80gb."
        raise invalid(WHERE, rule, repr(text if len(text) < 40 else f"{text[:40]}..."), remedy)
    return found


def _require_target(text: str, target: Target | None, own: Target) -> None:
    if target is not None and target != own:
        whose = "the machine, whose CPU" if target == "cpu" else "a GPU, which"
        remedy = f"Give a size such as {'16GB ram' if target == 'cpu' else '24GiB'}, or plan --for {own}."
        raise invalid(WHERE, f"--budget must be memory of {whose} the plan is for", repr(text), remedy)


def _budget_gpu(text: str, total: int) -> Budget:
    usable = max(0, int((total - _CONTEXT) * _CUDA_SHARE))
    why = f"{_CONTEXT // MIB} MiB are for CUDA's context and workspaces, and {1 - _CUDA_SHARE:.0%} for its allocator"
    return Budget(text, total, usable, "cuda", why)


def _budget_host(text: str, total: int) -> Budget:
    usable = max(0, int((total - _HOST) * _HOST_SHARE))
    shares = f"{_HOST // MIB} MiB are for the process, and {1 - _HOST_SHARE:.0%}"
    return Budget(text, total, usable, "cpu", f"{shares} for what operations hold inside and for data")


def _available() -> int:
    """Bytes that this machine, or the container around the process, of which psutil does not know, can still give."""
    free = psutil.virtual_memory().available
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def read_free_bytes(number: int) -> int:
    """What is free on ``cuda:number``."""
    if number >= torch.cuda.device_count():
        remedy = "Give a size such as 24GiB, or the name of a GPU."
        raise invalid(WHERE, f"cuda:{number} must exist", f"{torch.cuda.device_count()} GPUs", remedy)
    return torch.cuda.mem_get_info(number)[0]


def show_bytes(num_bytes: float) -> str:
    """Bytes as people read them: two digits behind the point below 100, where ``ByteSize`` has one."""
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.2f} {unit}" if num_bytes < 100 * size else f"{num_bytes / size:.0f} {unit}"
    return f"{num_bytes:.0f} B"
