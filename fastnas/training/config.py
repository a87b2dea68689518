"""Budgets and optimisers. What a method *is* lives in :mod:`fastnas.methods.library`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastnas.files import STRICT
from fastnas.supernet.recompute import Word, require_words
from fastnas_kernels.check import require


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
        schedule: How the learning rate falls: cosine to zero, linear with a slow end, or by 3 % an epoch.
        lr_warmup_epochs: Epochs over which the learning rate rises to its initial value.
        momentum: Momentum of SGD.
        nesterov: Look ahead along the momentum.
        weight_decay: L2 penalty on all weights.
        grad_clip: Largest 2-norm of the gradient; 0 for no clipping.
        drop_path: Probability of a dropped path at the end; it grows linearly from zero.
        cutout: Side in pixels of the square that is blanked in every training image; 0 for none.
        label_smoothing: Share of the target that is spread over all classes.
        auxiliary: Weight of the loss of a second classifier after the second reduction; 0 builds none.
        evaluate_every: Epochs between evaluations on the test set, for the curves; the last epoch always is.
    """

    __pydantic_config__ = STRICT

    channels: int = 16
    cells: int = 5
    epochs: int = 8
    batch_size: int = 64
    lr: float = 0.05
    schedule: Literal["cosine", "linear", "exponential"] = "cosine"
    lr_warmup_epochs: int = 0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 3e-4
    grad_clip: float = 5.0
    drop_path: float = 0.0
    cutout: int = 0
    label_smoothing: float = 0.0
    auxiliary: float = 0.0
    evaluate_every: int = 2

    def __post_init__(self) -> None:
        _require_positive(self, "channels", "cells", "epochs", "batch_size", "lr", "evaluate_every")
        _require_not_negative(self, "momentum", "weight_decay", "grad_clip", "cutout", "auxiliary", "lr_warmup_epochs")
        _require_share(self, "drop_path", "label_smoothing")
        where, rule = "RetrainConfig", "epochs must be more than 5 with the linear schedule"
        require(self.schedule != "linear" or self.epochs > 5, where, rule, self.epochs, "Use the cosine schedule.")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Size, budget and optimisers of one search.

    Args:
        channels: Channels of the supernet's first cells (papers: 16); for proxyless those of the first block, to which
            all others are in proportion (paper: 16).
        cells: Depth of the supernet, or cells in a stage for nasbench201 (papers: 8 and 5); for proxyless the blocks in
            each of the first five stages (paper: 4).
        epochs: Passes over the half of the training images that trains weights (papers: 50).
        warmup_epochs: Leading epochs in which alpha keeps its value; unset for the method's own share of them.
        batch_size: Images a step, of each half; all processes together where several run the search.
        train_fraction: Class-balanced share of the training images to use, in the search and in retraining.
        weight_share: Share of those on which weights are trained; alpha is trained on the others.
        fractions: Class-balanced shares of the training images for the weights and for alpha, of the search alone, in
            place of the two above; retraining keeps train_fraction.
        index: A file that says which images these are (`fastnas index`), in place of the three above.
        max_broken: Images that may be unreadable, each skipped and counted, before the run ends.
        weight_lr: Initial learning rate of the weights (SGD).
        weight_lr_final: Learning rate of the weights at the end, for schedules that have one.
        weight_lr_warmup_epochs: Epochs over which that learning rate rises to its initial value.
        weight_schedule: How that learning rate changes; unset for the method's own way, mostly a cosine.
        momentum: Momentum of SGD.
        nesterov: Look ahead along the momentum.
        weight_decay: L2 penalty on the weights.
        grad_clip: Largest 2-norm of the weight gradient; 0 for no clipping.
        alpha_grad_clip: Largest 2-norm of the gradient of alpha and beta; 0 for no clipping.
        alpha_lr: Learning rate of alpha and beta (constant).
        alpha_beta1: Decay of Adam's mean.
        alpha_beta2: Decay of Adam's variance.
        alpha_weight_decay: L2 penalty on alpha and beta.
        precision: Arithmetic of the networks; alpha is float32 in both.
        recompute: What is evaluated again in the backward pass to save memory, and changes no number: a word each for
            the stem and the cells or blocks after it, the last one for all others, too. none keeps everything; edges
            has those of one edge in memory at a time; cell takes a cell as a whole; joined takes it as one with the
            cell before.
        seed: Decides everything random.
        device: Where to run; auto takes a GPU if there is one.
        workers: Processes that decode images; 0 decodes between the steps.
        synchronise_statistics: Where several processes share a batch, normalise by all of it instead of by the own
            part, so that N processes compute what one does.
        checkpoint_steps: Steps between checkpoints within an epoch; 0 writes one at the end of each epoch only.
    """

    __pydantic_config__ = STRICT

    channels: int = 16
    cells: int = 5
    epochs: int = 12
    warmup_epochs: int | None = None
    batch_size: int = 64
    train_fraction: float = 1.0
    weight_share: float = 0.5
    fractions: tuple[float, float] | None = None
    index: Path | None = None
    max_broken: int = 0
    weight_lr: float = 0.1
    weight_lr_final: float = 0.0
    weight_lr_warmup_epochs: int = 0
    weight_schedule: Literal["cosine", "cosine_power", "linear", "exponential", "restarts", "bold_driver"] | None = None
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 3e-4
    grad_clip: float = 5.0
    alpha_grad_clip: float = 0.0
    alpha_lr: float = 1e-2
    alpha_beta1: float = 0.5
    alpha_beta2: float = 0.999
    alpha_weight_decay: float = 1e-3
    precision: Literal["float32", "bfloat16"] = "float32"
    recompute: tuple[Word, ...] = ("none",)
    seed: int = 0
    device: str = "auto"
    workers: int = 0
    synchronise_statistics: bool = False
    checkpoint_steps: int = 0

    def __post_init__(self) -> None:
        _require_positive(self, "channels", "cells", "epochs", "batch_size", "weight_lr", "alpha_lr")
        _require_not_negative(self, "momentum", "weight_decay", "grad_clip", "alpha_weight_decay", "weight_lr_final")
        _require_not_negative(self, "seed", "workers", "checkpoint_steps", "alpha_grad_clip", "weight_lr_warmup_epochs")
        _require_not_negative(self, "max_broken")
        _require_share(self, "alpha_beta1", "alpha_beta2")
        require_words("SearchConfig", self.recompute)
        where, warmup = "SearchConfig", self.warmup_epochs
        rule = f"warmup_epochs must lie in [0, epochs) = [0, {self.epochs})"
        remedy = "A search that is all warm-up never moves alpha."
        require(warmup is None or 0 <= warmup < self.epochs, where, rule, warmup, remedy)
        for name in ("train_fraction", "weight_share"):
            share = getattr(self, name)
            upper = 1 if name == "weight_share" else 1 + 1e-12
            rule = f"{name} must lie in (0, 1{')' if name == 'weight_share' else ']'}"
            require(0 < share < upper, where, rule, share)
        rule = "fractions and index must not stand together"
        both = self.fractions is not None and self.index is not None
        require(not both, where, rule, f"{self.fractions} and {self.index}", "The index file knows its fractions.")


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value > 0, type(config).__name__, f"{name} must be positive", value)


def _require_not_negative(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value >= 0, type(config).__name__, f"{name} must not be negative", value)


def _require_share(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(0 <= value < 1, type(config).__name__, f"{name} must lie in [0, 1)", value)
