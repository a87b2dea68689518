"""One step of retraining against a short reference of its own: dropped paths, auxiliary head, smoothed labels, warm-up.

The reference walks through the network's modules by itself and writes the rest down from the published scripts: the
mask of a path for each image is drawn for every operation that is no identity, kept ones are divided by the
probability of staying, and the gradient is clipped at a norm of 5 before momentum and weight decay.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fastnas.data import Batch, BrokenImages, load_data
from fastnas.experiment.recipes import RECIPES
from fastnas.ranks import ALONE
from fastnas.seeds import stream
from fastnas.spaces.chain_space import PROXYLESS
from fastnas.spaces.formats import read_genotype
from fastnas.spaces.sampling import random_genotype
from fastnas.training.config import TrainingSetup
from fastnas.training.retrain import _Training, learning_rate

DIGITS = load_data("digits")
SETUP = TrainingSetup(train_fraction=0.3, device="cpu")


def training_of(genotype, config, side, large, own=None):
    """A retraining of tiny size, ready for a step, and a batch for it."""
    data = replace(DIGITS, large=large, channels=3, resolution=(side, side))
    made = _Training(genotype, data, replace(config, augment=None, colour=None), SETUP, own, ALONE, BrokenImages())
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, side, side, generator=generator)
    return made, Batch(images, torch.tensor([1, 3, 5, 7]))


def smoothed(logits, labels, epsilon):
    """Cross-entropy with ``(1 - epsilon) onehot + epsilon / K``."""
    count = logits.shape[1]
    target = (1 - epsilon) * nn.functional.one_hot(labels, count) + epsilon / count
    return -(target * logits.log_softmax(1)).sum(1).mean()


def forward(network, images, keep, seed):
    """Logits of the network and of its auxiliary head, with paths dropped where ``keep`` is below one."""
    generator = torch.Generator().manual_seed(seed)

    def dropped(operation, x):
        y = operation(x)
        if keep == 1 or isinstance(operation, nn.Identity):
            return y
        mask = torch.empty(len(y), 1, 1, 1).bernoulli_(keep, generator=generator)
        return y / keep * mask

    older, newer = network.stem(images.contiguous(memory_format=torch.channels_last))
    side = None
    for number, cell in enumerate(network.cells):
        states = [prepare(x) for prepare, x in zip(cell.inputs, (older, newer), strict=True)]
        for sources, operations in zip(cell.sources, cell.nodes, strict=True):
            states.append(sum(dropped(op, states[s]) for op, s in zip(operations, sources, strict=True)))
        older, newer = newer, torch.cat([states[i] for i in cell.concat], 1)
        if number == 2 * len(network.cells) // 3:
            side = network.auxiliary(newer)
    return network.classifier(newer.mean((2, 3))), side


def expected_step(made, loss, lr, decay_of):
    """The weights after SGD with momentum from rest: clipped gradient plus decay, times the rate."""
    named = dict(made.network.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    limit, config = made.config.grad_clip, made.config
    norm = torch.stack([g.norm() for g in found]).norm()
    scale = (limit / (norm + 1e-6)).clamp(max=1) if limit else torch.tensor(1.0)
    after = {}
    for (name, p), g in zip(named.items(), found, strict=True):
        v = g * scale + decay_of(name) * p.detach()
        ahead = v + config.momentum * v if config.nesterov else v
        after[name] = p.detach() - lr * ahead
    return after


def check(made, batch, drop_path, lr, after):
    for group in made.optimizer.param_groups:
        group["lr"] = lr
    made.train_step(batch, drop_path)
    found = {name: p.detach() for name, p in made.network.named_parameters()}
    torch.testing.assert_close(found, after, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("recipe", ["darts_cifar10", "pc_darts_cifar10", "p_darts_cifar10"])
def test_a_step_on_cifar_drops_paths_and_hears_the_auxiliary_head(recipe):
    config = replace(RECIPES[recipe].retrain, channels=4, cells=3, batch_size=4)
    made, batch = training_of(read_genotype("DARTS_V2"), config, 32, large=False)
    epoch = 300
    rate, drop = learning_rate(config, epoch), config.drop_path * epoch / 600
    assert rate == pytest.approx(0.0125)
    assert drop == pytest.approx({"darts_cifar10": 0.1}.get(recipe, 0.15))
    made.network.train()
    logits, side = forward(made.network, batch.images, 1 - drop, stream(0, "drop path", 0))
    loss = smoothed(logits, batch.labels, 0.0) + 0.4 * smoothed(side, batch.labels, 0.0)
    check(made, batch, drop, rate, expected_step(made, loss, rate, lambda name: 3e-4))


def test_a_step_on_imagenet_smooths_labels_and_warms_up():
    config = replace(RECIPES["pc_darts_imagenet"].retrain, channels=4, cells=3, batch_size=4)
    made, batch = training_of(read_genotype("PC_DARTS_image"), config, 224, large=True)
    rates = [learning_rate(config, epoch) for epoch in (0, 3, 5, 6, 249)]
    assert rates == pytest.approx([0.1, 0.4, 0.5 * 240 / 245, 0.5 * 239 / 245, 0.5 / (5 * 245)])
    assert not any(isinstance(m, nn.BatchNorm2d) for m in list(made.network.auxiliary.features)[5:])  # none after 2x2
    made.network.train()
    logits, side = forward(made.network, batch.images, 1.0, 0)
    loss = smoothed(logits, batch.labels, 0.1) + 0.4 * smoothed(side, batch.labels, 0.1)
    check(made, batch, 0.0, rates[1], expected_step(made, loss, rates[1], lambda name: 3e-5))


def test_a_step_of_proxyless_looks_ahead_and_spares_normalisation_of_decay():
    space = PROXYLESS.with_depth(1)
    config = replace(RECIPES["proxyless_imagenet"].retrain, channels=8, cells=1, batch_size=4)
    made, batch = training_of(random_genotype(space, 0), config, 32, large=True, own=space)
    norms = {
        f"{n}.{p}"
        for n, m in made.network.named_modules()
        if isinstance(m, nn.BatchNorm2d)
        for p, _ in m.named_parameters()
    }
    made.network.train()
    state = made.network.stem(batch.images)
    for block in made.network.blocks:
        y = state if block.operation is None else block.operation(state)
        state = state + y if block.shortcut and block.operation is not None else y
    logits = made.network.classifier(made.network.head(state).mean((2, 3)))
    loss = smoothed(logits, batch.labels, 0.1)
    assert (config.auxiliary, config.grad_clip, config.nesterov) == (0.0, 0.0, True)
    rate = learning_rate(config, 10, 3, 100)
    check(made, batch, 0.0, rate, expected_step(made, loss, rate, lambda name: 0.0 if name in norms else 4e-5))
