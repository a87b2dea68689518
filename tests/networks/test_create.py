"""Derived networks as backbones."""

import doctest

import pytest
import torch
from torch import nn

import fastnas
from fastnas.networks import create
from fastnas.networks.create import create_model, register_with_timm
from fastnas.networks.model import Model, ModelInfo, Preprocessing
from fastnas.spaces import genotype_to_json, random_genotype, space_by_name

SMALL = {"channels": 4, "cells": 3}


def test_the_example_holds():
    assert doctest.testmod(create).failed == 0


def test_sizes_are_those_of_the_papers_where_none_are_given():
    with torch.device("meta"):
        imagenet, cifar = create_model("DARTS_V2"), create_model("DARTS_V2", num_classes=10, large=False)
    assert sum(p.numel() for p in imagenet.parameters()) == 4_718_752
    assert sum(p.numel() for p in cifar.parameters()) == 3_349_342


def test_other_numbers_of_classes_and_channels_and_no_head():
    network = create_model("PDARTS", num_classes=7, in_chans=1, large=False, **SMALL).eval()
    images = torch.randn(2, 1, 32, 32)
    assert network(images).shape == (2, 7)
    network.reset_classifier(0)
    assert network(images).shape == (2, network.num_features)
    network.reset_classifier(3)
    assert network(images).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "large", "strides"),
    [("darts", True, [8, 16, 32]), ("darts", False, [1, 2, 4]), ("nasbench201", False, [1, 2, 4]),
     ("proxyless_1", True, [2, 4, 8, 16, 32]), ("dso", False, [1, 2, 4])],
)  # fmt: skip
def test_feature_maps_have_the_channels_and_strides_that_they_say(name, large, strides):
    space = space_by_name(name)
    sizes = {"channels": 4, "cells": space.min_cells}
    network = create_model(random_genotype(space, 1), features_only=True, in_chans=2, large=large, own=space, **sizes)
    assert [info["reduction"] for info in network.feature_info] == strides
    side = 64
    maps = network(torch.randn(2, 2, side, side))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (info["num_chs"], side // info["reduction"], side // info["reduction"]) for info in network.feature_info
    ]


def test_the_network_of_a_run_keeps_its_weights_and_takes_another_head_and_other_images(tmp_path):
    genotype = random_genotype(space_by_name("nasbench201"), 1)
    info = ModelInfo(genotype_to_json(genotype), None, ("a", "b"), 4, 1, False, Preprocessing(1, 8, (0.5,), (0.5,)))
    trained = info.build()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1)
    Model(trained.eval(), info).save(tmp_path / "model")
    network = create_model(tmp_path, num_classes=5, in_chans=3)
    assert network.eval()(torch.randn(2, 3, 8, 8)).shape == (2, 5)
    kept = dict(trained.named_parameters())
    same = {name for name, p in network.named_parameters() if torch.equal(p, kept.get(name, torch.empty(0)))}
    assert {name for name, _ in network.named_parameters()} - same == {
        "stem.convolution.weight", "classifier.weight", "classifier.bias"
    }  # fmt: skip
    with pytest.raises(ValueError, match="the network of a run has its own sizes, got cells"):
        create_model(tmp_path, cells=3)


def test_what_does_not_fit_is_one_clear_line():
    with pytest.raises(ValueError, match=r"create_model: large must be off in nasbench201, got True"):
        create_model(random_genotype(space_by_name("nasbench201"), 0), large=True)
    with pytest.raises(ValueError, match="Did you mean DARTS_V"):
        create_model("DARTS_V9")
    assert fastnas.create_model is create_model


def test_timm_makes_the_known_genotypes():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    assert "fastnas_darts_v2" in register_with_timm()
    assert register_with_timm()  # twice does no harm
    network = timm.create_model("fastnas_darts_v2", num_classes=3, large=False, **SMALL)
    assert isinstance(network.classifier, nn.Linear)
    assert network.classifier.out_features == 3
