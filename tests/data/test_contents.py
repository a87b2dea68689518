"""Images that change between a stop and a resume are noticed."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fastnas.data import digest_data, load_data
from fastnas.data.images import Items


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.bmp")
    return tmp_path


def digest(folder):
    return digest_data(load_data(f"folder:{folder}"))


def test_the_same_images_have_the_same_digest_wherever_they_lie(folder, tmp_path_factory):
    moved = tmp_path_factory.mktemp("moved") / "images"
    before = digest(folder)
    assert digest(folder) == before
    folder.rename(moved)
    assert digest(moved) == before


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_whose_images_are_replaced_is_noticed(folder, part):
    before = digest(folder)
    for file in (folder / part / "bee").iterdir():  # as many bytes as before
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file)
    assert digest(folder) != before


def test_a_name_and_a_size_count(folder):
    before = digest(folder)
    file = folder / "train" / "ant" / "3.bmp"
    file.rename(file.with_name("03.bmp"))
    assert digest(folder) != before
    file.with_name("03.bmp").rename(file)
    assert digest(folder) == before
    file.write_bytes(file.read_bytes() + b"0")
    assert digest(folder) != before


def test_images_in_memory_count(folder):
    data = load_data("digits")
    other = replace(data, train=replace(data.train, image=Items(np.zeros_like(data.train.image.arrays))))
    assert digest_data(data) == digest_data(load_data("digits")) != digest_data(other)
