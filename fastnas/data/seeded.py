"""Reading data loaders of one's own from seeds: passes that come again, and which images they give."""

import copy
import random
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, Subset

from fastnas.seeds import stream, torch_seed


def renew_workers(loader: Any) -> Any:
    """``loader``, with workers that start anew in every pass: those that last draw on where they stood."""
    if not (isinstance(loader, DataLoader) and loader.persistent_workers):
        return loader
    fresh = copy.copy(loader)
    fresh.__dict__.update(persistent_workers=False, _iterator=None)
    return fresh


def iterate_once(loader: Any, seed: int) -> Iterator[Any]:
    """The batches of one pass, each drawn from the seeds of its place."""
    generators = _generators(loader)
    sampler = getattr(loader, "sampler", None)
    if sampler is not None and hasattr(sampler, "set_epoch"):
        sampler.set_epoch(seed % 2**31)
    with seeded(stream(seed, "pass"), generators):
        iterator = iter(loader)
    position = 0
    while True:
        with seeded(stream(seed, "batch", position), generators):
            try:
                batch = next(iterator)
            except StopIteration:
                return
        yield batch
        position += 1


def _generators(loader: Any) -> list[torch.Generator]:
    holders = [loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    holders.append(getattr(holders[-1], "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


@contextmanager
def seeded(seed: int, generators: Sequence[torch.Generator] = ()) -> Generator[None, None, None]:
    """Seed all that reading images may draw from inside the block, and leave it as it was found."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.callback(random.setstate, of_python)
        stack.callback(np.random.set_state, of_numpy)
        for i, generator in enumerate(generators):
            stack.callback(generator.set_state, generator.get_state())
            generator.manual_seed(stream(seed, "generator", i))
        random.seed(seed)
        np.random.seed(seed % 2**32)
        stack.enter_context(torch_seed(seed))
        yield


def count_shared(one: Any, other: Any) -> int:
    """How many images two loaders share, as far as that is known."""
    (base, first), (other_base, second) = _members(one), _members(other)
    return len(first & second) if base is not None and base is other_base else 0


def _members(loader: Any) -> tuple[Any, set[int]]:
    """The data set under all subsets, and which of its images a loader gives, where that is known."""
    dataset, sampler = getattr(loader, "dataset", None), getattr(loader, "sampler", None)
    chosen = getattr(sampler, "indices", None)
    if dataset is None or not hasattr(dataset, "__len__"):
        return None, set()
    if chosen is None and not isinstance(sampler, RandomSampler | SequentialSampler):
        return None, set()
    members = list(range(len(dataset)) if chosen is None else map(int, chosen))
    while isinstance(dataset, Subset):
        members = [int(dataset.indices[i]) for i in members]
        dataset = dataset.dataset
    return dataset, set(members)
