import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastnas.data import DataConfig, load_data, paired_batches, read_index, write_index, write_shards
from fastnas.data.broken import UnreadableImage
from fastnas.data.jpeg import Part

TEST_DATA = Path(os.environ.get("FASTNAS_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
SAMPLE = TEST_DATA / "imagenet-sample.tar"


@pytest.fixture
def data(photos):
    return load_data(f"imagenet:{photos}", DataConfig(resolution=32))


@pytest.fixture
def shards(data, tmp_path):
    write_shards(data, tmp_path / "shards", images_per_shard=5)
    return tmp_path / "shards"


def load(shards):
    return load_data(f"shards:{shards}", DataConfig(resolution=32))


def batches(data, workers):
    halves = np.arange(0, 16, 2), np.arange(1, 16, 2)
    return list(
        paired_batches(
            data,
            *halves,
            batch_size=4,
            seed=0,
            first_step=0,
            num_steps=4,
            search_from_step=1,
            workers=workers,
        )
    )


def test_shards_hold_the_bytes_of_the_files_in_their_order(data, shards):
    tables = ["shards.json", "test.npz", "train.npz"]
    archives = [*(f"test-{i:05d}.tar" for i in range(2)), *(f"train-{i:05d}.tar" for i in range(4))]
    assert sorted(path.name for path in shards.iterdir()) == sorted(tables + archives)
    read = load(shards)
    assert (read.name, read.classes, read.resolution) == ("imagenet", data.classes, (32, 32))
    for ours, theirs in ((read.train, data.train), (read.test, data.test)):
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert list(ours.names) == list(theirs.names)
        for index in range(len(theirs.labels)):
            assert ours.image(index).content == theirs.image(index).content


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_folder_for_any_number_of_workers(data, shards, workers):
    for ours, theirs in zip(batches(load(shards), workers), batches(data, 0), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert (one is None) == (other is None)
            assert one is None or (torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels))


def test_an_index_of_the_folder_is_one_of_its_shards(data, shards, tmp_path):
    write_index(tmp_path / "index.json", data, (0.5, 0.25), seed=0)
    assert len(read_index(tmp_path / "index.json", load(shards)).weights) == 8


def test_webdataset_reads_them_too(data, shards):
    webdataset = pytest.importorskip("webdataset")
    paths = sorted(str(path) for path in shards.glob("train-*.tar"))
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert [sample["jpg"] for sample in samples] == [data.train.image(i).content for i in range(16)]
    assert [int(sample["cls"]) for sample in samples] == data.train.labels.tolist()


def test_a_shorter_side_makes_larger_images_smaller_and_leaves_the_others(data, tmp_path):
    write_shards(data, tmp_path / "small", side=110)
    read = load(tmp_path / "small")
    sides = [min(read.train.image(i).size()) for i in range(8)]
    assert sides == [100, 108, 110, 110, 110, 110, 110, 110]
    assert read.train.image(0).content == data.train.image(0).content
    original, smaller = data.train.image(7).decode(), read.train.image(7).decode()
    scaled = torch.nn.functional.interpolate(
        original[None].float(), smaller.shape[-2:], mode="bilinear", antialias=True
    )
    assert (scaled[0] - smaller.float()).abs().mean() < 4  # of 255: two compressions of quality 90


def test_data_sets_are_sent_to_spawned_workers_and_read_there(shards):
    data = pickle.loads(pickle.dumps(load(shards)))
    assert data.train.image(3).content == load(shards).train.image(3).content


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def with_columns(path, **change):
    with np.load(path) as arrays:
        columns = {name: arrays[name] for name in arrays}
    for name, make in change.items():
        columns[name] = make(columns[name])
    np.savez(path, **columns)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda s: (s / "shards.json").unlink(), r"must hold shards, got no shards\.json in it\. Write them"),
        (lambda s: (s / "shards.json").write_text("{}"), r"shards\.json must be a file of fastnas"),
        (lambda s: (s / "train.npz").unlink(), r"train\.npz must be the table .* FileNotFoundError"),
        (lambda s: cut(s / "train.npz"), r"train\.npz must be the table"),
        (lambda s: cut(s / "train-00001.tar"), r"train-00001\.tar must hold what its table says, got \d+ bytes of \d+"),
        (lambda s: (s / "test-00000.tar").unlink(), r"test-00000\.tar must hold what its table says, got 0 bytes"),
        (lambda s: with_columns(s / "train.npz", label=lambda x: x + 1), r"got label: from 1 to 2"),
        (lambda s: with_columns(s / "train.npz", offset=lambda x: x - 10_000), r"got offset: from -"),
        (lambda s: with_columns(s / "train.npz", size=lambda x: x[:3]), r"got size: int64\[3\] beside 16 labels"),
        (lambda s: with_columns(s / "train.npz", size=lambda x: x * 1.0), r"got size: float64\[16\]"),
        (lambda s: with_columns(s / "train.npz", label=lambda x: x[:0]), "got no images"),
        (lambda s: with_columns(s / "train.npz", name=lambda x: x.astype(object)), "Object arrays cannot be loaded"),
    ],
)
def test_shards_that_are_not_whole_are_refused_in_one_line(shards, harm, message):
    harm(shards)
    with pytest.raises(ValueError, match=message) as caught:
        load(shards)
    assert "\n" not in str(caught.value)


