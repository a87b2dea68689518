"""What do the compiled cells change in a whole search, and what does the published code take for the same step?

Runs one search twice with the same seed: in plain PyTorch, and as the library chooses by itself. Prints processor
seconds of a search step (alpha and the weights; the median), of all else (start, evaluation and derivation), and how
far the two traces of alpha are apart; with --checkout also the step of the original code, first order, on a network
and batches of the same size. Then where the time of a search goes that is left.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, NamedTuple

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from fastnas.data import ImageData, load_data
from fastnas.engine import search
from fastnas.methods.library import METHODS
from fastnas.spaces.cell_space import DARTS
from fastnas.supernet.architecture import by_cell_type, draw_logits
from fastnas.training.config import SearchConfig
from fastnas_kernels.check import invalid
from measuring.device import HostDevice, forced
from measuring.foreign import foreign_module
from measuring.spent import shares
from measuring.writing import Section, provenance

CPU = torch.device("cpu")
BACKENDS: Mapping[str, str] = {"plain PyTorch": "reference", "as chosen": ""}


@dataclass(frozen=True, kw_only=True)
class BeforeAfter:
    """What to search with, and how far.

    Args:
        method: darts, pc_darts, ...
        data: digits, cifar10:ROOT or folder:ROOT.
        train_fraction: Class-balanced share of the training images; half of it trains weights, half alpha.
        channels: Channels of the first cells.
        cells: Depth.
        batch_size: Images a step, of each half.
        epochs: All of them move alpha.
        threads: Of the CPU; processor seconds are those of all threads together.
        checkout: Folder of the original code, whose module `model_search` defines
            ``Network(channels, classes, cells, criterion)``.
        steps: Steps of the original code.
        control: Also search in plain PyTorch without oneDNN, which rounds in another order: how far do roundings alone
            drive alpha apart?
    """

    method: str = "pc_darts"
    data: str = "digits"
    train_fraction: float = 1.0
    channels: int = 16
    cells: int = 5
    batch_size: int = 64
    epochs: int = 2
    threads: int = 1
    checkout: Path | None = None
    steps: int = 3
    control: bool = False


class Trace(NamedTuple):
    """Processor seconds of every step and of the whole search, and alpha at the start and at the end of every epoch."""

    steps: list[float]
    whole: float
    alpha: list[Tensor]

    @property
    def step(self) -> float:
        """The median."""
        return median(self.steps)

    @property
    def rest(self) -> float:
        """What is no step."""
        return self.whole - sum(self.steps)


def traced(settings: BeforeAfter, data: ImageData, epochs: int) -> Trace:
    """A search, observed."""
    method = METHODS[settings.method]()
    config = SearchConfig(
        channels=settings.channels,
        cells=settings.cells,
        epochs=epochs,
        warmup_epochs=0,
        batch_size=settings.batch_size,
        train_fraction=settings.train_fraction,
        device="cpu",
    )
    marks: list[float] = []
    begins: set[int] = set()
    records: list[Mapping[str, Any]] = []

    def on_step(done: int, total: int) -> None:
        marks.append(process_time())

    def on_epoch(record: Mapping[str, Any]) -> None:
        records.append(record)
        begins.add(len(marks))

    started = process_time()
    search(DARTS, method, data, config, on_step=on_step, on_epoch=on_epoch)
    whole = process_time() - started
    # An epoch's last step is reported after its evaluation, and its first one begins there
    last = {begin - 1 for begin in begins}
    steps = [after - before for number, (before, after) in enumerate(pairwise(marks), 1) if number not in last]
    beta = method.edge_normalisation
    logits = draw_logits(DARTS, beta, config.seed, CPU, method.alpha_init_mean, method.alpha_init_std)
    first = {name: x.tolist() for name, x in by_cell_type(logits, "alpha", lambda x: x).items()}
    return Trace(steps, whole, [_flat(first), *(_flat(record["alpha"]) for record in records)])


def _flat(alpha: Mapping[str, Any]) -> Tensor:
    return torch.cat([torch.tensor(alpha[cell_type]).flatten() for cell_type in sorted(alpha)])


def original(settings: BeforeAfter, data: ImageData) -> float:
    """Median processor seconds of the published step: alpha on one batch, then the weights on another."""
    assert settings.checkout is not None
    code: Any = foreign_module(settings.checkout, "model_search", CPU)
    net = code.Network(settings.channels, len(data.classes), settings.cells, nn.CrossEntropyLoss())
    sgd = torch.optim.SGD(net.parameters(), 0.025, 0.9, weight_decay=3e-4)
    adam = torch.optim.Adam(net._arch_parameters, 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    shape = settings.batch_size, 3, *data.resolution
    batches = [(torch.randn(shape), torch.randint(len(data.classes), shape[:1])) for _ in range(2)]

    def step() -> None:
        adam.zero_grad()
        F.cross_entropy(net(batches[1][0]), batches[1][1]).backward()  # with the gradients of the weights, as published
        adam.step()
        sgd.zero_grad()
        F.cross_entropy(net(batches[0][0]), batches[0][1]).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5)
        sgd.step()

    device = HostDevice(process_time)
    device.seconds(step)
    return median(device.seconds(step) for _ in range(settings.steps))


def main(settings: BeforeAfter) -> None:
    """Print all of it."""
    if settings.method not in METHODS:
        raise invalid("before_after", f"method must be among {', '.join(METHODS)}", settings.method)
    torch.set_num_threads(settings.threads)
    data = load_data(settings.data)
    observe = partial(traced, settings, data, settings.epochs)
    traces = {name: _on(backend, observe) for name, backend in BACKENDS.items()}
    for name, value in provenance(HostDevice().properties()).items():
        print(f"- {name}: {value}")
    before, now = traces.values()
    rows = [[name, *_numbers(trace, before)] for name, trace in traces.items()]
    if settings.checkout is not None:
        seconds = original(settings, data)
        rows.append(["published code", "", f"{1e3 * seconds:.0f}", f"{before.step / seconds:.2f}", "", ""])
    columns = ("search", "steps", "ms a step", "faster", "all else, s", "all, s")
    apart = ", ".join(f"{x:.1e}" for x in _distance(before.alpha, now.alpha)[1:])
    moved = _distance(before.alpha[-1:], before.alpha[:1])[0]
    if settings.control:
        with torch.backends.mkldnn.flags(enabled=False):
            control = _on(BACKENDS["plain PyTorch"], observe)
        drift = ", ".join(f"{x:.1e}" for x in _distance(before.alpha, control.alpha)[1:])
        print(f"plain PyTorch with and without oneDNN: alpha apart by at most {drift}\n")
    notes = (f"alpha of both after each epoch: apart by at most {apart}; it moved by {moved:.1e}",)
    print(Section("A search step", columns, rows, notes))
    found = _on("", lambda: shares(partial(traced, settings, data, 1)))
    print(Section("Where the time goes", ("one epoch, profiled", "share"), [[k, f"{v:.0%}"] for k, v in found.items()]))


def _on(backend: str, run: Callable[[], Any]) -> Any:
    with forced(backend):
        return run()


def _numbers(trace: Trace, before: Trace) -> list[str]:
    step = [f"{1e3 * trace.step:.0f}", f"{before.step / trace.step:.2f}"]
    return [str(len(trace.steps)), *step, f"{trace.rest:.1f}", f"{trace.whole:.1f}"]


def _distance(mine: list[Tensor], others: list[Tensor]) -> list[float]:
    return [(x - y).abs().max().item() for x, y in zip(mine, others, strict=True)]


if __name__ == "__main__":
    main(tyro.cli(BeforeAfter, description=__doc__))
