"""What ``--recipe`` names: a recipe, or the settings of a run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastnas.errors import invalid, suggest
from fastnas.experiment.recipes import RECIPES
from fastnas.experiment.settings import Experiment, load_experiment
from fastnas.training.config import RetrainConfig

RECIPE_HELP = f"Settings to start from: {', '.join(RECIPES)}, or the config.json of a run. Options given beside it win."
SMOKE_HELP = "Shrink the recipe to one that runs in a minute, to see whether everything fits together."


def find_value(option: str, arguments: Sequence[str]) -> str | None:
    """What stands behind ``option`` on the command line, before it is parsed."""
    for position, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
        if argument == option and position + 1 < len(arguments):
            return arguments[position + 1]
    return None


def recipe_in(arguments: Sequence[str], otherwise: str | None = None) -> Experiment:
    """The recipe that the arguments name, for the method that they name, shrunk if they say ``--smoke``.

    Args:
        arguments: Those of the command line.
        otherwise: The recipe where they name none; unset for one that fits ``--space``.
    """
    name = find_value("--recipe", arguments)
    if name is None and otherwise is not None:
        name = otherwise
    elif name is None:  # the sizes of one space are no sizes for another
        name = "digits" if find_value("--space", arguments) in (None, "nasbench201") else "digits_darts"
    if name in RECIPES:
        found = RECIPES[name]
    elif Path(name).is_file():
        overridden = {key for key in ("method", "space") if find_value(f"--{key}", arguments) is not None}
        found = load_experiment(Path(name), trust="--trust" in arguments, overridden=overridden)
    else:
        rule = f"name must be one of {', '.join(RECIPES)}, or a config.json"
        raise invalid("recipe", rule, repr(name), suggest(name, RECIPES) if len(name) < 60 else "")
    found = _for_method(find_value("--method", arguments), found)
    return shrink(found) if "--smoke" in arguments else found


def _for_method(name: str | None, recipe: Experiment) -> Experiment:
    """``recipe`` without what only its own method reads, where the arguments name another one of the library."""
    if name in (None, recipe.method):
        return recipe
    from fastnas.engine.fit import drop_unread  # noqa: PLC0415  (two seconds, which --help need not wait for)
    from fastnas.methods import METHODS  # noqa: PLC0415

    if name not in METHODS:
        return recipe
    return replace(recipe, method=name, config=drop_unread(METHODS[name](), recipe.config))


def shrink(experiment: Experiment) -> Experiment:
    """The same search, of the least size that goes through all its parts."""
    stages = 3 if experiment.method == "p_darts" else 1
    cells = 1 if experiment.space.startswith(("nasbench201", "proxyless", "dso")) else 3
    config = replace(
        experiment.config,
        channels=8,
        cells=cells,
        epochs=2 * stages,
        warmup_epochs=None if stages > 1 else 1,
        batch_size=4,  # a tenth of a folder of a hundred images has two batches
        weight_lr_warmup_epochs=0,
        workers=0,
        fractions=None,
        train_fraction=min(experiment.config.train_fraction, 0.1),
    )
    retraining = RetrainConfig(channels=8, cells=cells, epochs=1, batch_size=4, lr=experiment.retrain.lr)
    randoms = min(1, experiment.random_genotypes)
    images = replace(experiment.images, augment=None, colour=None, image_channels=None)  # the digits are grey
    return replace(
        experiment,
        config=config,
        retrain=retraining,
        random_genotypes=randoms,
        random_halving=False,
        data="digits",
        images=images,
    )
