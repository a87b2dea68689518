"""Images that change between a stop and a resume are noticed."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fastnas.data import digest_data, load_data, read_index, write_index, write_shards
from fastnas.data.broken import UnreadableImage
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


def test_only_regular_files_of_a_limited_size_are_read(folder, monkeypatch):
    data = load_data(f"folder:{folder}")
    files = [folder / name for name in data.train.names[:3]]
    for file in files[:2]:
        file.unlink()
    os.mkfifo(files[0])  # would be waited for
    files[1].symlink_to("/dev/zero")  # has no end
    monkeypatch.setattr("fastnas.data.folders.LARGEST", 100)
    for index, got in enumerate(("no regular file", "no regular file", "bytes, more than 100")):
        with pytest.raises(UnreadableImage, match=f"must be a readable image, got .*{got}"):
            data.train.image(index)


NAMES = ["caf\udce9.bmp", "\u732b.bmp", "a[b]c.bmp", "\x1b]0;x\x07.bmp", "line\nbreak.bmp"]


def test_names_that_linux_allows_survive_shards_index_and_digest(folder, tmp_path_factory):
    for name in NAMES:
        shutil.copy(folder / "train" / "ant" / "0.bmp", folder / "train" / "ant" / name)
    data, out = load_data(f"folder:{folder}"), tmp_path_factory.mktemp("out")
    write_shards(data, out / "shards")
    again = load_data(f"shards:{out / 'shards'}")
    assert list(again.train.names) == list(data.train.names)
    assert all(f"train/ant/{name}" in again.train.names for name in NAMES)
    written = write_index(out / "index.json", data, (0.5, 0.5), seed=0)
    assert all(map(np.array_equal, written, read_index(out / "index.json", again)))
    assert len(digest_data(again)) == 16


@pytest.mark.parametrize(("column", "value"), [("shard", 10**12), ("offset", 2**63 - 1), ("size", 2**62)])
def test_a_table_of_shards_with_numbers_beyond_the_end_is_refused(folder, tmp_path_factory, column, value):
    out = tmp_path_factory.mktemp("out") / "shards"
    write_shards(load_data(f"folder:{folder}"), out)
    with np.load(out / "train.npz") as arrays:
        columns = dict(arrays)
    columns[column][1] = value
    np.savez(out / "train.npz", **columns)
    with pytest.raises(ValueError, match=rf"train.npz must be the table of the tar files beside it, got {column}: "):
        load_data(f"shards:{out}")


def test_an_index_beyond_the_end_is_refused(folder, tmp_path):
    data, path = load_data(f"folder:{folder}"), tmp_path / "index.json"
    write_index(path, data, (0.5, 0.5), seed=0)
    content = json.loads(path.read_text())
    for beyond in (24, 10**12, 10**30):
        path.write_text(json.dumps(content | {"weights": [*content["weights"], beyond]}))
        with pytest.raises(ValueError, match=r"^index: .*index.json must ") as caught:
            read_index(path, data)
        assert "\n" not in str(caught.value)
