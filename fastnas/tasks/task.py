"""What the outputs of a network mean: classes, labels or numbers.

A task says which targets it takes, which loss is trained on, and which score tells networks apart. It belongs to the
data (:func:`fastnas.data.from_arrays`), so that search, selection, retraining, report and prediction follow it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from fastnas.errors import invalid
from fastnas.fingerprint import fingerprint
from fastnas_kernels.tensors import accumulator

WHERE = "task"
OwnLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Score:
    """A number by which networks are compared.

    Args:
        label: What tables and figures call it.
        is_share: Whether it is a fraction, shown in percent.
        higher_is_better: Whether the larger number wins.
    """

    label: str
    is_share: bool = True
    higher_is_better: bool = True

    def show(self, value: float) -> str:
        """The number as a text, with its unit."""
        return f"{100 * value:.2f} %" if self.is_share else f"{value:.4g}"

    def is_better(self, one: float, other: float) -> bool:
        """Whether ``one`` wins over ``other``."""
        return one > other if self.higher_is_better else one < other

    def best(self, values: Sequence[float]) -> float:
        """The one that wins."""
        return max(values) if self.higher_is_better else min(values)

    @property
    def factor(self) -> int:
        """What figures and tables multiply it by."""
        return 100 if self.is_share else 1

    @property
    def title(self) -> str:
        """The label, with the unit of :attr:`factor`."""
        return f"{self.label} (%)" if self.is_share else self.label


SCORES: Mapping[str, Score] = {
    "accuracy": Score("accuracy"),
    "f1": Score("mean F1"),
    "miou": Score("mean IoU"),
    "rmse": Score("RMSE", is_share=False, higher_is_better=False),
}
"""By the names that records use: ``test_accuracy``, ``test_f1``, ..."""


def read_score(record: Mapping[str, Any], part: str) -> tuple[Score, float | None]:
    """The score of a record, and what it is.

    Args:
        record: A line of ``metrics.jsonl`` or an entry of ``comparison.json``.
        part: ``inner``, ``outer``, ``train`` or ``test``.
    """
    name = next((name for name in SCORES if record.get(f"{part}_{name}") is not None), None)
    name = name or next((name for name in SCORES if f"{part}_{name}" in record), "accuracy")
    return SCORES[name], record.get(f"{part}_{name}")


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What the outputs of a network mean.

    Args:
        own_loss: From outputs and targets to the mean loss of a batch, in place of the task's own.
        metrics: Further numbers to measure on the test images: objects with ``reset()``, ``update(predictions,
            targets)`` and ``compute()``, as torchmetrics has them, by name.
    """

    own_loss: OwnLoss | None = field(default=None, compare=False)
    metrics: Mapping[str, Any] = field(default_factory=dict, compare=False)

    name: ClassVar[str]
    score_name: ClassVar[str]

    @property
    def score_kind(self) -> Score:
        """The score by which networks are compared."""
        return SCORES[self.score_name]

    @abstractmethod
    def take_targets(self, targets: Any) -> np.ndarray:
        """Targets in the type that batches are made of."""

    @abstractmethod
    def name_outputs(self, targets: np.ndarray) -> list[str]:
        """Names of the outputs, where nobody gives them."""

    @abstractmethod
    def check(self, targets: np.ndarray, names: Sequence[str]) -> None:
        """Raise ``ValueError`` unless ``targets`` are some of outputs with these names."""

    def fit(self, targets: np.ndarray) -> Self:
        """The task with what has to be known of the training targets."""
        return self

    @abstractmethod
    def batch_loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """The task's own mean loss."""

    def loss(
        self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0
    ) -> Tensor:
        """The mean loss of a batch, at least in float32.

        Args:
            outputs: Of the network.
            targets: Of the images.
            weights: Of classes; only classification has them.
            label_smoothing: Share of the target that is spread over all classes.
        """
        wide = outputs.to(accumulator(outputs.dtype))
        if self.own_loss is not None:
            return self.own_loss(wide, targets)
        return self.batch_loss(wide, targets, label_smoothing)

    @abstractmethod
    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Numbers whose sum over all batches decides the score."""

    @abstractmethod
    def score(self, statistics: Tensor, images: int) -> Tensor:
        """The score, a scalar."""

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """What a user wants to know: probabilities, or numbers in the unit of the targets."""

    @abstractmethod
    def example_targets(self, count: int, outputs: int, device: torch.device) -> Tensor:
        """Targets of the right shape and type, to measure memory with."""

    def describe(self) -> dict[str, Any]:
        """The task as JSON; loss and metrics of one's own by name alone."""
        numbers = asdict(replace(self, metrics={}))
        del numbers["own_loss"], numbers["metrics"]
        numbers = {name: list(value) if isinstance(value, tuple) else value for name, value in numbers.items()}
        own = {} if self.own_loss is None else {"own_loss": fingerprint(self.own_loss)}
        return {"name": self.name, **numbers, **own}


def as_array(targets: Any) -> np.ndarray:
    return np.asarray(targets.detach().cpu() if isinstance(targets, Tensor) else targets)


def check_columns(targets: np.ndarray, names: Sequence[str]) -> None:
    if targets.ndim != 2 or targets.shape[1] != len(names):
        rule = f"targets must have a column for each of {len(names)} outputs"
        raise invalid("data", rule, list(targets.shape), "Give classes= a name for each.")
