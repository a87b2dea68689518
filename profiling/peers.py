"""How does somebody else's supernet run as published, in PyTorch's faster forms, and after `fastnas.accelerate`?

All contenders run in one process with equal threads, in turn. First the accelerated network is compared with the
published one in float64: outputs and all gradients; with --architect also the second-order gradient of alpha. Prints
medians and ratios, bytes saved for the backward pass (without weights), the arithmetic floor at this machine's own
rate of matrix products, and where the time of the accelerated network goes. --growth draws how cost grows instead.
"""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from types import SimpleNamespace
from typing import Any, Literal

import matplotlib
import torch
import tyro
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import fastnas
from fastnas.bilevel.hypergradient import UnrolledByDifferences, unrolled
from fastnas.bilevel.problem import Bilevel, SgdStep, Tensors
from fastnas_kernels.check import complaint
from measuring.counting import kept_bytes
from measuring.device import HostDevice, medians
from measuring.foreign import copied, errors_of, foreign_module, logits_of, patched, step
from measuring.spent import shares

CPU = torch.device("cpu")
EXACT = 1e-9
"""Relative, in float64, of logits and gradients: eight cells of normalisations amplify roundings of 1e-16."""
WEIGHT_STEP = SgdStep(lr=0.025, momentum=0.9, weight_decay=3e-4)
GROWTH = {
    "batch_size": (1, 2, 4, 8, 16),
    "channels": (4, 8, 16, 32),
    "layers": (3, 4, 5, 8),
    "resolution": (8, 16, 32),
    "threads": (1, 2),
}


@dataclass(frozen=True, kw_only=True)
class Peers:
    """What to measure.

    Args:
        checkout: Folder of the foreign code; its modules are imported by their bare names.
        module: The one that defines ``Network(channels, classes, layers, criterion)``.
        channels: Channels of the first cells.
        layers: Cells.
        batch_size: Images a step.
        resolution: Side of the images in pixels.
        runs: Timed runs of each contender.
        threads: Of the CPU.
        clock: ``processor`` counts the seconds that the processor worked, for a machine that does other work as
            well; say one thread then.
        compiled: What ``torch.compile`` is given in a further contender, which may take many minutes.
        architect: Time a whole second-order step instead, next to the ``Architect`` of this module of the foreign code.
        growth: Draw how the time of a step grows into this file instead, one setting varied at a time.
    """

    checkout: Path
    module: str = "model_search"
    channels: int = 16
    layers: int = 8
    batch_size: int = 16
    resolution: int = 32
    runs: int = 5
    threads: int = 2
    clock: Literal["wall", "processor"] = "wall"
    compiled: Literal["nothing", "edges", "cells", "whole"] = "nothing"
    architect: str | None = None
    growth: Path | None = None


@dataclass(frozen=True)
class Task:
    """A foreign network, its logits and its batches, the second one for the weights of a second-order step."""

    network: nn.Module
    logits: list[Tensor]
    batches: list[tuple[Tensor, Tensor]]
    settings: Peers = field(repr=False)

    @property
    def device(self) -> HostDevice:
        """What times a call."""
        return HostDevice(perf_counter if self.settings.clock == "wall" else process_time)


def task(settings: Peers) -> Task:
    """The same weights, logits and images every time."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    code: Any = foreign_module(settings.checkout, settings.module, CPU)
    network = code.Network(settings.channels, 10, settings.layers, nn.CrossEntropyLoss())
    shape = settings.batch_size, 3, settings.resolution, settings.resolution
    batches = [(torch.randn(shape), torch.randint(10, shape[:1])) for _ in range(2)]
    return Task(network, network._arch_parameters, batches, settings)


def in_float64(settings: Peers) -> Task:
    """The same with two images and everything, logits too, in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return task(replace(settings, batch_size=2))
    finally:
        torch.set_default_dtype(before)


def wide(x: Any) -> Any:
    """A network or images in the memory format that PyTorch's CPU kernels prefer."""
    return copied(x).to(memory_format=torch.channels_last) if isinstance(x, nn.Module) else x.to(
        memory_format=torch.channels_last
    )  # fmt: skip


def accelerated(network: nn.Module) -> nn.Module:
    """A copy on the engine of fastnas; all of its cells must have been taken."""
    fast = copied(network)
    report = fastnas.accelerate(fast)
    if not report.replaced or report.left:
        raise RuntimeError(complaint("peers", "every cell must be accelerated", report))
    return fast


