"""Classes of unequal size: weights of their losses, and passes with as many images of each class."""

from typing import Literal

import numpy as np

Sampling = Literal["uniform", "balanced"]
"""``uniform`` takes every image once in a pass, ``balanced`` as many of every class."""
ClassWeights = Literal["equal", "balanced"]
"""``balanced`` weights the loss of an image by the inverse of the share of its class."""


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The weight of every class in a loss, ``[num_classes]``: ``N / (C n_c)`` (King and Zeng, 2001, "Logistic
    Regression in Rare Events Data", section 4.2), whose mean over the images is 1.

    Args:
        labels: Class of every image, ``[N]``.
        num_classes: How many there are. A class without an image has weight 0 and does not count in ``C``.

    Example:
        >>> import numpy as np
        >>> class_weights(np.array([0, 0, 0, 1]), 2).round(3).tolist()
        [0.667, 2.0]
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = counts > 0
    weights = np.zeros(num_classes)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def draw_balanced_pass(indices: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many images as ``indices``, in random order, with as many of every class; the number differs by 1 at most.

    Images of a small class come once more or less often than each other; of a large class, every pass has another
    random part.
    """
    classes = np.unique(labels[indices])
    share, rest = divmod(len(indices), len(classes))
    longer = set(rng.permutation(classes)[:rest].tolist())
    chosen = []
    for label in classes:
        members = indices[labels[indices] == label]
        count = share + (int(label) in longer)
        times = -(-count // len(members))
        chosen.append(np.concatenate([rng.permutation(members) for _ in range(times)] or [members])[:count])
    return rng.permutation(np.concatenate(chosen))
