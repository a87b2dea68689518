"""Settings that a method would not read are refused before anything runs."""

from dataclasses import replace

import pytest
from torch import nn

from fastnas import search
from fastnas.cli.recipe import recipe_in
from fastnas.engine.fit import require_read
from fastnas.experiment.recipes import RECIPES
from fastnas.methods import METHODS, darts, dso_nas, gaea, lambda_darts, spos
from fastnas.spaces import NASBENCH201
from fastnas.training.config import SearchConfig
from tests.helpers import DIGITS

CONFIG = SearchConfig(channels=4, cells=1, epochs=1, batch_size=8, train_fraction=0.03, device="cpu")


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        (spos(), "alpha_lr", 0.1),
        (spos(), "alpha_beta1", 0.9),
        (spos(), "alpha_grad_clip", 1.0),
        (gaea(), "alpha_beta2", 0.9),
        (gaea(), "alpha_weight_decay", 0.0),
        (dso_nas(), "alpha_weight_decay", 0.1),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_setting_of_alpha_that_nothing_reads_is_refused(method, name, value):
    with pytest.raises(ValueError, match=f"search: {name} must not be set for {method.name}, which does not read it"):
        search(NASBENCH201, method, DIGITS, replace(CONFIG, **{name: value}))


def test_settings_that_are_read_are_taken():
    everything = replace(CONFIG, alpha_lr=0.1, alpha_beta1=0.9, alpha_beta2=0.9, alpha_weight_decay=0.0)
    require_read(darts(), everything)
    require_read(gaea(), replace(CONFIG, alpha_lr=0.1, alpha_grad_clip=1.0))
    require_read(dso_nas(), replace(CONFIG, alpha_lr=0.1))


def test_a_supernet_of_ones_own_without_places_cannot_align_its_cells():
    own = nn.Linear(1, 1)
    own.space = NASBENCH201
    with pytest.raises(ValueError, match=r"must have places.*that lambda_darts aligns, got Linear"):
        search(own, lambda_darts(), DIGITS, CONFIG)


def test_a_recipe_for_another_method_leaves_out_what_a_method_does_not_read():
    arguments = ["--recipe", "proxyless_imagenet", "--method"]
    assert recipe_in([*arguments, "gaea"]).config.alpha_beta1 == SearchConfig.alpha_beta1
    assert recipe_in([*arguments, "gaea"]).config.alpha_lr == RECIPES["proxyless_imagenet"].config.alpha_lr
    assert recipe_in([*arguments, "spos"]).config.alpha_lr is None
    assert recipe_in([*arguments, "darts"]).config == RECIPES["proxyless_imagenet"].config


@pytest.mark.parametrize("name", METHODS)
def test_every_recipe_starts_with_every_method(name):
    for recipe in RECIPES:
        small = recipe_in(["--recipe", recipe, "--method", name, "--smoke"]).config
        require_read(METHODS[name](), small)
        assert small.epochs >= len(METHODS[name]().stages)
