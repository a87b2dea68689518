import json

import numpy as np
import pytest

from fastnas.data import DataConfig, load_data, read_index, write_index
from fastnas.data.division import digest_images, divide
from fastnas.engine.run import search_halves
from fastnas.training.config import SearchConfig

DIGITS = load_data("digits")


def test_an_index_holds_shares_of_every_class_without_a_common_image(tmp_path):
    halves = write_index(tmp_path / "index.json", DIGITS, (0.1, 0.025), seed=0)
    total = np.bincount(DIGITS.train.labels)
    for half, share in zip(halves, (0.1, 0.025), strict=True):
        # Both counts are rounded: first that of both halves, then that of each
        assert np.abs(np.bincount(DIGITS.train.labels[half]) - share * total).max() <= 1
    assert not np.intersect1d(*halves).size
    read = read_index(tmp_path / "index.json", DIGITS)
    assert all(map(np.array_equal, read, halves))
    assert all(map(np.array_equal, read, search_halves(DIGITS, SearchConfig(index=tmp_path / "index.json"))))
    assert all(map(np.array_equal, read, search_halves(DIGITS, SearchConfig(fractions=(0.1, 0.025)))))


def test_seeds_choose_other_images():
    assert not np.array_equal(divide(DIGITS, (0.1, 0.025), 0).weights, divide(DIGITS, (0.1, 0.025), 1).weights)


def test_an_index_follows_its_data_set_wherever_it_lies_and_no_other_one(tmp_path, photos):
    data = load_data(f"imagenet:{photos}", DataConfig(resolution=32))
    write_index(tmp_path / "index.json", data, (0.5, 0.25), seed=0)
    moved = photos.rename(tmp_path / "moved")
    assert len(read_index(tmp_path / "index.json", load_data(f"imagenet:{moved}")).weights) == 8
    (moved / "train" / "cat" / "7.JPEG").rename(moved / "train" / "cat" / "8.JPEG")
    with pytest.raises(
        ValueError, match=r"index\.json must belong to the data set, got the index of imagenet"
    ) as caught:
        read_index(tmp_path / "index.json", load_data(f"imagenet:{moved}"))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"beside digits .* 1438 images.*Write one: fastnas index"):
        read_index(tmp_path / "index.json", DIGITS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "another"}, "must be an index file, got format:"),
        ({"weights": "all"}, "must be an index file, got weights:"),
        ({"weights": [-1]}, r"must be an index file, got weights\.0:"),
        ({"weights": [0.5]}, r"must be an index file, got weights\.0:"),
        ({"more": 1}, "must be an index file, got more:"),
        ({"weights": []}, "must name images of the data set, each once and some for each half"),
        ({"weights": [3, 3]}, "must name images of the data set, each once"),
        ({"weights": [1438]}, "must name images of the data set, each once"),
        ({"weights": [5], "alpha": [5]}, "must name images of the data set, each once"),
        ({"digest": "0" * 16}, "must belong to the data set"),
    ],
)
def test_a_file_that_is_no_index_of_the_data_is_refused_in_one_line(tmp_path, change, message):
    path = tmp_path / "index.json"
    write_index(path, DIGITS, (0.5, 0.5), seed=0)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        read_index(path, DIGITS)
    assert "\n" not in str(caught.value)


def test_a_list_or_a_missing_file_is_no_index(tmp_path):
    (tmp_path / "index.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"must be an index file, got its values: "):
        read_index(tmp_path / "index.json", DIGITS)
    with pytest.raises(FileNotFoundError, match=r"none\.json must exist"):
        read_index(tmp_path / "none.json", DIGITS)


@pytest.mark.parametrize("fractions", [(0.0, 0.5), (0.6, 0.5), (-0.1, 0.5)])
def test_shares_out_of_range_are_refused(fractions):
    with pytest.raises(ValueError, match="fractions must be positive and no more than 1 together"):
        divide(DIGITS, fractions, 0)


def test_fractions_beside_an_index_have_no_meaning(tmp_path):
    with pytest.raises(ValueError, match="fractions and index must not be given together"):
        SearchConfig(fractions=(0.1, 0.1), index=tmp_path / "index.json")


def test_a_digest_knows_names_and_classes(photos):
    before = load_data(f"imagenet:{photos}").train
    (photos / "train" / "cat" / "0.JPEG").rename(photos / "train" / "dog" / "00.JPEG")
    assert digest_images(before) != digest_images(load_data(f"imagenet:{photos}").train)
