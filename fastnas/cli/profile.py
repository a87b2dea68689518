"""Measure one step of a supernet of your own, and name what is wrong with it."""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn
from tyro.conf import Positional

from fastnas.acceleration.accelerate import accelerate
from fastnas.acceleration.profile import profile
from fastnas.errors import describe, invalid
from fastnas.user_code import load_user_object, run_user_code


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Measure one step of a supernet of your own, and name what is wrong with it.

    The exit status is 1 if a fault was found.

    Args:
        network: FILE.py:NAME or module:name of a function that returns the network and a batch, `(images, labels)`.
        accelerate: Put the engine of fastnas under it first.
        device: cpu or cuda.
        trace: Write a Chrome trace to this file, for https://ui.perfetto.dev.
    """

    network: Positional[str]
    accelerate: bool = False
    device: str = "cpu"
    trace: Path | None = None


def default(arguments: list[str]) -> Profile:
    """The command without its argument."""
    return Profile(network=tyro.MISSING)


def run(command: Profile, console: Console) -> bool:
    """Print the table and the faults; returns whether there are none."""
    network, (images, labels) = _load(command.network)
    device = torch.device(command.device)
    network = network.to(device)
    if command.accelerate:
        console.print(str(accelerate(network)), markup=False, highlight=False, soft_wrap=True)
    found = profile(network, (images.to(device), labels.to(device)), trace=command.trace)
    console.print(found.table())
    for fault in found.faults or ("none found",):
        console.print(f"fault: {fault}", markup=False, highlight=False, soft_wrap=True)
    return not found.faults


def _load(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    make = load_user_object(name, "profile")
    place, _, attribute = name.rpartition(":")
    made = run_user_code(make, f"{attribute}()", Path(place), "profile") if callable(make) else make
    match made:
        case (nn.Module() as network, (Tensor() as images, Tensor() as labels)):
            return network, (images, labels)
    raise invalid("profile", f"{attribute} must return a network and (images, labels)", describe(made))
