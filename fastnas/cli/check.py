"""Compare the gradient of a method with what it claims to be, on a tiny problem in float64."""

from dataclasses import dataclass
from typing import Annotated

from rich.console import Console
from tyro.conf import arg

from fastnas.checks.check import check
from fastnas.experiment.settings import METHOD_HELP, SPACE_HELP


@dataclass(frozen=True, kw_only=True)
class Check:
    """Compare the gradient of a method with what it claims to be, on a tiny problem in float64.

    The exit status is 1 if anything failed.

    Args:
        method: What to check.
        space: Where.
        seed: Decides everything random.
    """

    method: Annotated[str, arg(help=METHOD_HELP)] = "darts"
    space: Annotated[str, arg(help=SPACE_HELP)] = "nasbench201"
    seed: int = 0


def run(command: Check, console: Console) -> bool:
    """Print the findings."""
    report = check(command.space, command.method, seed=command.seed)
    console.print(report.table())
    return report.ok