def test_an_image_in_a_shard_that_cannot_be_read_is_named(shards):
    data = load(shards)
    with tarfile.open(shards / "train-00000.tar") as archive:
        begins = archive.getmember("000000002.jpg").offset_data
    with (shards / "train-00000.tar").open("r+b") as file:
        file.seek(begins)
        file.write(b"no image")
    with pytest.raises(UnreadableImage, match=r"train/cat/2\.JPEG in .*train-00000\.tar must be a readable image"):
        data.train.image(2).decode()
    cut(shards / "train-00001.tar")
    with pytest.raises(UnreadableImage, match=r"got \d+ of \d+ bytes"):
        data.train.image(9)


def test_an_image_of_another_format_keeps_its_ending(photos, photo, tmp_path):
    photo(100, 100).save(photos / "train" / "cat" / "0.png")
    data = load_data(f"folder:{photos}", DataConfig(resolution=32))
    write_shards(data, tmp_path / "shards")
    with tarfile.open(tmp_path / "shards" / "train-00000.tar") as archive:
        names = archive.getnames()
        first = next(i for i, name in enumerate(data.train.names) if name.endswith("png"))
        assert names[2 * first] == f"{first:09d}.png"
        content = archive.extractfile(names[2 * first]).read()
    assert Image.open(io.BytesIO(content)).format == "PNG"


def test_what_has_no_files_or_is_there_already_is_refused(data, shards, tmp_path):
    with pytest.raises(ValueError, match="the data set must consist of image files, got digits"):
        write_shards(load_data("digits"), tmp_path / "new")
    with pytest.raises(ValueError, match="shards: the folder must be new"):
        write_shards(data, shards)
    with pytest.raises(ValueError, match="side must be positive, got 0"):
        write_shards(data, tmp_path / "new", side=0)
    assert not (tmp_path / "new").exists()


def test_a_broken_image_ends_the_writing_and_leaves_no_data_set(photos, tmp_path):
    data = load_data(f"imagenet:{photos}", DataConfig(resolution=32))
    (photos / "train" / "dog" / "3.JPEG").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"dog/3\.JPEG must be a readable image"):
        write_shards(data, tmp_path / "shards")
    with pytest.raises(ValueError, match="must hold shards"):
        load(tmp_path / "shards")


@pytest.mark.skipif(not SAMPLE.is_file(), reason=f"{SAMPLE} is not there; set FASTNAS_TEST_DATA to its folder")
def test_real_photographs_are_the_same_from_shards_and_in_part(tmp_path):
    with tarfile.open(SAMPLE) as archive:
        members = [member for member in archive if member.isfile() and member.name.endswith(".JPEG")][:12]
        for part in ("train", "val"):
            archive.extractall(tmp_path / part, members, filter="data")
    files = load_data(f"imagenet:{tmp_path}")
    write_shards(files, tmp_path / "shards")
    shards = load_data(f"shards:{tmp_path / 'shards'}")
    assert (len(shards.train.labels), shards.resolution, shards.large) == (12, (224, 224), True)
    for index in range(12):
        image = shards.train.image(index)
        assert image.content == files.train.image(index).content
        height, width = image.size()
        part = Part(height // 7, width // 5, height // 2, width // 3)
        whole = image.decode()[:, part.top : part.top + part.height, part.left : part.left + part.width]
        assert torch.equal(image.decode_part(part, least=max(part.height, part.width)), whole)
