"""Measure one step of a supernet of your own, or of a recipe's, and name what is wrong with it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from tyro.conf import Positional

from fastnas.acceleration.accelerate import accelerate
from fastnas.acceleration.profile import StepProfile, profile
from fastnas.cli.recipe import recipe_in
from fastnas.engine.budget import start_run
from fastnas.engine.run import Run
from fastnas.engine.step import alpha_gradients
from fastnas.errors import describe, invalid
from fastnas.experiment.parts import prepare
from fastnas.experiment.recipes import RECIPES
from fastnas.user_code import load_user_object, run_user_code


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Measure one step of a supernet of your own, or of a recipe's, and name what is wrong with it.

    The exit status is 1 if a fault was found.

    Args:
        network: FILE.py:NAME or module:name of a function that returns the network and a batch, `(images, labels)`; or
            a recipe of `fastnas search`, or the config.json of a run.
        accelerate: Put the engine of fastnas under it first.
        device: cpu or cuda.
        trace: Write a Chrome trace to this file, for https://ui.perfetto.dev.
    """

    network: Positional[str]
    accelerate: bool = False
    device: str = "cpu"
    trace: Path | None = None


def run(command: Profile, console: Console) -> bool:
    """Print the table and the faults; returns whether there are none."""
    if command.network in RECIPES or command.network.endswith(".json"):
        if command.accelerate:
            raise invalid(
                "profile", "--accelerate needs a network of your own", f"{command.network}, on the engine already"
            )
        found = _profile_recipe(command)
    else:
        network, (images, labels) = _load(command.network)
        device = torch.device(command.device)
        network = network.to(device)
        if command.accelerate:
            console.out(str(accelerate(network)))
        found = profile(network, (images.to(device), labels.to(device)), trace=command.trace)
    console.print(found.table())
    for fault in found.faults or ("none found",):
        console.out(f"fault: {fault}")
    return not found.faults


class _Searched(nn.Module):
    """The supernet of a search at coefficients that are drawn as for a step of alpha."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.supernet, self.search = run.state.supernet, run

    def forward(self, images: Tensor) -> Tensor:
        mix = self.search.sampler("alpha")(self.search.state.alpha).mix
        outputs: Any = self.supernet(images, mix)
        return outputs if isinstance(outputs, Tensor) else outputs[0]


def _profile_recipe(command: Profile) -> StepProfile:
    experiment = recipe_in(["--recipe", command.network])
    parts = prepare(experiment)
    config = replace(experiment.config, device=command.device)
    search, batches = start_run(parts.space, parts.method, parts.data, config, 0, 4)
    weight_batch, search_batch = next(batches)
    step = None if search_batch is None else lambda: alpha_gradients(search, weight_batch, search_batch)
    return profile(
        _Searched(search),
        (weight_batch.images, weight_batch.labels),
        alphas=list(search.state.alpha.values()),
        optimizer=search.state.weight_optimizer,
        alpha_step=step,
        loader=batches,
        trace=command.trace,
    )


def _load(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    make = load_user_object(name, "profile")
    place, _, attribute = name.rpartition(":")
    made = run_user_code(make, f"{attribute}()", Path(place), "profile") if callable(make) else make
    match made:
        case (nn.Module() as network, (Tensor() as images, Tensor() as labels)):
            return network, (images, labels)
        case _:
            raise invalid("profile", f"{attribute} must return a network and (images, labels)", describe(made))
