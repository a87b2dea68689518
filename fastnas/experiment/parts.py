"""What the names and options of an experiment stand for, and whether they fit together."""

from dataclasses import dataclass, replace

import torch

from fastnas.costs.config import find_costs, limit_cost
from fastnas.costs.tables import CostTable
from fastnas.data import ImageData, class_balanced_fraction, load_data, steps_per_epoch
from fastnas.engine import build_stage, require_stages
from fastnas.errors import invalid
from fastnas.experiment.settings import Experiment
from fastnas.mechanisms.choice import Evolution, Perturbation
from fastnas.mechanisms.derivation import SkipCap
from fastnas.methods.library import REGULARISED
from fastnas.methods.method import Method
from fastnas.methods.registry import as_method
from fastnas.methods.variants import with_order, with_stop, with_techniques
from fastnas.networks.inherit import inherit_weights
from fastnas.spaces.sampling import random_genotype
from fastnas.spaces.space import Space
from fastnas.supernet.own import load_space
from fastnas.tasks import require_smoothing
from fastnas.training.networks import build_network_for, find_size
from fastnas.training.start import SUPERNET

_NO_AUXILIARY = ("retrain.auxiliary must be 0 in spaces without a reduction cell, whose network has no auxiliary head",)


@dataclass(frozen=True)
class Parts:
    """What the names in an experiment stand for.

    Args:
        method: What to do, within the budget.
        space: Where.
        data: The images.
        costs: The costs that the budget speaks of, if it speaks of any.
    """

    method: Method
    space: Space
    data: ImageData
    costs: CostTable | None


def prepare(experiment: Experiment, data: ImageData | None = None) -> Parts:
    """Load what ``experiment`` names, and check that it fits together.

    Args:
        experiment: What to do.
        data: Its images, if they are loaded already.

    Raises:
        ValueError: For names, sizes or settings that do not fit together, before anything runs.
    """
    parts = resolve(experiment, load_data(experiment.data, experiment.images) if data is None else data)
    if parts.method.choice is not None and experiment.config.minutes is not None:
        rule = "--minutes needs a derivation or the ladder, whose time it can plan"
        got = f"{parts.method.name}, which chooses by evaluations of its supernet"
        raise invalid("Experiment", rule, got, "Give --epochs instead.")
    if parts.method.choice is not None and (experiment.restarts or 1) > 1:
        rule, got = "--restarts needs a method that derives from coefficients", parts.method.name
        raise invalid("Experiment", rule, got, "Use --runs, of which the best goes on.")
    if isinstance(parts.method.choice, Perturbation) and experiment.cost.limit is not None:
        remedy = "Give --select argmax, average, ladder or evolution."
        raise invalid("Experiment", "--select perturbation does not work with --cost.limit", "both", remedy)
    if isinstance(parts.method.choice, Perturbation) and isinstance(parts.method.derivation, SkipCap):
        remedy = "Give --select argmax, average, ladder or evolution."
        rule = "--select perturbation does not work with a cap of skip connections"
        raise invalid("Experiment", rule, parts.method.name, remedy)
    _check_sizes(experiment, parts)
    return parts


def resolve(experiment: Experiment, data: ImageData) -> Parts:
    """What the names and options in ``experiment`` stand for: the one way from settings to a method.

    Args:
        experiment: What to do.
        data: Its images, or only their sizes (:func:`fastnas.data.placeholder_data`).

    Raises:
        ValueError: For names or options that do not fit together.
    """
    method = find_method(experiment.method, experiment.strength)
    method = method if experiment.order is None else with_order(method, experiment.order)
    method = method if experiment.stop is None else with_stop(method, experiment.stop)
    method = with_techniques(_with_choice(method, experiment), experiment.techniques)
    space = load_space(experiment.space).with_depth(experiment.config.cells)
    if experiment.retrain.auxiliary != 0 and not space.has_auxiliary_head:
        raise invalid("Experiment", *_NO_AUXILIARY, space.name)
    costs = find_costs(experiment.cost, space, find_size(experiment.retrain, data))
    return Parts(limit_cost(method, experiment.cost, costs), space, data, costs)


def _with_choice(method: Method, experiment: Experiment) -> Method:
    if experiment.select == "evolution":
        return replace(method, choice=method.choice or Evolution())
    if experiment.select == "perturbation":
        epochs = experiment.tune_epochs
        return replace(method, choice=Perturbation() if epochs is None else Perturbation(epochs))
    return method


def find_method(name: str, strength: float | None = None) -> Method:
    """The method that the settings name.

    Args:
        name: See :func:`fastnas.methods.as_method`.
        strength: How much it regularises; ``None`` for its own.
    """
    if strength is None:
        return as_method(name)
    if name not in REGULARISED:
        rule = f"--strength needs a method that regularises: {', '.join(REGULARISED)}"
        raise invalid("method", rule, f"{strength} beside {name}")
    return REGULARISED[name](strength)


def _check_sizes(experiment: Experiment, parts: Parts) -> None:
    """Build both networks without memory, so that sizes that do not fit fail now and not when the search is over."""
    config, training, data, space = experiment.config, experiment.retrain, parts.data, parts.space
    same_depth = space.depth is None or not experiment.retrain_searched or training.cells == config.cells
    if not same_depth:
        rule = f"retrain.cells must be {config.cells}, as cells, in {space.name}, whose blocks are searched one by one"
        raise invalid("Experiment", rule, training.cells, f"Set --retrain.cells {config.cells}.")
    require_stages(parts.method, config)
    with torch.device("meta"):
        build_stage(parts.space, parts.method, data, config, 0)
        if experiment.retrain_searched:
            require_smoothing(data.task, training.label_smoothing)
            images = class_balanced_fraction(data.train.labels, config.train_fraction, config.seed)
            what = "the training images of the retraining"
            steps_per_epoch(len(images), training.batch_size, what, option="--retrain.batch-size")
            network = build_network_for(data, random_genotype(parts.space, 0), training, parts.space)
            if training.init_from == SUPERNET:
                stage = len(parts.method.stages) - 1
                needed = config.channels, parts.method.stages[stage].deepen(config.cells)
                sizes = training.channels, training.cells
                if sizes != needed:
                    options = "--retrain.channels {} --retrain.cells {}"
                    rule = f"--retrain.init-from supernet needs its sizes, {options.format(*needed)}"
                    raise invalid("Experiment", rule, options.format(*sizes))
                inherit_weights(network, build_stage(parts.space, parts.method, data, config, stage))  # or raises
