import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastnas.data import DataConfig, load_data

FILE = Path(__file__).parents[2] / "profiling" / "loading.py"


@pytest.fixture(scope="module")
def loading():
    spec = importlib.util.spec_from_file_location("loading", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def options(loading, photos):
    return loading.Options(images=photos / "train", copies=1, batch_size=4, resolution=40, side=80, runs=1)


def test_every_loader_is_a_row_that_loads_all_images(loading, options, capsys):
    assert loading.main(options) == 0
    page = capsys.readouterr().out
    assert "16 JPEG files: median 128×120 pixels (shorter side 100 to 120)" in page
    assert "| Pillow |" in page
    assert "| simplejpeg |" in page
    assert "| ImageFolder |" in page
    assert "| shards:ROOT, --side 80 |" in page
    assert "16 images a pass, 1 passes each" in page


def test_the_ways_in_are_rows_of_the_same_images(loading, tmp_path):
    section = loading.ways_in(loading.Options(runs=1), tmp_path, count=64)
    assert [row[0] for row in section.rows] == [
        "folder of PNG files",
        "data set of PIL images",
        "arrays, image by image",
        "arrays",
    ]


def test_a_folder_that_is_the_current_one_is_loaded(loading, options, photos, monkeypatch, capsys):
    monkeypatch.chdir(photos / "train")
    for name in ("differences", "decodings", "contenders", "speeds"):
        monkeypatch.setattr(loading, name, lambda *_: "")
    loading.main(replace(options, images=Path()))
    assert "JPEG files" in capsys.readouterr().out


def test_a_crop_that_is_not_torchvisions_ends_the_comparison(loading, options, photos, monkeypatch):
    data = load_data(f"imagenet:{photos}", DataConfig(resolution=40))
    assert loading.pixels_of(data, 101).smaller == 0  # more than half of any side
    crop = loading.RandomResizedCrop

    def shifted(resolution):
        part_of = crop(resolution)
        shift = crop(resolution)
        shift.forward = lambda image: torch.roll(part_of(image), 1, -1)
        return shift

    monkeypatch.setattr(loading, "RandomResizedCrop", shifted)
    with pytest.raises(ValueError, match="a part decoded whole must equal torchvision's"):
        loading.pixels_of(replace(data), 101)