def check(given: Task) -> None:
    """Outputs and all first-order gradients of the accelerated network are those of the published one, in float64."""
    exact = in_float64(given.settings)
    images, labels = exact.batches[0]
    networks = exact.network, accelerated(exact.network)
    results = [step(net, exact.logits, images, labels)() for net in networks]
    errors = errors_of(results[1], results[0])
    if not max(errors) <= EXACT:
        raise RuntimeError(complaint("peers", f"errors of outputs and gradients must be at most {EXACT}", errors))
    print(f"float64, equal to the published network: outputs to {errors[0]:.0e}, gradients to {errors[1]:.0e}\n")


def first_order(given: Task) -> None:
    """The table of a forward and backward pass, the floor and where the time goes."""
    settings, (images, labels) = given.settings, given.batches[0]
    fast = accelerated(given.network)
    networks = {
        "as published": (copied(given.network), images),
        "as published, channels_last": (wide(given.network), wide(images)),
        "accelerated": (fast, images),
        "accelerated, channels_last": (wide(fast), wide(images)),
    }
    contenders = {name: step(net, given.logits, x, labels) for name, (net, x) in networks.items()}
    num_bytes = {name: kept_bytes(partial(net, x), net.parameters()) for name, (net, x) in networks.items()}
    if settings.compiled != "nothing":
        name, started = f"as published, {settings.compiled} compiled", perf_counter()
        contenders[name] = step(compiled(given.network, settings.compiled), given.logits, images, labels)
        contenders[name]()
        print(f"torch.compile took {perf_counter() - started:.0f} s")
    seconds = medians(given.device, contenders, settings.runs)
    base = "as published"
    print("| network | ms | faster | saved MB | fewer |\n| --- | ---: | ---: | ---: | ---: |")
    for name, value in seconds.items():
        saved = f"{num_bytes[name] / 1e6:.0f} | {num_bytes[base] / num_bytes[name]:.1f}" if name in num_bytes else "|"
        print(f"| {name} | {1e3 * value:.0f} | {seconds[base] / value:.2f} | {saved} |")
    floor(given, seconds["accelerated"])
    where(contenders["accelerated"])


def compiled(network: nn.Module, what: str) -> Any:
    """A compiled copy: as a whole, or each of its cells or of their edges, which the code of DARTS calls ``_ops``."""
    net: Any = copied(network)
    torch._dynamo.config.recompile_limit = 64  # cells of one class have several shapes
    if what == "whole":
        return torch.compile(net, dynamic=False)
    for part in net.cells if what == "cells" else (edge for cell in net.cells for edge in cell._ops):
        part.compile(dynamic=False)  # else the second shape asks for kernels of any shape, and inductor fails
    return net


def floor(given: Task, seconds: float) -> None:
    """Arithmetic of a step, three times that of the forward pass, at the rate of a large matrix product."""
    counted = []

    def count(layer: nn.Module, _: object, y: Tensor) -> None:
        weight: Any = layer.weight
        counted.append(2 * y.numel() * weight[0].numel())

    net, (images, _) = copied(given.network), given.batches[0]
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        net(images)
    a, b = torch.randn(2, 1024, 1024)
    rate = 2 * 1024**3 / medians(given.device, {"product": lambda: a @ b}, 20)["product"]
    least = 3 * sum(counted) / rate
    print(f"\narithmetic floor: {3 * sum(counted) / 1e9:.1f} GFLOP at {rate / 1e9:.0f} GFLOP/s = {1e3 * least:.0f} ms; "
          f"the accelerated network takes {seconds / least:.1f} times that")  # fmt: skip


def where(run: Callable[[], object]) -> None:
    """What the time of a step is spent on."""
    print("\n| where the time of `accelerated` goes (one step, profiled) | share |\n| --- | ---: |")
    for kind, share in shares(run).items():
        print(f"| {kind} | {share:.0%} |")


def second_order(given: Task, architect: str) -> None:
    """The table of a whole second-order step: alpha by its unrolled objective, then the weights."""
    code: Any = foreign_module(given.settings.checkout, architect, CPU)
    torch.set_default_dtype(torch.float64)  # the published code makes a second network of the default dtype
    gradients = [alpha_gradients(in_float64(given.settings), code, name) for name in ("published", "differences")]
    torch.set_default_dtype(torch.float32)
    apart = max(((a - b).norm() / a.norm()).item() for a, b in zip(*gradients, strict=True))
    print(f"second-order gradient of alpha, float64: equal to the published architect's to {apart:.0e}\n")
    if not apart <= 1e-6:  # a difference of two gradients, divided by a small radius
        raise RuntimeError(complaint("peers", "second-order gradients must be equal to 1e-6", apart))
    contenders = {
        "published architect": whole_step(given, code, "published", copied(given.network)),
        "published architect, accelerated network": whole_step(given, code, "published", accelerated(given.network)),
        "fastnas, difference as published": whole_step(given, code, "differences", accelerated(given.network)),
        "fastnas, exact": whole_step(given, code, "exact", accelerated(given.network)),
    }
    seconds = medians(given.device, contenders, given.settings.runs)
    print("| second-order step | ms | faster |\n| --- | ---: | ---: |")
    for name, value in seconds.items():
        print(f"| {name} | {1e3 * value:.0f} | {seconds['published architect'] / value:.2f} |")


