"""Spaces of one and three dimensions: searched, derived, retrained and loaded like those of images."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import fastnas
from fastnas.data import from_arrays, from_dataset
from fastnas.networks.derived import build_network
from fastnas.selection import LadderConfig, select
from fastnas.spaces import DARTS, NASBENCH201
from fastnas.spaces.sampling import random_genotype
from fastnas.supernet import batch_norm
from fastnas.supernet.operations import AvgPool3d
from fastnas.training.config import RetrainConfig, SearchConfig

SIZES = {1: (12,), 3: (6, 7, 8)}
COUNT = 24
Y = np.arange(COUNT) % 3
SEARCH = SearchConfig(channels=4, cells=3, epochs=2, batch_size=4, warmup_epochs=0, device="cpu")
RETRAIN = RetrainConfig(channels=4, cells=3, epochs=1, batch_size=8, cutout=2, drop_path=0.2)


def series_or_volumes(dimensions, dtype=np.float32):
    x = np.random.default_rng(0).normal(size=(COUNT, 2, *SIZES[dimensions]))
    return (x * 20 + 100).astype(dtype)


def own_space(dimensions):
    """A space of one's own layers, with as few primitives of the library as may be."""
    layer = {1: nn.Conv1d, 3: nn.Conv3d}[dimensions]

    def wide(channels, stride, searching):
        return nn.Sequential(
            nn.ReLU(), layer(channels, channels, 3, stride, 1, bias=False), batch_norm(channels, searching)
        )

    primitives = ("none", "skip_connect", "wide")
    return replace(
        DARTS, name=f"own_{dimensions}", primitives=primitives, operations={"wide": wide}, dimensions=dimensions
    )


def library_space(dimensions):
    return replace(DARTS, name=f"darts_{dimensions}d", dimensions=dimensions)


@pytest.mark.parametrize("dimensions", [1, 3])
@pytest.mark.parametrize("make", [own_space, library_space])
def test_a_space_is_searched_selected_retrained_and_loaded(dimensions, make, tmp_path):
    space, x = make(dimensions), series_or_volumes(dimensions)
    result = fastnas.search(space, "darts", (x, Y), SEARCH)
    data = from_arrays((x, Y), dimensions=dimensions)
    ladder = LadderConfig(proposals=2, entrants=2, steps=1, images=4)
    chosen = select(result, space, fastnas.methods.darts(), data, SEARCH, RETRAIN, ladder)
    trained = fastnas.retrain(chosen.genotype, (x, Y), RETRAIN, SEARCH, folder=tmp_path, own=space)
    kinds = {type(module) for module in trained.network.modules()}
    assert {1: nn.Conv1d, 3: nn.Conv3d}[dimensions] in kinds
    assert nn.Conv2d not in kinds
    assert trained.multiply_adds > 0
    if make is library_space:
        model = fastnas.load(tmp_path)
        inputs = model.preprocessing.normalize(torch.from_numpy(x))
        torch.testing.assert_close(inputs.std(), torch.tensor(1.0), rtol=0.05, atol=0)
        torch.testing.assert_close(model(inputs), trained.network(inputs))
        content = json.loads((tmp_path / "model" / "model.json").read_text())
        assert content["preprocessing"]["resolution"] == list(SIZES[dimensions])


ONE_INPUT = replace(NASBENCH201, name="nb_1d", dimensions=1)


@pytest.mark.parametrize("method", ["pc_darts", "gdas", "p_darts", "robust_darts_dp"])
def test_methods_of_every_kind_run_on_series(method):
    config = replace(SEARCH, channels=8, cells=1, epochs=3)
    result = fastnas.search(ONE_INPUT, method, (series_or_volumes(1), Y), config)
    assert all(value.isfinite().all() for value in result.alpha.values())


def test_a_cell_of_one_input_has_dimensions_too():
    result = fastnas.search(ONE_INPUT, "darts", (series_or_volumes(1), Y), replace(SEARCH, cells=1))
    config = replace(RETRAIN, cells=1)
    assert fastnas.retrain(result.genotype, (series_or_volumes(1), Y), config, SEARCH, own=ONE_INPUT).seconds > 0


def test_a_network_of_images_is_traced_symbolically_and_one_of_series_scripted():
    for dimensions, size in ((2, (16, 16)), (1, (16,))):
        space = library_space(dimensions)
        network = build_network(random_genotype(space, 0), 3, 4, 3, 1, size, False, False, space).eval()
        x = torch.randn(2, 1, *size)
        traced = [torch.fx.symbolic_trace(network)] if dimensions == 2 else []
        for changed in (*traced, torch.jit.script(network)):
            torch.testing.assert_close(changed(x), network(x))


@pytest.mark.parametrize("stride", [1, 2])
def test_volumes_smaller_than_a_window_are_pooled_as_padded_ones(stride):
    x = torch.randn(2, 3, 2, 5, 1)
    found = AvgPool3d(3, stride, 1, count_include_pad=False)(x)
    wide = torch.nn.functional.pad(x, [1] * 6, value=float("nan"))
    windows = wide.unfold(2, 3, stride).unfold(3, 3, stride).unfold(4, 3, stride)
    torch.testing.assert_close(found, windows.flatten(5).nanmean(-1))


class Series(Dataset):
    classes = ("a", "b", "c")

    def __len__(self):
        return COUNT

    def __getitem__(self, i):
        return torch.from_numpy(series_or_volumes(1)[i]), int(Y[i])


@pytest.mark.parametrize(
    "data",
    [
        Series(),
        TensorDataset(torch.from_numpy(series_or_volumes(1)), torch.from_numpy(Y)),
        [DataLoader(TensorDataset(torch.randn(8, 2, 12), torch.arange(8) % 3), batch_size=4) for _ in range(2)],
    ],
    ids=["data set", "tensors", "loaders"],
)
def test_series_come_in_every_way(data):
    assert fastnas.search(own_space(1), "darts", data, replace(SEARCH, epochs=1)).history


def test_what_the_numbers_are_is_kept():
    x = series_or_volumes(3, np.uint8)
    data = from_arrays((x, Y))
    assert (data.channels, data.resolution, data.values) == (2, SIZES[3], (0.0, 255.0))
    assert from_arrays((x[:, 0, 0, 0], Y)).resolution == (8,)
    assert from_dataset(Series()).resolution == (12,)


def test_dimensions_that_do_not_fit_are_one_line():
    x = series_or_volumes(1)
    with pytest.raises(ValueError, match=r"volumes must have the shape .*, got \[24, 2, 12\]"):
        fastnas.search(library_space(3), "darts", (x, Y), SEARCH)
    with pytest.raises(ValueError, match="data must have 1 dimensions beside the channels, as the space has, got 2"):
        fastnas.search(library_space(1), "darts", "digits", SEARCH)
    with pytest.raises(ValueError, match=r"data must have 2 dimensions .* got 1"):
        fastnas.search("darts", "darts", from_arrays((x, Y), dimensions=1), SEARCH)
    with pytest.raises(ValueError, match="dimensions must be 1, 2 or 3"):
        replace(DARTS, name="four", dimensions=4)
    with pytest.raises(ValueError, match="augment must not be set for series"):
        from_arrays((x, Y), dimensions=1, config=fastnas.data.DataConfig(augment="crop"))
