"""Tar files of WebDataset, as other programs write them."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import fastnas
from fastnas.data import load_data, training_batches
from fastnas.training.config import SearchConfig

RNG = np.random.default_rng(0)


def write(path, samples):
    """A tar file of samples, each a dictionary of endings and contents."""
    with tarfile.open(path, "w") as archive:
        for key, members in samples.items():
            for ending, content in members.items():
                about = tarfile.TarInfo(f"{key}.{ending}")
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))


def png(level):
    file = io.BytesIO()
    Image.fromarray(RNG.integers(level, level + 60, (16, 16, 3)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def make(root, count=24, label=lambda i: str(i % 2)):
    for shard in range(2):
        keys = range(shard * count // 2, (shard + 1) * count // 2)
        write(
            root / f"train-{shard:04d}.tar",
            {f"{i:06d}": {"png": png(100 * (i % 2)), "cls": label(i).encode()} for i in keys},
        )
    return root


def test_a_search_reads_them_in_an_order_that_the_seed_decides(tmp_path):
    write(make(tmp_path) / "test-0000.tar", {f"a/{i}": {"cls": b"1", "png": png(100)} for i in range(4)})
    (tmp_path / "classes.txt").write_text("dark\nlight\n")
    data = load_data(f"shards:{tmp_path}")
    assert (data.classes, len(data.train.labels), len(data.test.labels)) == (("dark", "light"), 24, 4)
    assert data.notes[0] == "3 tar files of WebDataset, indexed"
    read = {"batch_size": 8, "seed": 0, "num_steps": 2}
    everything = list(training_batches(data, np.arange(24), first_step=0, workers=0, **read))
    later = list(training_batches(data, np.arange(24), first_step=1, workers=0, **read))
    assert torch.equal(everything[1].images, later[0].images)
    assert all(torch.equal((b.images.mean((1, 2, 3)) > 0).long(), b.labels) for b in everything)
    config = SearchConfig(channels=2, cells=1, epochs=1, warmup_epochs=0, batch_size=8, device="cpu")
    assert fastnas.search("nasbench201", "darts", data, config).history


def test_samples_of_other_endings_are_counted(tmp_path):
    write(
        make(tmp_path) / "test-0000.tar", {f"a/{i}": {"cls": b"1", ("png", "gif")[i % 2]: png(100)} for i in range(4)}
    )
    with pytest.warns(UserWarning, match=r"^2 members \.cls have no image beside them, of the endings jpg, "):
        data = load_data(f"shards:{tmp_path}")
    assert len(data.test.labels) == 2


def test_names_are_classes_and_a_part_is_held_out(tmp_path):
    data = load_data(f"shards:{make(tmp_path, label=lambda i: ('cat', 'dog')[i % 2])}")
    assert data.classes == ("cat", "dog")
    assert (len(data.train.labels), len(data.test.labels)) == (20, 4)
    assert "held out" in data.notes[1]


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        ({"1": {"png": b"x"}}, "must have a member .cls beside it, got none for 1.png"),
        ({"1": {"txt": b"x"}}, "must hold images to train on"),
        ({"1": {"png": b"x", "cls": b"9" * 500}}, "labels of classes must be less than 100000, got 99999"),
        (None, "must be a tar file, whole and not compressed"),
    ],
)
def test_what_is_no_webdataset_is_one_line(tmp_path, samples, says):
    path = tmp_path / "train.tar"
    write(path, samples) if samples else path.write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(ValueError, match=says):
        load_data(f"shards:{tmp_path}")
