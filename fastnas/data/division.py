"""Which images train weights and which train alpha; every division keeps the classes in balance."""

import numpy as np

from fastnas.seeds import stream
from fastnas_kernels.check import require

WHERE = "data"


def class_balanced_fraction(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Indices of a share of every class, sorted.

    Args:
        labels: Class of every image, ``[N]``.
        fraction: The share, in (0, 1].
        seed: Decides which images.

    Returns:
        ``round(fraction * n)`` of the ``n`` images of each class.

    Raises:
        ValueError: If ``fraction`` is out of range, or would leave a class without an image.
    """
    require(0 < fraction <= 1, WHERE, "train_fraction must lie in (0, 1]", fraction)
    first, _ = _cut_classes(np.arange(len(labels)), labels, fraction, stream(seed, "fraction"))
    emptied = np.setdiff1d(labels, labels[first])
    got = f"{fraction}, which leaves none of class {emptied[0]}" if len(emptied) else ""
    rule = "train_fraction must leave an image of every class"
    require(not len(emptied), WHERE, rule, got, "Raise --train-fraction.")
    return first


def split_halves(
    labels: np.ndarray, indices: np.ndarray, weight_share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide images into those that train weights and those that train alpha, class by class.

    Args:
        labels: Class of every image of the set, ``[N]``.
        indices: The images to divide.
        weight_share: Share of every class that trains weights, in (0, 1).
        seed: Decides which images.

    Returns:
        Both halves, sorted.

    Raises:
        ValueError: If a class has too few images to stand in both.
    """
    for_weights, for_alpha = _cut_classes(indices, labels, weight_share, stream(seed, "halves"))
    present = np.unique(labels[indices])
    for half, name in ((for_weights, "weights"), (for_alpha, "alpha")):
        missing = np.setdiff1d(present, labels[half])
        got = f"none of class {missing[0]} in the half for {name}" if len(missing) else ""
        rule = "every class must have images for weights and for alpha"
        require(not len(missing), WHERE, rule, got, "Raise --train-fraction, or add images to the class.")
    return for_weights, for_alpha


def steps_per_epoch(num_images: int, batch_size: int, what: str = "the training images") -> int:
    """Full batches in one pass; an incomplete one is dropped.

    Raises:
        ValueError: If there is not even one.
    """
    require(batch_size >= 1, WHERE, "batch_size must be at least 1", batch_size)
    rule = f"batch_size must not exceed {what} ({num_images})"
    require(batch_size <= num_images, WHERE, rule, batch_size, "Lower --batch-size or raise --train-fraction.")
    return num_images // batch_size


def _cut_classes(indices: np.ndarray, labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    first, second = [], []
    for label in np.unique(labels[indices]):
        members = rng.permutation(indices[labels[indices] == label])
        cut = round(share * len(members))
        first.append(members[:cut])
        second.append(members[cut:])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))
