"""Budgets and optimisers. What a method *is* lives in :mod:`fastnas.methods.library`."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastnas.data.balance import ClassWeights, Sampling
from fastnas.data.config import Augment, Colour, check_colour
from fastnas.errors import invalid, require_field_types
from fastnas.files import STRICT
from fastnas.mechanisms.schedules import LEARNING_RATES, SLOW_END, CosinePower, Progress, Rate, warm_up
from fastnas.supernet.recompute import Word, require_words

MOST: Mapping[str, int] = {
    "seed": 2**62,
    "channels": 2**14,
    "cells": 1000,
    "epochs": 10**6,
    "batch_size": 2**20,
    "workers": 1024,
    "checkpoint_steps": 2**40,
    "cutout": 2**14,
    "lr": 10**6,
    "weight_lr": 10**6,
    "alpha_lr": 10**6,
    "minutes": 10**7,
}
"""Beyond these nothing exists that could run."""


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """How and where networks are trained, whatever they are.

    Args:
        seed: Decides everything random.
        train_fraction: Class-balanced share of the training images to use, in the search and in retraining.
        max_broken: Images that may be unreadable, each skipped and counted, before the run ends.
        class_weights: Weight of each class in the loss of search, selection and retraining: balanced is the inverse of
            its share of the training images.
        sampling: Images of a pass, in all three: balanced has as many of each class.
        precision: Arithmetic of the networks; alpha is float32 in both.
        device: Where to run; auto takes a GPU if there is one.
        workers: Processes that decode images; 0 decodes between the steps.
    """

    __pydantic_config__ = STRICT

    seed: int = 0
    train_fraction: float = 1.0
    max_broken: int = 0
    class_weights: ClassWeights = "equal"
    sampling: Sampling = "uniform"
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "auto"
    workers: int = 0

    def __post_init__(self) -> None:
        _require_possible(self)
        _require_not_negative(self, "seed", "workers", "max_broken")
        if not 0 < self.train_fraction <= 1 + 1e-12:
            raise invalid(type(self).__name__, "train_fraction must lie in (0, 1]", self.train_fraction)
        if self.class_weights == "balanced" == self.sampling:
            rule = "only one of class_weights and sampling must be balanced"
            raise invalid(type(self).__name__, rule, "both", "Together they favour rare classes twice.")

    @property
    def is_balanced(self) -> bool:
        """Whether all classes count the same, whatever their numbers of images."""
        return "balanced" in (self.class_weights, self.sampling)

    @property
    def balancing(self) -> dict[str, str]:
        """The options that balance classes, where they are not the defaults, which earlier checkpoints do not know."""
        chosen = {"class_weights": self.class_weights, "sampling": self.sampling}
        return chosen if self.is_balanced else {}


@dataclass(frozen=True, kw_only=True)
class RetrainConfig:
    """Training of a derived network from scratch.

    Args:
        channels: Channels of the first cells (papers: 36 on CIFAR, 48 on ImageNet); for proxyless those of the first
            block, to which all others are in proportion (paper: 16).
        cells: Depth of the network, or cells in a stage for nasbench201 (papers: 20, 14, 5); for proxyless the blocks
            in a stage, as many as were searched.
        epochs: Passes over the training set (papers: 600, 250, 200).
        batch_size: Images a step.
        lr: Initial learning rate of SGD.
        lr_final: Learning rate at the end, for schedules that have one.
        schedule: How the learning rate changes: exponential is by 3 % an epoch, linear has a slow end.
        lr_warmup_epochs: Epochs over which the learning rate rises to its initial value.
        lr_per_step: Change the learning rate with every step instead of every epoch (cosine alone).
        momentum: Momentum of SGD.
        nesterov: Look ahead along the momentum.
        weight_decay: L2 penalty on all weights.
        decay_norms: Apply it to the scales and shifts of batch normalisation, too.
        grad_clip: Largest 2-norm of the gradient; 0 for no clipping.
        drop_path: Probability of a dropped path at the end; it grows linearly from zero.
        cutout: Side in pixels of the square that is blanked in every training image; 0 for none.
        augment: Changes to training images, as for the search; unset for those of the search.
        colour: What photo changes, as for the search; unset for that of the search.
        label_smoothing: Share of the target that is spread over all classes.
        auxiliary: Weight of the loss of a second classifier after the second reduction; 0 builds none.
        drop_last: Leave out the incomplete batch at the end of an epoch; several processes do in any case.
        evaluate_every: Epochs between evaluations on the test set, for the curves; the last epoch always is.
        init_from: A run or model folder whose weights the networks start from, as far as names and shapes agree; the
            classifier is fresh where the classes differ. supernet: those of the search, at the same channels and cells.

    Example:
        >>> import fastnas
        >>> fastnas.RetrainConfig(channels=36, cells=20, epochs=600, auxiliary=0.4).schedule
        'cosine'
    """

    __pydantic_config__ = STRICT

    channels: int = 16
    cells: int = 5
    epochs: int = 8
    batch_size: int = 64
    lr: float = 0.05
    lr_final: float = 0.0
    schedule: Literal["cosine", "cosine_power", "linear", "exponential", "restarts"] = "cosine"
    lr_warmup_epochs: int = 0
    lr_per_step: bool = False
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 3e-4
    decay_norms: bool = True
    grad_clip: float = 5.0
    drop_path: float = 0.0
    cutout: int = 0
    augment: Augment | None = None
    colour: Colour | None = None
    label_smoothing: float = 0.0
    auxiliary: float = 0.0
    drop_last: bool = True
    evaluate_every: int = 2
    init_from: str | None = None

    def __post_init__(self) -> None:
        _require_possible(self)
        _require_positive(self, "channels", "cells", "epochs", "batch_size", "lr", "evaluate_every")
        _require_not_negative(self, "momentum", "weight_decay", "grad_clip", "cutout", "auxiliary")
        _require_not_negative(self, "lr_final", "lr_warmup_epochs")
        _require_share(self, "drop_path", "label_smoothing")
        check_colour(self.colour)
        if self.lr_per_step and self.schedule != "cosine":
            raise invalid("RetrainConfig", "lr_per_step needs the cosine schedule", self.schedule)
        if self.epochs < self.least_epochs:
            rule = f"epochs must be at least {self.least_epochs} with the {self.schedule} schedule"
            raise invalid("RetrainConfig", rule, self.epochs, "Use the cosine schedule.")

    @property
    def least_epochs(self) -> int:
        """The fewest epochs for which the schedule is defined."""
        return {"linear": SLOW_END + 1, "cosine_power": self.lr_warmup_epochs + 1}.get(self.schedule, 1)


@dataclass(frozen=True, kw_only=True)
class SearchConfig(TrainingSetup):
    """Size, budget and optimisers of one search.

    Args:
        channels: Channels of the supernet's first cells (papers: 16); for proxyless those of the first block, to which
            all others are in proportion (paper: 16).
        cells: Depth of the supernet, or cells in a stage for nasbench201 (papers: 8 and 5); for proxyless the blocks in
            each of the first five stages (paper: 4).
        epochs: Passes over the half of the training images that trains weights (papers: 50).
        minutes: Time to search in, in place of epochs: these, the images and the warm-up are chosen by what a step
            takes here, and written to budget.json. `fastnas search` divides it between search, selection and
            retraining.
        warmup_epochs: Leading epochs in which alpha keeps its value; unset for the method's own share of them.
        batch_size: Images a step, of each half; all processes together where several run the search.
        drop_last: Leave out the incomplete batch at the end of an epoch; several processes do in any case.
        weight_share: Share of those on which weights are trained; alpha is trained on the others.
        fractions: Class-balanced shares of the training images for the weights and for alpha, of the search alone, in
            place of the two above; retraining keeps train_fraction.
        index: A file that says which images these are (`fastnas index`), in place of the three above.
        weight_lr: Initial learning rate of the weights (SGD).
        weight_lr_final: Learning rate of the weights at the end, for schedules that have one.
        weight_lr_warmup_epochs: Epochs over which that learning rate rises to its initial value.
        weight_schedule: How that learning rate changes; unset for the method's own way, mostly a cosine.
        momentum: Momentum of SGD.
        nesterov: Look ahead along the momentum.
        weight_decay: L2 penalty on the weights.
        grad_clip: Largest 2-norm of the weight gradient; 0 for no clipping.
        alpha_grad_clip: Largest 2-norm of the gradient of alpha and beta; 0 for no clipping.
        alpha_lr: Learning rate of alpha and beta (constant); unset for one by the steps in which alpha moves, so that
            it can decide in them: 0.03 up to 2,000, 3e-4 from 39,000 on. Single-DARTS takes 3e-4 where minutes are
            divided between several searches.
        alpha_beta1: Decay of Adam's mean.
        alpha_beta2: Decay of Adam's variance.
        alpha_weight_decay: L2 penalty on alpha and beta.
        recompute: What is recomputed in the backward pass to save memory, and changes no number: a word each for
            the stem and the cells or blocks after it, the last one for all others, too. none keeps everything; edges
            has those of one edge in memory at a time; cell takes a cell as a whole; joined takes it as one with the
            cell before.
        synchronise_statistics: Where several processes share a batch, normalise by all of it instead of by the own
            part, so that N processes compute what one does.
        evaluation_images: Images of the half for alpha on which every epoch's record is measured; unset for all.
        checkpoint_steps: Steps between checkpoints within an epoch; 0 writes one at the end of each epoch only.
        graph: On a GPU, launch a whole step at once as a CUDA graph, where the method takes nothing from the host in a
            step.

    Example:
        >>> import fastnas
        >>> fastnas.SearchConfig(channels=8, epochs=10, seed=3).weight_share
        0.5
    """

    __pydantic_config__ = STRICT

    channels: int = 16
    cells: int = 5
    epochs: int = 12
    minutes: float | None = None
    warmup_epochs: int | None = None
    batch_size: int = 64
    drop_last: bool = True
    weight_share: float = 0.5
    fractions: tuple[float, float] | None = None
    index: Path | None = None
    weight_lr: float = 0.1
    weight_lr_final: float = 0.0
    weight_lr_warmup_epochs: int = 0
    weight_schedule: (
        Literal["cosine", "cosine_power", "constant", "linear", "exponential", "restarts", "bold_driver"] | None
    ) = None
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 3e-4
    grad_clip: float = 5.0
    alpha_grad_clip: float = 0.0
    alpha_lr: float | None = None
    alpha_beta1: float = 0.5
    alpha_beta2: float = 0.999
    alpha_weight_decay: float = 1e-3
    recompute: tuple[Word, ...] = ("none",)
    synchronise_statistics: bool = False
    evaluation_images: int | None = None
    checkpoint_steps: int = 0
    graph: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive(self, "channels", "cells", "epochs", "batch_size", "weight_lr")
        _require_not_negative(self, "momentum", "weight_decay", "grad_clip", "alpha_weight_decay", "weight_lr_final")
        _require_not_negative(self, "checkpoint_steps", "alpha_grad_clip", "weight_lr_warmup_epochs")
        _require_share(self, "alpha_beta1", "alpha_beta2")
        require_words("SearchConfig", self.recompute)
        for name in ("alpha_lr", "minutes", "evaluation_images"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise invalid("SearchConfig", f"{name} must be positive", value)
        if self.warmup_epochs is not None and not 0 <= self.warmup_epochs < self.epochs:
            rule = f"warmup_epochs must lie in [0, epochs) = [0, {self.epochs})"
            remedy = "A search that is all warm-up never moves alpha."
            raise invalid("SearchConfig", rule, self.warmup_epochs, remedy)
        if not 0 < self.weight_share < 1:
            raise invalid("SearchConfig", "weight_share must lie in (0, 1)", self.weight_share)
        if self.fractions is not None and self.index is not None:
            rule, got = "fractions and index must not be given together", f"{self.fractions} and {self.index}"
            raise invalid("SearchConfig", rule, got, "The index file knows its fractions.")


def learning_rate(config: RetrainConfig, epoch: int, step: int = 0, steps: int = 1) -> float:
    """The learning rate of a step, warm-up included.

    The cosine power rises as in its published code, to its largest rate in the epoch after the warm-up.

    Args:
        config: The schedule.
        epoch: From zero.
        step: Of the epoch, from zero; it counts where the rate changes with every step.
        steps: Of an epoch.
    """
    every = steps if config.lr_per_step else 1
    at = Progress(epoch * every + step * config.lr_per_step, config.epochs * every)
    warmup, schedule = config.lr_warmup_epochs * every, LEARNING_RATES[config.schedule]
    if config.schedule == "cosine_power" and warmup:
        warmup, schedule = 0, CosinePower(warmup=warmup, horizon=config.epochs)
    return warm_up(schedule(Rate(config.lr, config.lr_final, at)), config.lr, at.epoch, warmup)


def announce_more(config: RetrainConfig, done: int) -> None:
    """Warn of what becomes of the schedule of a training that is given more epochs after ``done``."""
    text = f"retrain: from epoch {done} on the schedule is that of {config.epochs} epochs, with a rate of "
    text += f"{learning_rate(config, done):.4g}. The result is not that of so many epochs from the start."
    warnings.warn(text, RuntimeWarning, stacklevel=4)


def _require_possible(config: object) -> None:
    """Raise for values of other types, for numbers that are none, and for sizes that no machine has."""
    require_field_types(config)
    for name, value in vars(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise invalid(type(config).__name__, f"{name} must be a finite number", value)
        if name in MOST and value is not None and value > MOST[name]:
            raise invalid(type(config).__name__, f"{name} must be at most {MOST[name]}", value)


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not value > 0:
            raise invalid(type(config).__name__, f"{name} must be positive", value)


def _require_not_negative(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not value >= 0:
            raise invalid(type(config).__name__, f"{name} must not be negative", value)


def _require_share(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise invalid(type(config).__name__, f"{name} must lie in [0, 1)", value)
