"""What does `fastnas.accelerate` change for somebody else's supernet?

Prints time of a forward and backward pass (median of interleaved runs, and its ratio to the unchanged network) and
bytes saved for the backward pass, without the weights. First compares logits and gradients with those of the unchanged
network in float64.
"""

import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import tyro

import fastnas
from measuring.counting import kept_bytes
from measuring.device import clock_of, medians
from measuring.foreign import copied, errors_of, foreign_module, step


@dataclass(frozen=True, kw_only=True)
class DropIn:
    """Cost of a foreign supernet, as it is and accelerated.

    Args:
        checkout: Folder of the foreign code; its modules are imported by their bare names.
        module: The one that defines ``Network(channels, classes, layers, criterion)``.
        channels: Channels of the first cells.
        layers: Cells.
        batch_size: Images a step.
        resolution: Side of the images in pixels.
        runs: Timed runs of each contender.
        threads: Of the CPU.
        device: cpu or cuda.
    """

    checkout: Path
    module: str = "model_search"
    channels: int = 16
    layers: int = 8
    batch_size: int = 8
    resolution: int = 32
    runs: int = 5
    threads: int = 1
    device: str = "cpu"


def main(settings: DropIn) -> None:
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    device = torch.device(settings.device)
    code: Any = foreign_module(settings.checkout, settings.module, device)
    network = code.Network(settings.channels, 10, settings.layers, None).to(device)
    logits = network._arch_parameters  # no parameters of the module, and copied by reference
    images = torch.randn(settings.batch_size, 3, settings.resolution, settings.resolution, device=device)
    labels = torch.randint(10, (settings.batch_size,), device=device)

    original = copied(network)
    wide, accelerated = (copied(original) for _ in range(2))
    wide = wide.to(memory_format=torch.channels_last)
    started = perf_counter()
    report = fastnas.accelerate(accelerated)
    seconds_once = perf_counter() - started
    wide_accelerated = copied(accelerated).to(memory_format=torch.channels_last)
    laid_out = images.contiguous(memory_format=torch.channels_last)
    contenders = {
        "as it is": step(original, logits, images, labels),
        "as it is, channels_last": step(wide, logits, laid_out, labels),
        "accelerated": step(accelerated, logits, images, labels),
        "accelerated, channels_last": step(wide_accelerated, logits, laid_out, labels),
    }
    truth = step(copied(original).double(), logits, images.double(), labels)()
    errors = {name: errors_of(contender(), truth) for name, contender in contenders.items()}
    networks = dict(zip(contenders, (original, wide, accelerated, wide_accelerated), strict=True))
    num_bytes = {name: kept_bytes(partial(net, images), net.parameters()) for name, net in networks.items()}
    seconds = medians(clock_of(device), contenders, settings.runs)

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, commit {commit.strip()}")
    print(f"{settings}\n{report}\nthe proof took {seconds_once:.1f} s, once\n")
    print("| network | ms | ratio | saved MB | ratio | error of logits | of gradients |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    base = "as it is"
    for name, value in seconds.items():
        ratios = value / seconds[base], num_bytes[name] / num_bytes[base]
        columns = f"{1e3 * value:.0f} | {ratios[0]:.2f} | {num_bytes[name] / 1e6:.0f} | {ratios[1]:.2f}"
        print(f"| {name} | {columns} | {errors[name][0]:.1e} | {errors[name][1]:.1e} |")


if __name__ == "__main__":
    main(tyro.cli(DropIn))
