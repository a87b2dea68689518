"""Say what a search will need, and how to run it within a budget; no data is needed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

from rich.console import Console
from rich.status import Status
from tyro.conf import arg

from fastnas.cli.recipe import RECIPE_HELP, SMOKE_HELP, recipe_in
from fastnas.data import placeholder_data
from fastnas.errors import invalid
from fastnas.experiment.parts import resolve
from fastnas.experiment.settings import Experiment
from fastnas.memory.budget import Target
from fastnas.memory.planner import Change, Plan, plan
from fastnas.memory.scaling import Pieces, Scaling, count_weight_transfers, list_counts, scale
from fastnas.memory.text import describe, describe_scaling
from fastnas.ranks import torch_device

OnState = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """Say what a search will need, and how to run it within a budget; no data and no GPU is needed.

    With several GPUs the budget is that of each, the batch is shared by all, and a table says how much faster each
    number of them is. The exit status is 1 if nothing fits.

    Args:
        recipe: Settings to start from.
        smoke: Shrink the recipe.
        trust: Let a config.json name code to run as method or space.
        budget: Memory of a GPU such as 24GiB, a GPU by its name such as 4090, cuda:N for what is free on it; ram for
            what is free in this machine, '16GB ram' for that much of it. Unset for the GPU of this machine, or ram
            without one.
        target: What the plan is for, cuda or cpu, whether it is here or not; unset for what the budget says.
        allow: What may change although it changes the search: precision, batch.
        timed: Run some steps of a small batch, if what the plan is for is here, to know what recomputing costs.
        gpus: GPUs of a node.
        nodes: Nodes.
        bandwidth: Between two GPUs over the slowest link, GB a second: 25 is a network card of 200 Gbit/s.
        cores: For reading images, beside each GPU.
        images_per_core: That one core reads in a second (`python profiling/loading.py`); unset if that is no limit.
        experiment: What to do.
    """

    recipe: Annotated[str, arg(help=RECIPE_HELP)] = "digits"
    smoke: Annotated[bool, arg(help=SMOKE_HELP)] = False
    trust: bool = False
    budget: str | None = None
    target: Annotated[Target | None, arg(name="for")] = None
    allow: tuple[Change, ...] = ()
    timed: bool = True
    gpus: int = 1
    nodes: int = 1
    bandwidth: float = 25.0
    cores: int = 8
    images_per_core: float | None = None
    experiment: Annotated[Experiment, arg(name="")] = Experiment()


FIRST = ("--budget", "--method", "--space", "--data", "--recipe", "--channels", "--cells", "--batch-size", "--gpus")


def default(arguments: list[str]) -> PlanCommand:
    """The command with the defaults of the recipe that ``arguments`` name."""
    return PlanCommand(experiment=recipe_in(arguments))


def run(command: PlanCommand, console: Console) -> bool:
    """Print the plan; false if nothing fits."""
    with Status("planning", console=console) as status:
        found = make_plan(command, status.update)
    for line in [*describe(found), *describe_scaling(scale_over_gpus(command, found))]:
        console.out(line)
    return found.chosen is not None


def make_plan(command: PlanCommand, on_state: OnState, *, neighbours: bool = True) -> Plan:
    """The plan that ``command`` asks for."""
    for name in ("gpus", "nodes", "bandwidth", "cores", "images_per_core"):
        value = getattr(command, name)
        if value is not None and not 0 < value < float("inf"):
            raise invalid("plan", f"--{name.replace('_', '-')} must be a positive number", value)
    experiment = command.experiment
    list_counts(command.gpus, command.nodes, experiment.config.batch_size)  # raises where they cannot share the batch
    own = experiment.config.batch_size // (command.gpus * command.nodes)
    parts = resolve(experiment, placeholder_data(experiment.data, experiment.images))
    return plan(
        parts.space,
        parts.method,
        parts.data,
        replace(experiment.config, batch_size=own),
        budget=command.budget,
        target=command.target,
        allow=command.allow,
        timed=command.timed,
        neighbours=neighbours,
        on_state=on_state,
    )


def scale_over_gpus(command: PlanCommand, found: Plan) -> list[Scaling]:
    """How the search of a plan scales over the GPUs that ``command`` names; nothing for one, or without a time."""
    if command.gpus * command.nodes == 1 or found.chosen is None or found.chosen.seconds is None:
        return []
    option, method = found.chosen, found.requested.method
    causes = option.prediction.peak.causes
    moves = 1 if method.update_schedule.joint else 1 + count_weight_transfers(method.hypergradient)
    pieces = Pieces(
        fixed=0.0,
        per_image=found.chosen.seconds / option.config.batch_size,
        num_bytes=causes.get("alpha", 0) + moves * causes.get("weights", 0),
        messages=2 * moves + 2,
        images=command.experiment.config.batch_size * (1 if method.update_schedule.joint else 2),
        bandwidth=command.bandwidth * 1e9,
        cores=command.cores,
        images_per_core=command.images_per_core,
    )
    batch_size = command.experiment.config.batch_size
    return list(scale(pieces, batch_size, list_counts(command.gpus, command.nodes, batch_size)))


def fit_to_budget(experiment: Experiment, budget: str, on_state: OnState, processes: int = 1) -> Experiment:
    """``experiment`` with what is recomputed chosen so that a step of its search fits ``budget``."""
    target: Target = "cuda" if torch_device(experiment.config.device).type == "cuda" else "cpu"
    command = PlanCommand(budget=budget, target=target, gpus=processes, experiment=experiment)
    found = make_plan(command, on_state, neighbours=False)
    return replace(experiment, config=replace(experiment.config, recompute=found.config.recompute))
