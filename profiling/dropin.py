"""What does `fastnas.accelerate` change for other people's supernets? A table of any list of checkouts.

    python profiling/dropin.py darts/cnn "robust::src.model,src.spaces::Network(channels, 10, layers, SPACE)"

Each checkout is unmodified code: its folder, the modules to import (`model_search`), and what makes the network in
their names and in `channels` and `layers` (`Network(channels, 10, layers, None)`). A process each, for many use the
same names. First the accelerated network is compared with the unchanged one in float64; then both take turns in
float32: forward and backward, median time, and bytes saved for the backward pass, without the weights.
"""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Any, Literal, NamedTuple

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F
from tyro.conf import Positional

import fastnas
from measuring.counting import kept_bytes
from measuring.device import FAULTS, HostDevice, clock_of, medians
from measuring.foreign import copied, errors_of, foreign_module, patched


@dataclass(frozen=True, kw_only=True)
class DropIn:
    """Cost of foreign supernets, as they are and accelerated.

    Args:
        checkouts: FOLDER, FOLDER::MODULES or FOLDER::MODULES::EXPRESSION; modules are separated by commas. The
            expression is evaluated as Python and the folder's code is run: name only code that you trust.
        channels: Channels of the first cells.
        layers: Cells.
        batch_size: Images a step.
        resolution: Side of the images in pixels.
        runs: Timed runs of each contender.
        threads: Of the CPU.
        device: cpu or cuda.
        clock: ``processor`` counts the seconds that the processor worked, for a machine that does other work as
            well; say one thread then, and cpu.
    """

    checkouts: Positional[tuple[str, ...]]
    channels: int = 16
    layers: int = 8
    batch_size: int = 8
    resolution: int = 32
    runs: int = 5
    threads: int = 1
    device: str = "cpu"
    clock: Literal["wall", "processor"] = "wall"


class Row(NamedTuple):
    """What was found of one checkout; ``report`` is that of ``accelerate``."""

    name: str
    cells: int
    edges: int
    left: int
    proof_seconds: float
    seconds: tuple[float, float]
    saved: tuple[int, int]
    errors: tuple[float, float]
    report: str


def network_of(checkout: str, settings: DropIn) -> Any:
    """The network that a checkout describes."""
    given = checkout.split("::")
    folder, modules, expression = [*given, *("", "model_search", "Network(channels, 10, layers, None)")[len(given) :]]
    names: dict[str, Any] = {"channels": settings.channels, "layers": settings.layers}
    for module in modules.split(","):
        names |= vars(foreign_module(Path(folder), module, torch.device(settings.device)))
    return eval(expression, names)


def step(network: nn.Module, logits: list[Tensor], images: Tensor, labels: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward from the same seed: outputs, and the gradients of all weights and logits."""
    variables = list({id(x): x for x in (*network.parameters(), *logits)}.values())

    def run() -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        outputs = _last(network(images))
        found = torch.autograd.grad(F.cross_entropy(outputs, labels), variables, allow_unused=True)
        return outputs.detach(), *(
            torch.zeros_like(x) if g is None else g for x, g in zip(variables, found, strict=True)
        )

    return run


def _last(outputs: Any) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[-1]


def measure(checkout: str, settings: DropIn) -> Row:
    """The row of one checkout."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    device = torch.device(settings.device)
    network = network_of(checkout, settings).to(device)
    logits = [value for value in vars(network).values() if isinstance(value, Tensor)]
    shape = settings.batch_size, 3, settings.resolution, settings.resolution
    images, labels = torch.randn(shape, device=device), torch.randint(10, shape[:1], device=device)
    original, fast = copied(network), copied(network)
    started = process_time()
    report = fastnas.accelerate(fast)
    proof_seconds = process_time() - started
    few, exact = images[:2].double(), (copied(original).double(), copied(fast).double())
    precise = {name: x.detach().double().requires_grad_() for name, x in vars(network).items() if isinstance(x, Tensor)}
    results = []
    for net in exact:
        with patched(net, **precise):
            results.append(step(net, list(precise.values()), few, labels[:2])())
    contenders = {
        "as it is": step(original, logits, images, labels),
        "accelerated": step(fast, logits, images, labels),
    }
    clock = HostDevice(process_time) if settings.clock == "processor" else clock_of(device)
    seconds = medians(clock, contenders, settings.runs)
    saved = [kept_bytes(partial(_forward, net, images), net.parameters()) for net in (original, fast)]
    levels = [entry.level for entry in report.replaced]
    return Row(
        checkout.split("::", maxsplit=1)[0],
        levels.count("cell"),
        levels.count("edge"),
        len(report.left),
        proof_seconds,
        (seconds["as it is"], seconds["accelerated"]),
        (saved[0], saved[1]),
        errors_of(results[1], results[0]),
        str(report),
    )


def _forward(network: nn.Module, images: Tensor) -> Tensor:
    return _last(network(images))


def main(settings: DropIn) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    print(f"torch {torch.__version__}, {settings.device}, {settings.threads} threads, commit {commit.strip()}")
    print(f"{settings}\n")
    print("| checkout | cells | edges | left | proof, s | as it is, ms | accelerated, ms | faster | saved MB | after | "
          "error of outputs | of gradients |")  # fmt: skip
    print("| --- |" + " ---: |" * 11)
    reports = []
    for checkout in settings.checkouts:
        with get_context("spawn").Pool(1) as pool:
            try:
                row = pool.apply(measure, (checkout, settings))
            except FAULTS as error:
                print(f"| {checkout} | {type(error).__name__}: {(str(error).splitlines() or [''])[0]} |", flush=True)
                continue
        before, after = row.seconds
        numbers = (
            f"{row.cells} | {row.edges} | {row.left} | {row.proof_seconds:.1f} | {1e3 * before:.0f} | "
            f"{1e3 * after:.0f} | {before / after:.2f} | {row.saved[0] / 1e6:.0f} | {row.saved[1] / 1e6:.0f} | "
            f"{row.errors[0]:.0e} | {row.errors[1]:.0e}"
        )
        print(f"| {row.name} | {numbers} |", flush=True)
        reports.append(f"{row.name}: {row.report}")
    print("\n" + "\n".join(reports))


if __name__ == "__main__":
    main(tyro.cli(DropIn))
