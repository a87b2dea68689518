"""Everything that decides a run, and the file that keeps it."""

import math
import os
import platform
import subprocess
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import TypeAdapter
from tyro.conf import arg

import fastnas
from fastnas.costs.config import CostConfig
from fastnas.data import DataConfig, list_sources
from fastnas.errors import describe, invalid
from fastnas.files import STRICT, read_json, validate
from fastnas.methods.variants import Order, StopBy, Techniques
from fastnas.selection import LadderConfig
from fastnas.spaces.registry import list_spaces
from fastnas.training.config import RetrainConfig, SearchConfig
from fastnas.training.start import SUPERNET
from fastnas.user_code import names_code

DATA_HELP = f"Where the images come from: {list_sources()}."
METHOD_HELP = "One of those that `fastnas methods` lists, or FILE.py:NAME or module:name of your own."
SPACE_HELP = f"{', '.join(list_spaces())}, or FILE.py:NAME or module:name of your own."
MOST_RESTARTS = 100
PACKAGES = ("torch", "torchvision", "numpy")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides a run.

    Args:
        method: How to search.
        order: 2 differentiates through the next step of the weights, 1 does not; unset for the method's own.
        stop: Also stop when the loss becomes sharp in alpha: eigenvalue by RobustDARTS's paper, eigenvalue_code by its
            code, eigenvalue_ada to go back and regularise more instead; or at two skip connections (skips), or when the
            ranking stood for ten epochs (rank).
        techniques: Parts of other methods.
        strength: How much robust_darts_l2, robust_darts_dp or dso_nas regularise; unset for the method's own.
        space: Where to search.
        data: Where the images come from.
        images: What to do with them.
        select: By the method's own way, mostly the argmax of the coefficients (argmax); by those averaged over the last
            half of the epochs (average), unless the method evaluates paths or goes back to an epoch; by a ladder of
            evaluations (ladder); by what the supernet misses most (perturbation); or by an evolutionary search among
            its paths (evolution).
        restarts: Searches with seeds of their own, whose coefficients are averaged, too (needs select=average). Unset,
            it is 1, or with minutes as many as have 2,000 steps each, at most 16.
        tune_epochs: Epochs of training between two decisions of perturbation (paper: 5).
        random_genotypes: Random architectures of the same space to retrain with the same budget, for comparison.
        random_halving: Also let random architectures train against each other by successive halving for as long as the
            search took, and retrain the best of them: what a search has to beat.
        retrain_searched: Retrain the architecture that was found; without it the run ends with the genotype.
        config: The search.
        retrain: The training of the derived network, and of the random ones.
        cost: What the derived network may cost, and the random ones.
        ladder: How far the ladder reaches.
    """

    __pydantic_config__ = STRICT

    method: Annotated[str, arg(help=METHOD_HELP)] = "pc_darts"
    order: Order | None = None
    stop: StopBy | None = None
    techniques: Annotated[Techniques, arg(name="")] = Techniques()
    strength: float | None = None
    space: Annotated[str, arg(help=SPACE_HELP)] = "darts"
    data: Annotated[str, arg(help=DATA_HELP)] = "digits"
    images: Annotated[DataConfig, arg(name="")] = DataConfig()
    select: Literal["argmax", "average", "ladder", "perturbation", "evolution"] = "argmax"
    restarts: int | None = None
    tune_epochs: float | None = None
    random_genotypes: int = 4
    random_halving: bool = False
    retrain_searched: bool = True
    config: Annotated[SearchConfig, arg(name="")] = SearchConfig()
    retrain: RetrainConfig = RetrainConfig()
    cost: CostConfig = CostConfig()
    ladder: LadderConfig = LadderConfig()

    def __post_init__(self) -> None:
        if self.restarts is not None and not 1 <= self.restarts <= MOST_RESTARTS:
            raise invalid("Experiment", f"restarts must lie between 1 and {MOST_RESTARTS}", self.restarts)
        if (self.restarts or 1) > 1 and self.select != "average":
            raise invalid("Experiment", "restarts need select=average", self.select)
        if self.tune_epochs is not None and self.select != "perturbation":
            raise invalid("Experiment", "tune_epochs needs select=perturbation", self.select)
        if self.random_genotypes < 0:
            raise invalid("Experiment", "random_genotypes must not be negative", self.random_genotypes)
        if self.strength is not None and not 0 <= self.strength < math.inf:
            raise invalid("Experiment", "strength must be a number that is not negative", self.strength)


def require_used(experiment: Experiment) -> None:
    """Raise for settings that would change nothing in a new run; those of an earlier one are left alone."""
    if experiment.ladder != LadderConfig() and experiment.select != "ladder":
        raise invalid("Experiment", "settings of the ladder need select=ladder", experiment.select)
    if experiment.retrain.init_from is not None and not experiment.retrain_searched:
        rule = "retrain.init_from must not be set without a retraining"
        raise invalid("Experiment", rule, experiment.retrain.init_from, "It would change nothing.")


_AS_JSON = TypeAdapter(Experiment)


def experiment_to_json(experiment: Experiment) -> dict[str, Any]:
    """The content of ``config.json``: the versions of what runs, and all settings."""
    return {"versions": _versions(), **_AS_JSON.dump_python(with_absolute_paths(experiment), mode="json")}


def with_absolute_paths(experiment: Experiment) -> Experiment:
    """``experiment`` for a file that is read from any working directory; a module stays one by its name."""
    source, colon, root = experiment.data.partition(":")
    config, training, cost = experiment.config, experiment.retrain, experiment.cost
    if config.index is not None:
        config = replace(config, index=Path(_absolute(config.index)))
    if training.init_from not in (None, SUPERNET):
        training = replace(training, init_from=_absolute(training.init_from))
    if cost.of is not None and Path(cost.of).is_file():
        cost = replace(cost, of=_absolute(cost.of))
    method, space = (
        f"{_absolute(place)}:{attribute}" if attribute and place.endswith(".py") else name
        for name in (experiment.method, experiment.space)
        for place, _, attribute in [name.rpartition(":")]
    )
    data = f"{source}:{_absolute(root)}" if root else source + colon
    return replace(experiment, method=method, space=space, data=data, config=config, retrain=training, cost=cost)


def _absolute(path: Path | str) -> str:
    return os.path.abspath(Path(path).expanduser())


def load_experiment(path: Path, trust: bool = False, overridden: Collection[str] = ()) -> Experiment:
    """The experiment of a ``config.json``, which may come from anybody: nothing that it names is executed.

    Args:
        path: The file.
        trust: Let it name code to run, as method or space.
        overridden: Of the fields ``method`` and ``space``, those that something else takes the place of.

    Raises:
        ValueError: If the file does not describe an experiment, or names code and is not trusted.
    """
    content = read_json(path)
    rule = f"{path} must describe an experiment"
    if not isinstance(content, dict):
        raise invalid("run", rule, describe(content))
    fields = {name: value for name, value in content.items() if name != "versions"}
    earlier = {name: fields.pop(name) for name in ("download", "resolution", "decoder") if name in fields}
    fields = {"images": earlier} | fields if earlier else fields  # a run from before images had settings of their own
    experiment = validate(_AS_JSON, fields, "run", rule)
    if not trust:
        refuse_code(experiment, path, overridden)
    return experiment


def names_code_in(experiment: Experiment) -> bool:
    """Whether the method or the space of ``experiment`` is code of a user's own."""
    return names_code(experiment.method) or names_code(experiment.space)


def refuse_code(experiment: Experiment, path: Path, overridden: Collection[str] = ()) -> None:
    """Raise if the method or the space that ``path`` names is code to run."""
    for field in ("method", "space"):
        name = getattr(experiment, field)
        if names_code(name) and field not in overridden:
            remedy = f"Read that code first; then add --trust, or name it yourself: --{field} {name}."
            raise invalid("run", f"{path} must not name code to run as its {field}", repr(name), remedy)


def _versions() -> dict[str, str]:
    """What runs, where, and since when."""
    packages = {name: version(name) for name in PACKAGES}
    machine = f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads"
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    started = {"started": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}"}
    commit = _commit(Path(fastnas.__file__).parents[1])
    return {
        "python": platform.python_version(),
        "fastnas": fastnas.__version__,
        **packages,
        "machine": machine,
        **gpu,
        **started,
        **({"commit": commit} if commit else {}),
    }


def _commit(root: Path) -> str:
    """The commit of a clone; empty for an installed package."""
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