def alpha_gradients(given: Task, code: Any, how: str) -> list[Tensor]:
    """The unrolled gradient of the logits, which are the same leaves for every contender."""
    for logits in given.logits:
        logits.grad = None
    net = copied(given.network) if how == "published" else accelerated(given.network)
    whole_step(given, code, how, net, alpha_only=True)()
    return [logits.grad.clone() for logits in given.logits if logits.grad is not None]


def whole_step(given: Task, code: Any, how: str, net: Any, alpha_only: bool = False) -> Callable[[], None]:
    """One step of the search: alpha's gradient and Adam for it, then a step of SGD for the weights."""
    sgd = torch.optim.SGD(net.parameters(), WEIGHT_STEP.lr, WEIGHT_STEP.momentum, weight_decay=WEIGHT_STEP.weight_decay)
    (outer, outer_labels), (inner, inner_labels) = given.batches
    options = SimpleNamespace(momentum=WEIGHT_STEP.momentum, weight_decay=WEIGHT_STEP.weight_decay,
                              arch_learning_rate=0.0, arch_weight_decay=0.0)  # fmt: skip
    published = code.Architect(net, options)
    alpha = logits_of(net, given.logits)
    adam = torch.optim.Adam(given.logits, lr=0.0)

    def loss(images: Tensor, labels: Tensor) -> Callable[[Tensors, Tensors, int], Tensor]:
        def of(w: Tensors, logits: Tensors, _draw: int) -> Tensor:
            with patched(net, **logits):
                return F.cross_entropy(functional_call(net, dict(w), (images,)), labels)

        return of

    def alpha_step() -> None:
        if how == "published":
            published.step(inner, inner_labels, outer, outer_labels, WEIGHT_STEP.lr, sgd, unrolled=True)
            return
        problem = Bilevel(loss(inner, inner_labels), loss(outer, outer_labels), WEIGHT_STEP)
        estimate = unrolled if how == "exact" else UnrolledByDifferences()
        _, found = estimate(problem, dict(net.named_parameters()), alpha)
        for name, logits in alpha.items():
            logits.grad = found[name]
        adam.step()

    def run() -> None:
        alpha_step()
        if alpha_only:
            return
        sgd.zero_grad()
        F.cross_entropy(net(inner), inner_labels).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5)
        for group in sgd.param_groups:
            group["lr"] = 0.0  # every run starts from the same weights
        sgd.step()

    return run


def grow(settings: Peers, picture: Path) -> None:
    """Milliseconds of a step while one setting varies."""
    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415  (after the backend)

    figure, panels = pyplot.subplots(1, len(GROWTH), figsize=(4 * len(GROWTH), 3.2), sharey=True)
    print("| setting | value | as published, ms | accelerated, ms | faster |\n| --- | ---: | ---: | ---: | ---: |")
    for panel, (name, values) in zip(panels, GROWTH.items(), strict=True):
        times: dict[str, list[float]] = {"as published": [], "accelerated": []}
        for value in values:
            given = task(replace(settings, **{name: value}))
            images, labels = given.batches[0]
            networks = {"as published": copied(given.network), "accelerated": accelerated(given.network)}
            contenders = {key: step(net, given.logits, images, labels) for key, net in networks.items()}
            seconds = medians(given.device, contenders, settings.runs)
            for key, found in seconds.items():
                times[key].append(1e3 * found)
            plain, fast = (1e3 * s for s in seconds.values())
            print(f"| {name} | {value} | {plain:.0f} | {fast:.0f} | {plain / fast:.2f} |", flush=True)
        for key, found in times.items():
            panel.loglog(values, found, "o-", label=key)
        panel.set_xlabel(name)
        panel.set_xticks(values, [str(v) for v in values], minor=False)
        panel.minorticks_off()
    panels[0].set_ylabel("ms a step")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(picture)


def main(settings: Peers) -> None:
    given = task(settings)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, commit {commit.strip()}\n{settings}")
    if settings.growth is not None:
        grow(settings, settings.growth)
        return
    check(given)
    if settings.architect is None:
        first_order(given)
    else:
        second_order(given, settings.architect)


if __name__ == "__main__":
    main(tyro.cli(Peers))
