"""Plans for whole experiments: the command ``fastnas plan``, and what ``--budget`` means to a search."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

from tyro.conf import arg

from fastnas.experiment import Experiment, method_named
from fastnas.plan.described import described
from fastnas.plan.planner import Change, Plan, plan
from fastnas.supernet.own import load_space

OnState = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """Say what a search will need, and how to run it within a budget; no data is needed.

    The exit status is 1 if nothing fits.

    Args:
        recipe: Settings to start from: a name or the config.json of a run. Options given beside it win.
        budget: A size as 24GiB, a GPU as H100, cuda:N for what is free on it, or ram for what is free in this machine.
        allow: What may change although it changes the search: precision, batch.
        timed: Run some steps of a small batch on the device of the search, to know what evaluating again costs.
        experiment: What to do.
    """

    recipe: str = "digits"
    budget: str = "ram"
    allow: tuple[Change, ...] = ()
    timed: bool = True
    experiment: Annotated[Experiment, arg(name="")] = Experiment()  # noqa: RUF009  (frozen)


def plan_of(command: PlanCommand, on_state: OnState, *, neighbours: bool = True) -> Plan:
    """The plan that ``command`` asks for.

    Args:
        command: The search and its budget.
        on_state: Told what is being done.
        neighbours: Look for the next cheaper and the next dearer plan as well.
    """
    experiment = command.experiment
    return plan(
        load_space(experiment.space),
        method_named(experiment.method, experiment.strength),
        described(experiment.data, experiment.resolution),
        experiment.config,
        budget=command.budget,
        allow=command.allow,
        timed=command.timed,
        neighbours=neighbours,
        on_state=on_state,
    )


def planned(experiment: Experiment, budget: str, on_state: OnState, processes: int = 1) -> Experiment:
    """``experiment`` with what is evaluated again chosen so that a step of its search fits ``budget``.

    Args:
        experiment: What to do.
        budget: Of each process.
        on_state: Told what is being done.
        processes: That share every batch.

    Raises:
        ValueError: If nothing fits, naming what would make it fit.
    """
    own = replace(experiment.config, batch_size=experiment.config.batch_size // processes)
    command = PlanCommand(budget=budget, experiment=replace(experiment, config=own))
    found = plan_of(command, on_state, neighbours=False)
    return replace(experiment, config=replace(experiment.config, recompute=found.config.recompute))
