"""One search in several processes: each computes on its part of every batch, and all take the same step.

Processes are started by torchrun (or anything that sets its environment variables), one a GPU or one a core. A batch
is the same whatever their number; rank ``r`` of ``R`` takes its ``r``-th part. Gradients are averaged where they
leave the losses, so alpha, weights and optimisers stay equal in all of them bit for bit, of first order or of second;
``fastnas_kernels.collectives`` says how.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from fastnas_kernels.check import complaint, invalid
from fastnas_kernels.collectives import averaged_loss, reduced, shared

WHERE = "ranks"
GRACE = 1.0  # seconds
PATIENCE = timedelta(minutes=30)  # for the slowest process, which may be reading a data set


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that run a search together.

    Args:
        index: Its rank, from zero.
        size: How many there are.
    """

    index: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.index == 0

    def own_name(self, name: str) -> str:
        """The name of a file of which every process has one."""
        stem, dot, suffix = name.rpartition(".")
        return name if self.is_first else f"{stem}.{self.index}{dot}{suffix}"

    def part(self, count: int) -> slice:
        """The part of ``count`` things in a row, a multiple of the number of ranks, that is this one's."""
        return slice(count * self.index // self.size, count * (self.index + 1) // self.size)

    def share(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors, equal in all processes; their gradients become the means of those of all."""
        if self.size == 1:
            return dict(tensors)
        return dict(zip(tensors, shared(list(tensors.values())), strict=True))

    def mean(self, loss: Tensor) -> Tensor:
        """The mean of a scalar over the processes; its gradient is that of this one's, see :meth:`share`."""
        return loss if self.size == 1 else averaged_loss(loss)

    def totals(self, *numbers: float) -> list[float]:
        """The sums over the processes, bit-equal in all of them."""
        if self.size == 1:
            return list(numbers)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        return reduced([torch.tensor(numbers, dtype=torch.float64, device=device)])[0].tolist()

    def require_same(self, what: str, text: str) -> None:
        """Raise in every process unless all of them hold the same ``text``."""
        if self.size == 1:
            return
        texts: list[str] = [""] * self.size
        dist.all_gather_object(texts, text)
        other = next((rank for rank, theirs in enumerate(texts) if theirs != texts[0]), None)
        got = "" if other is None else _difference(texts[0], texts[other])
        if other is not None:
            rule = f"{what} must be the same in every process"
            raise invalid(WHERE, rule, f"{got} on ranks 0 and {other}", "Start all of them with one command.")

    @contextmanager
    def first_before_others(self) -> Generator[None, None, None]:
        """Let the first process run the block alone, then the others: what it fetched is there for them."""
        if self.size > 1 and not self.is_first:
            dist.barrier()
        try:
            yield
        finally:
            if self.size > 1 and self.is_first:
                dist.barrier()

    def take_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all processes with those of the first."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def broadcast(self, text: str) -> str:
        """What the first process says, in all of them."""
        if self.size == 1:
            return text
        texts = [text]
        dist.broadcast_object_list(texts)
        return texts[0]


ALONE = Ranks()


def _difference(one: str, other: str) -> str:
    """The first place where two texts differ, a few words of each."""
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = max(one.rfind(",", 0, at), one.rfind("{", 0, at), 0)
    return f"{one[start : at + 30]!r} and {other[start : at + 30]!r}"


def is_restarted() -> bool:
    """Whether torchrun started these processes again after one of them had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def may_be_restarted() -> bool:
    """Whether torchrun would start these processes again."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def place_in_environment() -> Ranks:
    """The place that the environment gives to this process; alone if it gives none."""
    size = os.environ.get("WORLD_SIZE", "1")
    index = os.environ.get("RANK", "0")
    if not (size.isdecimal() and index.isdecimal() and int(index) < int(size)):
        rule = "the environment variables RANK and WORLD_SIZE must be numbers, RANK the smaller one"
        raise invalid(WHERE, rule, f"RANK={index} WORLD_SIZE={size}", "Let torchrun set them.")
    return Ranks(int(index), int(size))


def local_device(name: str) -> torch.device:
    """The device of this process: ``auto`` and ``cuda`` are the GPU of its number on its machine."""
    ranks, device = place_in_environment(), torch_device(name)
    if ranks.size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        rule = "device must be auto, cpu or cuda with several processes, each of which takes a GPU of its own"
        raise invalid(WHERE, rule, name)
    return torch_device(f"cuda:{os.environ.get('LOCAL_RANK', ranks.index)}")


@contextmanager
def join_processes(device: str) -> Generator[Ranks, None, None]:
    """Meet the other processes, if there are any, and part from them at the end.

    Args:
        device: Of the search: processes on GPUs exchange through NCCL, others through Gloo.

    Raises:
        ValueError: If there is no NCCL for processes on GPUs.
        ConnectionError: If they cannot meet.
    """
    ranks = place_in_environment()
    if ranks.size == 1:
        yield ranks
        return
    place = local_device(device)
    if place.type == "cuda":
        if not dist.is_nccl_available():
            remedy = "Install a build of PyTorch with NCCL, or set --device cpu."
            raise invalid(WHERE, "NCCL must be there for processes on GPUs", "none", remedy)
        torch.cuda.set_device(place)
    try:
        store, index, size = next(dist.rendezvous("env://", timeout=PATIENCE))  # pyright: ignore[reportPrivateImportUsage]
        # torchrun keeps the store when it starts processes again, and with it where the dead ones listened
        name = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        attempt = dist.PrefixStore(name, store)  # pyright: ignore[reportPrivateImportUsage]
        backend = "nccl" if place.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=attempt, rank=index, world_size=size, timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise ConnectionError(
            complaint(WHERE, "the processes must find each other", str(error), "Start them with torchrun.")
        ) from None
    before = _raise_when_told_to_end()
    places: list[tuple[str, int]] = [("", 0)] * size
    try:
        dist.all_gather_object(places, (socket.gethostname(), os.getpid()))
        yield ranks
    except (RuntimeError, ConnectionError, _Terminated) as error:
        if not _is_transport_error(error):
            raise
        _restore_signal(signal.SIG_IGN)  # torchrun tells whoever is left to end
        time.sleep(GRACE)  # until the operating system knows who has ended
        dead = [rank for rank, place in enumerate(places) if not _may_live(*place)]
        if ranks.index != next(rank for rank in range(size) if rank not in dead):
            raise SystemExit(1) from None  # one speaks for all
        if not dead and isinstance(error, _Terminated):
            raise SystemExit(128 + signal.SIGTERM) from None
        ended = [f"rank {rank} (process {places[rank][1]} on {places[rank][0]})" for rank in dead]
        got = f"the end of {' and '.join(ended)}" if ended else "a broken connection to another machine"
        remedy = "Everything up to the last checkpoint is kept: start all of them again, with --resume."
        raise ConnectionError(complaint(WHERE, "all processes must live until the end", got, remedy)) from None
    finally:
        _restore_signal(before)
        dist.destroy_process_group()


class _Terminated(BaseException):
    """This process was asked to end."""


def _raise_when_told_to_end() -> Any:
    """Let SIGTERM raise :class:`_Terminated` in the main thread; returns what it did before."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def handle(*_: object) -> None:
        raise _Terminated

    return signal.signal(signal.SIGTERM, handle)


def _restore_signal(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _is_transport_error(error: BaseException) -> bool:
    """Whether the exchange between processes broke."""
    text = str(error)
    return isinstance(error, ConnectionError | dist.DistError | _Terminated) or any(
        word in text for word in ("gloo", "NCCL", "Connection")
    )  # pyright: ignore[reportPrivateImportUsage]


def _may_live(host: str, pid: int) -> bool:
    """Whether a process runs; of another machine nobody knows."""
    if host != socket.gethostname():
        return True
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def require_divisible(ranks: Ranks, batch_size: int) -> None:
    """Raise unless every process gets as many images of a batch."""
    if batch_size % ranks.size != 0:
        rule = f"batch_size must be a multiple of the {ranks.size} processes, which share every batch"
        raise invalid(WHERE, rule, batch_size)


def digest_tensors(tensors: Sequence[Tensor]) -> str:
    """A text that is the same for equal numbers, and for others hardly ever."""
    return " ".join(float(x.detach().double().sum()).hex() for x in tensors)


def torch_device(name: str) -> torch.device:
    """The device that ``name`` means: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise invalid("device", "name must be auto, cpu or cuda[:N]", name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise invalid("device", f"{name} must exist", f"{torch.cuda.device_count()} GPUs", "Use --device cpu.")
    return device


def wait_for(device: torch.device) -> None:
    """Wait until ``device`` has done what it was given, as before the clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
