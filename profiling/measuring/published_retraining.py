"""Retraining by quark0/darts (its ``cnn``) beside the library's: the network of ``DARTS_V2`` for CIFAR-10."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastnas.data import Batch, BrokenImages, load_data
from fastnas.experiment.recipes import RECIPES
from fastnas.ranks import ALONE
from fastnas.seeds import stream
from fastnas.spaces.formats import read_genotype
from fastnas.training.config import TrainingSetup
from fastnas.training.retrain import _Training
from measuring.foreign import foreign_module, patched
from measuring.published import CPU, Size


def retraining(checkout: Path, size: Size, steps: int, rate: float = 0.0125, drop: float = 0.1) -> list[float]:
    """Relative differences of all weights after each step, with an auxiliary head and dropped paths, as in the middle
    of the published training.

    Its auxiliary head sets what is negative in its input to zero, in place. So do cells with what they read, and this
    changes nothing unless the head sits on the last cell, as with three: take four or more.
    """
    code: Any = foreign_module(checkout, "model", CPU)
    genotypes: Any = foreign_module(checkout, "genotypes", CPU)
    theirs = code.NetworkCIFAR(size.channels, 10, size.cells, True, genotypes.DARTS_V2)
    config = replace(RECIPES["darts_cifar10"].retrain, channels=size.channels, cells=size.cells, batch_size=4)
    data = replace(load_data("digits"), channels=3, resolution=(32, 32))
    setup = TrainingSetup(train_fraction=0.3, device="cpu")
    genotype, plain = read_genotype("DARTS_V2"), replace(config, augment=None, colour=None)
    ours = _Training(genotype, data, plain, setup, None, ALONE, BrokenImages())
    by_order: list[tuple[Tensor, Tensor]] = []
    for names in (("stem",), ("cells",), ("auxiliary", "auxiliary_head"), ("classifier",)):
        pairs = zip(getattr(ours.network, names[0]).parameters(), getattr(theirs, names[-1]).parameters(), strict=True)
        by_order += pairs
    with torch.no_grad():
        for own, other in by_order:
            own.copy_(other.reshape(own.shape))
    optimizer = torch.optim.SGD(theirs.parameters(), rate, momentum=0.9, weight_decay=3e-4)
    for group in ours.optimizer.param_groups:
        group["lr"] = rate
    theirs.drop_path_prob, original = drop, Tensor.bernoulli_
    generator, found = torch.Generator().manual_seed(1), []
    for step in range(steps):
        images = torch.rand(4, 3, 32, 32, generator=generator)
        labels = torch.randint(10, (4,), generator=generator)
        masks = torch.Generator().manual_seed(stream(0, "drop path", step))
        drawn = lambda x, p, masks=masks: original(x, p, generator=masks)  # noqa: E731
        with patched(torch.cuda, FloatTensor=torch.empty), patched(Tensor, bernoulli_=drawn):
            logits, side = theirs.train()(images)
        optimizer.zero_grad()
        (F.cross_entropy(logits, labels) + 0.4 * F.cross_entropy(side, labels)).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 5.0)
        optimizer.step()
        ours.network.train()
        ours.train_step(Batch(images, labels), drop)
        one, other = (torch.cat([pair[i].detach().flatten() for pair in by_order]) for i in (0, 1))
        found.append(float((one - other).norm() / other.norm()))
    return found
