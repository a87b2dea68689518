"""Measure what every candidate takes on this device, and how well the sum predicts whole networks."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.status import Status
from tyro.conf import arg

from fastnas.cli.recipe import find_value, recipe_in
from fastnas.costs.latency import describe
from fastnas.costs.measurement import measure
from fastnas.costs.tables import NetworkSize
from fastnas.data import placeholder_data
from fastnas.experiment.settings import SPACE_HELP, Experiment
from fastnas.ranks import torch_device
from fastnas.supernet.own import load_space
from fastnas.training.networks import find_size


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Measure what every candidate takes on this device, and how well the sum predicts whole networks.

    A table that predicts networks which it has not seen worse than their mean does is not saved.

    Args:
        space: Where.
        recipe: Take the sizes of the retrained network from a recipe or the config.json of a run. Options given
            beside it win.
        trust: Let a config.json name code to run.
        data: Take image size, channels and classes from these data (see `fastnas search`), which need not be there.
        out: The table's file, JSON. An older one is replaced.
        check: A table of this space and size to test again, instead of measuring a new one.
        repeats: Fewest interleaved samples behind each median.
        minutes: Time after which no further round of samples begins; the test takes as many rounds again.
        error: Mean absolute error on networks left out of the fit, in percent, that is small enough to stop.
        fit: Random networks to which the scale and the constant of the table are fitted.
        genotypes: Random networks that the table did not see, to test it on.
        force: Save the table even if the mean of the networks predicts better.
        seed: Decides which networks.
        device: Where to run; auto takes a GPU if there is one.
        size: The network.
    """

    space: Annotated[str, arg(help=SPACE_HELP)] = "darts"
    recipe: str | None = None
    trust: bool = False
    data: str | None = None
    out: Path = Path("latency.json")
    check: Path | None = None
    repeats: int = 5
    minutes: float = 5.0
    error: float = 5.0
    fit: int = 10
    genotypes: int = 20
    force: bool = False
    seed: int = 0
    device: str = "auto"
    size: Annotated[NetworkSize, arg(name="")] = NetworkSize()


def size_network(experiment: Experiment, data: str | None) -> NetworkSize:
    """The size of the network that ``experiment`` retrains, for one image."""
    source = experiment.data if data is None else data
    return replace(find_size(experiment.retrain, placeholder_data(source, experiment.images)), batch_size=1)


def default(arguments: list[str]) -> Latency:
    """The command at the sizes that ``--recipe`` and ``--data`` give."""
    data = find_value("--data", arguments)
    if data is None and find_value("--recipe", arguments) is None:
        return Latency()
    return Latency(size=size_network(recipe_in(arguments, otherwise="digits_darts"), data))


def run(command: Latency, console: Console) -> None:
    """Measure a table, or test one again, and say how good it is."""
    space, out = load_space(command.space).with_depth(command.size.cells), command.check or command.out
    with Status("measuring", console=console) as status:
        table = measure(
            space,
            command.size,
            torch_device(command.device),
            out,
            measured_before=command.check is not None,
            repeats=command.repeats,
            minutes=command.minutes,
            error=command.error,
            fit=command.fit,
            genotypes=command.genotypes,
            seed=command.seed,
            force=command.force,
            on_round=status.update,
        )
    for line in [*describe(table), f"table: {out}"]:
        console.out(line)
