"""What a method leaves to a run, as its paper and its published code have it: rates, images, initial weights."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fastnas.data import load_data, paired_batches, training_batches
from fastnas.data.transforms import ColourJitter, training_transform
from fastnas.engine import search
from fastnas.experiment.recipes import RECIPES
from fastnas.mechanisms.schedules import Progress
from fastnas.methods import darts, sharp_darts
from fastnas.methods.variants import with_techniques
from fastnas.networks.chain import ChainNetwork
from fastnas.spaces.cell_space import NASBENCH201
from fastnas.spaces.chain_space import PROXYLESS
from fastnas.spaces.sampling import random_genotype
from fastnas.supernet.chain import ChainSupernet
from fastnas.training.config import RetrainConfig, SearchConfig, TrainingSetup
from fastnas.training.retrain import _Training, learning_rate, retrain

DIGITS = load_data("digits")


def jitters_of(images):
    """What the recipe's images do to colours: largest changes of brightness, contrast, saturation and hue."""
    transform = training_transform((32, 32), 3, "crop", True, images.augment, images.colour)
    found = [t.jitter for t in transform.transforms if isinstance(t, ColourJitter)]
    return [[0.0 if r is None else max(r) - (i < 3) for i, r in enumerate(ranges(jitter))] for jitter in found]


def ranges(jitter):
    return jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue


def test_colours_on_imagenet_are_those_of_each_method():
    pc_darts, proxyless = RECIPES["pc_darts_imagenet"], RECIPES["proxyless_imagenet"]
    assert jitters_of(pc_darts.images) == []
    assert jitters_of(pc_darts.retrain) == [pytest.approx([0.4, 0.4, 0.4, 0.2])]
    assert jitters_of(proxyless.images) == [pytest.approx([32 / 255, 0, 0.5, 0])]
    assert jitters_of(proxyless.retrain) == [pytest.approx([0.4, 0.4, 0.4, 0.1])]


@pytest.mark.parametrize("kind", ["supernet", "derived"])
def test_chains_begin_with_the_filters_of_he_and_an_unbiased_classifier(kind):
    torch.manual_seed(0)
    space = PROXYLESS.with_depth(1)
    if kind == "supernet":
        network = ChainSupernet(10, 16, space=space)
    else:
        network = ChainNetwork(random_genotype(space, 0), 10, 16, space=space)
    for conv in (m for m in network.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 2000):
        out, _, height, width = conv.weight.shape
        assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / (height * width * out)), rel=0.08)
    assert not network.classifier.bias.any()
    assert network.classifier.weight.detach().abs().max() <= 1 / math.sqrt(network.classifier.in_features)


def test_sharp_darts_trains_as_published():
    recipe = RECIPES["sharp_darts_cifar10"]
    training = recipe.retrain
    assert recipe.images.augment == training.augment == "auto"
    assert with_techniques(sharp_darts(), recipe.techniques).cutout(Progress(0, 120)) == 1.0
    assert (training.epochs, training.batch_size, training.cutout) == (2000, 64, 16)
    rates = [learning_rate(training, epoch) for epoch in range(2000)]
    assert (max(rates), rates.index(max(rates)), rates[-1]) == (0.025, 5, 1e-8)


def test_the_cosine_power_of_a_training_rises_in_equal_steps():
    """From the published schedule: the axis is shifted by the warm-up, and the last rate is the final one exactly."""
    config = RetrainConfig(epochs=50, lr=0.025, lr_final=1e-4, schedule="cosine_power", lr_warmup_epochs=5)
    rates = [learning_rate(config, epoch) for epoch in range(50)]
    assert rates[:8] == pytest.approx([0.00425, 0.0084, 0.01255, 0.0167, 0.02085, 0.025, 0.024832, 0.024624], abs=1e-6)
    assert rates[-1] == pytest.approx(1e-4, abs=1e-12)
    with pytest.raises(ValueError, match="epochs must be at least 6 with the cosine_power schedule, got 5"):
        replace(config, epochs=5)


def test_proxyless_changes_the_rate_with_every_step_and_spares_normalisation_of_decay():
    config = RECIPES["proxyless_imagenet"].retrain
    for epoch, step in ((0, 0), (0, 7), (3, 2), (299, 9)):
        expected = 0.05 * (1 + math.cos(math.pi * (10 * epoch + step) / 3000)) / 2
        assert learning_rate(config, epoch, step, 10) == pytest.approx(expected, abs=1e-15)
    with pytest.raises(ValueError, match="lr_per_step needs the cosine schedule"):
        RetrainConfig(lr_per_step=True, schedule="restarts")
    genotype, small = random_genotype(PROXYLESS.with_depth(1), 0), replace(config, cells=1, epochs=1, augment=None)
    arguments = (TrainingSetup(train_fraction=0.3, device="cpu"), PROXYLESS.with_depth(1))
    made = _Training(genotype, DIGITS, replace(small, colour=None), *arguments, *alone())
    decays = {id(p): group["weight_decay"] for group in made.optimizer.param_groups for p in group["params"]}
    for module in made.network.modules():
        for p in module.parameters(recurse=False):
            assert decays[id(p)] == (0.0 if isinstance(module, nn.BatchNorm2d) else 4e-5)


def alone():
    from fastnas.data import BrokenImages  # noqa: PLC0415
    from fastnas.ranks import ALONE  # noqa: PLC0415

    return ALONE, BrokenImages()


def test_the_last_batch_stays_where_it_has_statistics():
    weights, alpha = range(70), range(70, 135)  # two incomplete batches, the second one of one image
    options = {"batch_size": 32, "seed": 0, "first_step": 0, "num_steps": 6, "search_from_step": 0, "workers": 0}
    pairs = list(paired_batches(DIGITS, torch.arange(70).numpy(), torch.arange(70, 135).numpy(), **options))
    assert [len(w.labels) for w, _ in pairs] == [32] * 6
    pairs = list(
        paired_batches(DIGITS, torch.arange(70).numpy(), torch.arange(70, 135).numpy(), **options, drop_last=False)
    )
    assert [(len(w.labels), len(a.labels)) for w, a in pairs] == [(n, 32) for n in (32, 32, 6, 32, 32, 6)]
    seen = torch.cat([w.labels for w, _ in pairs[:3]]).sort().values
    assert torch.equal(seen, torch.tensor(DIGITS.train.labels[list(weights)]).sort().values)
    assert {int(x) for _, a in pairs for x in a.labels} <= {int(DIGITS.train.labels[i]) for i in alpha}
    del options["search_from_step"]
    sizes = [len(b.labels) for b in training_batches(DIGITS, torch.arange(70).numpy(), **options, drop_last=False)]
    assert sizes == [32, 32, 6, 32, 32, 6]


def test_a_search_and_a_training_with_all_images_make_a_step_more():
    config = SearchConfig(channels=4, cells=1, epochs=1, batch_size=32, train_fraction=0.1, device="cpu")
    for drop_last, steps in ((True, 2), (False, 3)):
        found = search(NASBENCH201, darts(), DIGITS, replace(config, drop_last=drop_last))
        assert found.history[-1]["step"] == steps
    counts = []
    small = RetrainConfig(channels=4, cells=1, epochs=1, batch_size=32, drop_last=False)
    retrain(found.genotype, DIGITS, small, config, on_step=lambda done, total: counts.append((done, total)))
    assert counts[-1] == (5, 5)
