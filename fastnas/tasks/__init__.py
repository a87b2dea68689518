"""What the outputs of a network mean, and how networks are trained and compared: tasks as values."""

from fastnas.tasks.kinds import Classification, Dense, MultiLabel, Regression
from fastnas.tasks.named import (
    CLASSIFICATION,
    TASKS,
    as_task,
    classification,
    dense,
    multi_label,
    regression,
    require_smoothing,
    require_unbalanced,
    task_from_json,
)
from fastnas.tasks.task import SCORES, Score, Task, read_score

__all__ = [
    "CLASSIFICATION",
    "SCORES",
    "TASKS",
    "Classification",
    "Dense",
    "MultiLabel",
    "Regression",
    "Score",
    "Task",
    "as_task",
    "classification",
    "dense",
    "multi_label",
    "read_score",
    "regression",
    "require_smoothing",
    "require_unbalanced",
    "task_from_json",
]
