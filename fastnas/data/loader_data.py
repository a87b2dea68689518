"""A data set made of data loaders of one's own: whether they come again, which images they share, what they give."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fastnas.data.config import WHERE
from fastnas.data.images import ImageData, ImageSet, is_large
from fastnas.data.loaders import PARTS, Loader, Loaders
from fastnas.data.prepare import say
from fastnas.data.seeded import count_shared, iterate_once, renew_workers
from fastnas.errors import describe, invalid


def is_loader(value: object) -> bool:
    """Whether ``value`` gives batches in an order of its own."""
    if isinstance(value, DataLoader):
        return True
    is_array = hasattr(value, "__getitem__") or hasattr(value, "__array__")
    return hasattr(value, "__iter__") and hasattr(value, "__len__") and not is_array


def from_loaders(
    weights: Any,
    alpha: Any = None,
    test: Any = None,
    *,
    classes: Sequence[str] | int | None = None,
    large: bool | None = None,
    name: str = "loaders",
) -> ImageData:
    """Make a data set of data loaders, whose batches are taken as they are.

    Args:
        weights: A ``DataLoader``, or another iterable with a length, of pairs: images, normalised, floating-point
            ``[N, C, H, W]``, and their classes, integers ``[N]``.
        alpha: The same for alpha; a search needs it. Its images should be others.
        test: The same to test on; a retraining needs it.
        classes: Their names or number; without them what the data set knows.
        large: Whether networks begin with strided convolutions; without it by the size of the images.
        name: What runs and reports call it.

    Raises:
        ValueError: If batches are not as described, or the classes are not known.

    Warns:
        DataWarning: If the same seed gives other batches, so that a search cannot be repeated or resumed exactly; or if
            the loaders share images.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from fastnas.data import from_loaders
        >>> parts = [TensorDataset(torch.randn(8, 1, 16, 16), torch.arange(8) % 2) for _ in range(2)]
        >>> data = from_loaders(*(DataLoader(part, batch_size=4, shuffle=True) for part in parts))
        >>> data.resolution, data.classes
        ((16, 16), ('0', '1'))
    """
    given = {part: loader for part, loader in zip(PARTS, (weights, alpha, test), strict=True) if loader is not None}
    sources = {part: renew_workers(loader) for part, loader in given.items()}
    first = {part: _first_batch(part, loader) for part, loader in sources.items()}
    images, names = first["weights"][0], _class_names(classes, weights)
    shape = tuple(images.shape[1:])
    loaders = {part: Loader(part, source, shape, len(names)) for part, source in sources.items()}
    again = {part: _first_batch(part, loader) for part, loader in sources.items()}
    other = [part for part in given if not _equal(first[part], again[part])]
    content = hashlib.sha256()
    for pair in first.values():
        for tensor in pair:
            content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    digest = None if other else content.hexdigest()[:16]
    training = tuple(loaders[part] for part in ("weights", "alpha") if part in loaders)
    found = Loaders(training, loaders.get("test"), len(images), digest)
    count = sum(map(len, found.places))
    size = shape[1:]
    tests = np.zeros(0 if test is None else len(loaders["test"]) * len(first["test"][0]), np.int64)
    data = ImageData(
        name=name,
        train=ImageSet(np.zeros(count, np.int64), _refuse),
        test=ImageSet(tests, _refuse),
        classes=names,
        channels=shape[0],
        resolution=size,
        train_transform=_refuse,
        eval_transform=_refuse,
        large=is_large(size) if large is None else large,
        augment="own",
        notes=(f"batches of {len(images)} images, as the data loaders give them; image counts are batches times that",),
        values=(0.0, 255.0),
        loaders=found,
    )
    for part in other:
        data = say(
            data,
            f"the loader for {part} gives other batches for the same seed, so a run can be neither repeated nor "
            "resumed exactly: let it draw from PyTorch's, NumPy's or Python's generator, or from its own generator=",
        )
    for one, second in (("weights", "alpha"), ("weights", "test"), ("alpha", "test")):
        if one in given and second in given and (shared := count_shared(given[one], given[second])):
            data = say(data, f"the loaders for {one} and for {second} share {shared} images")
    return data


def _class_names(classes: Sequence[str] | int | None, loader: Any) -> tuple[str, ...]:
    dataset = getattr(loader, "dataset", None)
    while classes is None and dataset is not None:
        known = getattr(dataset, "classes", None)
        if isinstance(known, list | tuple) and known:
            classes = list(map(str, known))
        labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
        tensors = getattr(dataset, "tensors", ())
        labels = tensors[1] if labels is None and len(tensors) == 2 else labels
        if classes is None and labels is not None and not callable(labels) and len(labels):
            classes = int(np.max(np.asarray(labels))) + 1
        dataset = getattr(dataset, "dataset", None)
    if classes is None:
        remedy = "Give them: fastnas.data.from_loaders(weights, alpha, classes=10)."
        raise invalid(WHERE, "the data set of a loader must know its classes", "none", remedy)
    return tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(map(str, classes))


def _first_batch(part: str, loader: Any) -> tuple[Tensor, Tensor]:
    where = f"{WHERE}: the loader for {part}"
    if not hasattr(loader, "__iter__"):
        raise invalid(where, "it must be an iterable of pairs (images, labels)", describe(loader))
    try:
        length = len(loader)
    except TypeError:
        remedy = "Give its data set a __len__, or the loader: webdataset's with_length."
        raise invalid(where, "it must have a length", describe(loader), remedy) from None
    if length == 0:
        remedy = "Lower its batch_size, or drop_last."
        raise invalid(where, "it must give batches", "none", remedy)
    batch = next(iterate_once(loader, 0), None)
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(isinstance(x, Tensor) for x in batch):
        raise invalid(where, "a batch must be a pair of tensors, images and labels", describe(batch))
    images, labels = batch
    if images.ndim not in (3, 4, 5) or len(images) != len(labels):
        got = f"{list(images.shape)} and {list(labels.shape)}"
        raise invalid(where, "images must have the shape [N, C, H, W] and labels [N]", got)
    if not images.is_floating_point():
        remedy = "Scale and normalise them in the data set, as v2.ToDtype(torch.float32, scale=True) does."
        raise invalid(where, "images must be floating-point", images.dtype, remedy)
    if labels.ndim != 1 or labels.is_floating_point():
        raise invalid(where, "labels must be whole numbers [N]", f"{labels.dtype} {list(labels.shape)}")
    return images, labels


def _equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _refuse(image: object) -> Any:
    raise AssertionError("data loaders give batches")
