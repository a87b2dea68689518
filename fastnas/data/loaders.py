"""Data loaders of one's own, taken as they are: their batches, their order, their images.

A search asks for the batch of a step again after a resume. So a pass over a loader begins with a seed of its own, and
so does every batch that is taken from it: for PyTorch's generators, NumPy's and Python's, and for those that the loader
and its samplers hold. A loader that draws from nothing else gives the same batches again; what is drawn in worker
processes follows from the seed of the pass. Whether this holds is tried when the data is made, and what does not hold
is warned of.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fastnas.data.config import WHERE
from fastnas.data.images import Batch, ImageData, ImageSet, is_large
from fastnas.data.prepare import say
from fastnas.data.seeded import count_shared, one_pass, without_lasting_workers
from fastnas.errors import describe, invalid
from fastnas.seeds import stream

PARTS = ("weights", "alpha", "test")
UNUSED = (
    *("train_fraction", "weight_share", "fractions", "index", "minutes"),
    *("max_broken", "workers", "class_weights", "sampling"),
)
"""Settings of a search or training that a loader decides itself."""


@dataclass(frozen=True)
class Loader:
    """A data loader, read so that its batches depend on a seed and their number alone, as far as it draws from seeds.

    Args:
        part: What it is for, one of :data:`PARTS`.
        source: An iterable of pairs (images, labels) with a length.
        image_shape: ``[C, H, W]`` of its images.
        num_classes: Which labels it may give: those below.
    """

    part: str
    source: Any
    image_shape: tuple[int, ...]
    num_classes: int

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, seed: int, first: int = 0) -> Iterator[Batch]:
        """Pass after pass, from the batch of the number ``first`` on; those before it in its pass are read and left."""
        number, place = divmod(first, len(self))
        while True:
            for position, (images, labels) in enumerate(one_pass(self.source, stream(seed, self.part, number))):
                if position >= place:
                    yield self._checked(images, labels, number * len(self) + position)
            number, place = number + 1, 0

    def once(self, seed: int) -> Iterator[Batch]:
        """One pass."""
        for position, (images, labels) in enumerate(one_pass(self.source, stream(seed, self.part))):
            yield self._checked(images, labels, position)

    def _checked(self, images: Tensor, labels: Tensor, number: int) -> Batch:
        if images.shape[1:2] != self.image_shape[:1] or images.ndim != 1 + len(self.image_shape):
            expected = ["N", *self.image_shape]
            raise invalid(self._at(number), f"images must have the shape {expected}", list(images.shape))
        if (
            labels.device.type == "cpu"
            and len(labels)
            and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes
        ):
            wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise invalid(self._at(number), f"labels must lie in [0, {self.num_classes}), one for each class", wrong)
        return Batch(images, labels.long())

    def _at(self, number: int) -> str:
        return f"{WHERE}: batch {number} of the loader for {self.part}"


@dataclass(frozen=True)
class Loaders:
    """The loaders that stand for images.

    Places of images stand for batches: each loader has as many places as batches of the first loader's size, one loader
    after the other.

    Args:
        training: Those for weights and alpha, or the first alone.
        test: That of the test images, if there is one.
        batch_size: Images of the first batch.
        digest: Of the first batches, if they come again.
    """

    training: tuple[Loader, ...]
    test: Loader | None
    batch_size: int
    digest: str | None

    @property
    def places(self) -> list[np.ndarray]:
        """The places of each loader for training."""
        ends = np.cumsum([0, *(self.batch_size * len(loader) for loader in self.training)])
        return [np.arange(start, end) for start, end in pairwise(ends)]

    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """The places for the weights, and for alpha."""
        if len(self.training) < 2:
            raise invalid(WHERE, "a search must have two loaders, for weights and for alpha", "one")
        return self.places[0], self.places[1]

    def paired(
        self,
        indices: np.ndarray,
        seed: int,
        first_step: int,
        num_steps: int,
        search_from_step: int,
        device: torch.device,
    ) -> Iterator[tuple[Batch, Batch | None]]:
        """See :func:`fastnas.data.paired_batches`."""
        for_weights = self._from(indices, seed, first_step)
        begin = max(first_step, search_from_step)
        for_alpha = self.training[1].batches(stream(seed, "alpha from", search_from_step), begin - search_from_step)
        for step in range(first_step, first_step + num_steps):
            second = _to(next(for_alpha), device) if step >= search_from_step else None
            yield _to(next(for_weights), device), second

    def for_training(
        self, indices: np.ndarray, seed: int, first_step: int, num_steps: int, device: torch.device
    ) -> Iterator[Batch]:
        """See :func:`fastnas.data.training_batches`."""
        batches = self._from(indices, seed, first_step)
        return (_to(next(batches), device) for _ in range(num_steps))

    def for_evaluation(self, indices: np.ndarray | None, device: torch.device) -> Iterator[Batch]:
        """The batches of a pass that is always the same: of the test loader, or of the one to which places belong."""
        if indices is None:
            loader, most = self.test, None
            if loader is None:
                remedy = "Make the data with fastnas.data.from_loaders(train, test=loader)."
                raise invalid(WHERE, "a retraining must have a loader of test images", "none", remedy)
        else:
            loader, most = self._readers(indices)[0], len(indices)
        seen = 0
        for batch in loader.once(0):
            if most is not None and seen >= most:
                return
            yield _to(batch, device)
            seen += len(batch.labels)

    def _readers(self, indices: np.ndarray) -> list[Loader]:
        of_each = zip(self.training, self.places, strict=True)
        return [loader for loader, places in of_each if np.isin(indices, places).any()]

    def _from(self, indices: np.ndarray, seed: int, first: int) -> Iterator[Batch]:
        """Passes over the loaders to which the places belong, one after the other."""
        readers = self._readers(indices)
        number, place = divmod(first, sum(map(len, readers)))
        while True:
            for loader in readers:
                skipped = min(place, len(loader))
                batches = loader.batches(seed, number * len(loader) + skipped)
                yield from (next(batches) for _ in range(len(loader) - skipped))
                place -= skipped
            number += 1

    def fit(self, config: Any, several: bool) -> Any:
        """``config`` with the batch size of the loaders.

        Args:
            config: A dataclass of settings.
            several: Whether several processes share the batches.

        Raises:
            ValueError: If it has a setting that a loader decides itself.
        """
        if several:
            raise invalid(WHERE, "data loaders must stand in one process", "several", "Give arrays or a data set.")
        fields = type(config).__dataclass_fields__
        for name in UNUSED:
            if name in fields and getattr(config, name) != fields[name].default:
                rule = f"{name} must be left out beside data loaders, which decide it"
                raise invalid(type(config).__name__, rule, getattr(config, name), "Set it in the loaders.")
        return replace(config, batch_size=self.batch_size) if "batch_size" in fields else config


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
    sources = {part: without_lasting_workers(loader) for part, loader in given.items()}
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
        notes=(
            f"batches of {len(images)} images, as the data loaders give them; numbers of images are counted by them",
        ),
        values=(0.0, 255.0),
        loaders=found,
    )
    for part in other:
        data = say(
            data,
            f"the loader for {part} gives other batches for the same seed, so that a run cannot be repeated, nor "
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
    batch = next(one_pass(loader, 0), None)
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


def _to(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(x.to(device, non_blocking=True) for x in batch))


def _refuse(image: object) -> Any:
    raise AssertionError("data loaders give batches")
