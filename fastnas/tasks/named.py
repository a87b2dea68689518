"""Tasks as users name them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastnas.errors import describe, invalid
from fastnas.tasks.kinds import Classification, Dense, MultiLabel, Regression
from fastnas.tasks.task import WHERE, OwnLoss, Task


def require_unbalanced(task: Task, is_balanced: bool, has_weights: bool = False) -> None:
    """Raise if classes are to be balanced where nothing would do so.

    Args:
        task: What the outputs mean.
        is_balanced: Whether all classes are to count the same, by weights or by sampling.
        has_weights: Whether by weights in the loss.
    """
    if is_balanced and not isinstance(task, Classification):
        remedy = "Leave --class-weights and --sampling out, or weight the targets in a loss= of your own."
        raise invalid(WHERE, f"a task of {task.name} must not have balanced classes", "balanced", remedy)
    if has_weights and task.own_loss is not None:
        rule = "class_weights must be equal with a loss= of your own, which gets no weights"
        raise invalid(WHERE, rule, "balanced", "Weight the classes in it, or set sampling to balanced.")


def require_smoothing(task: Task, share: float) -> None:
    """Raise if targets are to be smoothed where the loss does not do so."""
    if share > 0 and (task.own_loss is not None or isinstance(task, Regression)):
        whose = "regression" if task.own_loss is None else "a loss= of your own"
        raise invalid(WHERE, f"label_smoothing must be 0 with {whose}, which does not smooth", share, "Leave it out.")


def classification(*, loss: OwnLoss | None = None, metrics: Mapping[str, Any] | None = None) -> Classification:
    """One class for each image, the default. Targets are whole numbers ``[N]``; the score is the accuracy.

    Args:
        loss: From logits ``[N, C]`` and classes ``[N]`` to a mean loss; by default cross-entropy.
        metrics: See :class:`Task`; they get probabilities.
    """
    return Classification(own_loss=loss, metrics=metrics or {})


def multi_label(
    *, threshold: float = 0.5, loss: OwnLoss | None = None, metrics: Mapping[str, Any] | None = None
) -> MultiLabel:
    """Any number of labels for each image. Targets are 0 or 1, ``[N, labels]``; the score is the mean of F1.

    Args:
        threshold: Probability from which a label counts as given.
        loss: From logits and targets ``[N, labels]`` to a mean loss; by default binary cross-entropy.
        metrics: See :class:`Task`; they get probabilities.

    Example:
        >>> import numpy as np
        >>> from fastnas.data import from_arrays
        >>> images, labels = np.zeros((40, 16, 16), np.uint8), np.eye(3)[np.arange(40) % 3]
        >>> from_arrays((images, labels), task=multi_label()).task.score_name
        'f1'
    """
    if not 0 < threshold < 1:
        raise invalid(WHERE, "threshold must lie in (0, 1)", threshold)
    return MultiLabel(threshold=threshold, own_loss=loss, metrics=metrics or {})


def regression(*, loss: OwnLoss | None = None, metrics: Mapping[str, Any] | None = None) -> Regression:
    """Numbers for each image. Targets are ``[N]`` or ``[N, D]``; the score is the root mean squared error, lower is
    better.

    Args:
        loss: From outputs and standardised targets ``[N, D]`` to a mean loss; by default the mean squared error.
        metrics: See :class:`Task`; they get numbers in the unit of the targets.
    """
    return Regression(own_loss=loss, metrics=metrics or {})


def dense(*, ignore_index: int = 255, loss: OwnLoss | None = None, metrics: Mapping[str, Any] | None = None) -> Dense:
    """A class for each place of a map (segmentation). Targets are whole numbers ``[N, H, W]`` of the size of the images
    or a fraction of it; the score is the mean intersection over union of the classes.

    Args:
        ignore_index: The number of places that count neither in the loss nor in the score.
        loss: From logits ``[N, C, H, W]`` and classes ``[N, H, W]`` to a mean loss; by default cross-entropy.
        metrics: See :class:`Task`; they get probabilities.
    """
    return Dense(ignore_index=ignore_index, own_loss=loss, metrics=metrics or {})


CLASSIFICATION = Classification()
TASKS: Mapping[str, type[Task]] = {kind.name: kind for kind in (Classification, MultiLabel, Regression, Dense)}


def as_task(task: Task | str | None) -> Task:
    """A task from itself or its name; classification for ``None``.

    Raises:
        ValueError: If there is none of that name.
    """
    if task is None:
        return CLASSIFICATION
    if isinstance(task, Task):
        return task
    if not isinstance(task, str) or task not in TASKS:
        raise invalid(
            WHERE, f"task must be one of {', '.join(TASKS)}", repr(task) if isinstance(task, str) else describe(task)
        )
    return TASKS[task]()


def task_from_json(content: Mapping[str, Any] | str) -> Task:
    """What :meth:`Task.describe` wrote; a loss of one's own is not in it.

    Raises:
        ValueError: If it describes no task.
    """
    numbers = {"name": content} if isinstance(content, str) else dict(content)
    kind = as_task(numbers.pop("name", None) or "")
    numbers.pop("own_loss", None)
    try:
        return replace(kind, **{name: tuple(x) if isinstance(x, list) else x for name, x in numbers.items()})
    except TypeError as error:
        raise invalid(WHERE, "the description must be that of a task", str(error)) from None
