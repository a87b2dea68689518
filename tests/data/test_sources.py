import hashlib
import os
import pickle
import re
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from fastnas.data import DataConfig, evaluation_batches, load_data, paired_batches
from fastnas.data.prepare import DataWarning

TEST_DATA = Path(os.environ.get("FASTNAS_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
CIFAR_JPEG = TEST_DATA / "cifar10-jpeg.tar.gz"


def make_folder(root, parts=("train", "test"), classes=("cat", "dog"), images=4, size=16):
    rng = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(images):
                pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.jpg")
    return root


def test_cluttered_digits_are_the_same_in_every_process_and_share_no_digit():
    data = load_data("cluttered")
    images = [
        np.stack([np.asarray(part.image(i)) for i in range(len(part.labels))]) for part in (data.train, data.test)
    ]
    assert [len(part) for part in images] == [2200, 2000]
    assert hashlib.sha256(images[0].tobytes() + images[1].tobytes()).hexdigest()[:16] == "2222a52cd4c4b32d"
    digits = load_data("digits")
    whole = {np.asarray(digits.train.image(i)).tobytes() for i in range(len(digits.train.labels))}
    seen = [{window.tobytes() for image in part for window in windows(image)} & whole for part in images]
    assert min(map(len, seen)) > 20
    assert not seen[0] & seen[1]


def windows(image):
    return [image[:, r : r + 8, c : c + 8] for r in range(9) for c in range(9)]


def test_digits_have_a_test_part_in_balance_and_are_never_mirrored():
    data = load_data("digits")
    assert (len(data.train.labels), len(data.test.labels)) == (1438, 359)
    assert set(np.bincount(data.test.labels)) <= {34, 35, 36, 37}
    assert (data.channels, data.resolution, data.large) == (1, (8, 8), False)
    assert "Flip" not in str(data.train_transform)


def test_a_folder_tells_its_classes_and_its_resolution(tmp_path):
    data = load_data(f"folder:{make_folder(tmp_path)}")
    assert data.classes == ("cat", "dog")
    assert (data.resolution, data.large, data.train.labels.tolist()) == ((16, 16), False, [0] * 4 + [1] * 4)
    (images, labels), *_ = evaluation_batches(data, data.test, batch_size=8)
    assert images.shape == (8, 3, 16, 16)
    assert images.dtype == torch.float32
    assert labels.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("kind", ["folder", "imagenet"])
def test_files_of_other_endings_are_counted_and_so_are_images(tmp_path, kind):
    if kind == "folder":
        make_folder(tmp_path, ("train", "val"))
    else:  # torchvision's own reader
        describe(tmp_path, {name: (name,) for name in ("cat", "dog")})
    assert load_data(f"{kind}:{tmp_path}").notes[0] == "8 images in train/, 8 images in val/"
    for name in ("a.gif", "b.gif", "c.HEIC", "no_ending", ".DS_Store", "deeper/d.gif"):
        path = tmp_path / "train" / "cat" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "val" / "dog" / "e.txt").write_bytes(b"")
    with pytest.warns(DataWarning, match=r"^6 files of other endings are left out \(\.gif, \.heic, none, \.txt\)$"):
        data = load_data(f"{kind}:{tmp_path}")
    assert data.notes[0] == "8 images in train/, 8 images in val/"
    assert any(note.startswith("6 files of other endings are left out") for note in data.notes)


def test_a_class_of_other_endings_alone_is_refused_with_them(tmp_path):
    make_folder(tmp_path)
    for path in (tmp_path / "train" / "cat").iterdir():
        path.rename(path.with_suffix(".gif"))
    with pytest.raises(ValueError, match=r"4 files of other endings are left out \(\.gif\): images are \.jpg, "):
        load_data(f"folder:{tmp_path}")


ARRAYS = {"x_train": np.zeros((10, 16, 16), np.uint8), "y_train": np.arange(10) % 2}


@pytest.mark.parametrize(("one", "other"), [("x_test", "y_tests"), ("y_test", "x_tests"), ("x_test", None)])
def test_half_of_a_test_part_is_refused(tmp_path, one, other):
    arrays = ARRAYS | {name: ARRAYS[f"{name[0]}_train"] for name in (one, other) if name}
    np.savez(tmp_path / "data.npz", **arrays)
    got = f"only {one}" + (f", and {other}, which nothing reads" if other else "")
    with pytest.raises(ValueError, match=rf"must hold both of x_test and y_test, or neither, got {got}\.?$"):
        load_data(f"arrays:{tmp_path / 'data.npz'}")


def test_arrays_that_nothing_reads_are_warned_of(tmp_path):
    np.savez(tmp_path / "data.npz", **ARRAYS, x_tests=ARRAYS["x_train"], y_tests=ARRAYS["y_train"])
    with pytest.warns(DataWarning, match=r"^data\.npz holds arrays that nothing reads: x_tests, y_tests$"):
        load_data(f"arrays:{tmp_path / 'data.npz'}")


@pytest.mark.parametrize("kind", ["folder", "imagenet"])
def test_photographs_are_cropped_like_imagenets(tmp_path, kind):
    data = load_data(f"{kind}:{make_folder(tmp_path, ('train', 'val'), size=120)}")
    assert (data.resolution, data.large) == ((224, 224), True)
    batches = (
        next(evaluation_batches(data, data.test, batch_size=2)),
        next(
            paired_batches(
                data,
                np.arange(8),
                np.arange(8),
                batch_size=2,
                seed=0,
                first_step=0,
                num_steps=1,
                search_from_step=9,
                workers=0,
            )
        )[0],
    )
    assert all(batch.images.shape == (2, 3, 224, 224) for batch in batches)


def remove_test(root):
    return make_folder(root, ("train",))


def other_classes(root):
    make_folder(root, ("train",))
    return make_folder(root, ("test",), ("cat", "cow"))


def class_without_images(root):
    make_folder(root)
    (root / "train" / "cow").mkdir()
    (root / "test" / "cow").mkdir()
    return root


def no_classes(root):
    make_folder(root, ("test",))
    (root / "train").mkdir()
    return root


def describe(root, names):
    make_folder(root, ("train", "val"))
    torch.save((names, []), root / "meta.bin")
    return root


def foreign_description(root):
    make_folder(root, ("train", "val"))
    (root / "meta.bin").write_bytes(pickle.dumps(Path("anything that a pickle may execute"), protocol=2))
    return root


def images_broken(root):
    make_folder(root)
    for path in (root / "train").glob("*/*.jpg"):
        path.write_bytes(b"no image")
    return root


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda root: f"folder:{root}/none", "the folder of images must exist, got .*none"),
        (lambda root: f"folder:{root}", r"must hold train/ and test/ or val/, got nothing"),
        (lambda root: f"folder:{remove_test(root)}", r"must hold train/ and test/ or val/, got train"),
        (lambda root: f"imagenet:{make_folder(root, ('train', 'test'))}", "must hold train/ and val/, got test, train"),
        (
            lambda root: f"folder:{no_classes(root)}",
            "every class folder of .*train must hold images, got Couldn't find",
        ),
        (
            lambda root: f"folder:{make_folder(root, size=4)}",
            r"sides of at least 8 pixels .* got 4x4, the .*Set --resolution",
        ),
        (
            lambda root: f"imagenet:{foreign_description(root)}",
            r"meta\.bin must be torchvision's .* got UnpicklingError",
        ),
        (
            lambda root: f"imagenet:{describe(root, {'cat': ('cat',)})}",
            r"name every synset of train/, got KeyError: 'dog'",
        ),
        (lambda root: f"folder:{other_classes(root)}", "must have the same classes, got cow in only one"),
        (lambda root: f"folder:{class_without_images(root)}", "every class folder of .* must hold images"),
        (lambda root: f"folder:{images_broken(root)}", r"cat/0\.jpg must be a readable image"),
        (lambda root: "mnist", "source must be digits, cluttered, cifar10:ROOT, .* got 'mnist'"),
        (lambda root: "cifar10", "cifar10 must name a folder, got 'cifar10'"),
        (lambda root: f"digits:{root}", "digits must not name a folder"),
        (lambda root: f"cifar10:{root}", "cifar10 must be in its folder, whole, got .*--download"),
        (lambda root: f"cifar100:{root}", "cifar100 must be in its folder, whole, got .*--download"),
    ],
)
def test_a_source_that_is_not_there_is_named_in_one_line(tmp_path, source, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_data(source(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [b"no image", None], ids=["foreign", "truncated"])
def test_a_broken_image_is_named_in_one_line_whoever_decodes_it(tmp_path, workers, content):
    data = load_data(f"folder:{make_folder(tmp_path)}")
    victim = tmp_path / "train" / "dog" / "2.jpg"
    victim.write_bytes(victim.read_bytes()[:300] if content is None else content)
    with pytest.raises(ValueError, match=re.escape(f"data: {victim} must be a readable image")) as caught:
        list(
            paired_batches(
                data,
                np.arange(8),
                np.arange(8),
                batch_size=4,
                seed=0,
                first_step=0,
                num_steps=2,
                search_from_step=9,
                workers=workers,
            )
        )
    assert "\n" not in str(caught.value)


def colour_seen(data, index):
    return data.eval_transform(data.test.image(index))[:, 8, 8].tolist()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "L", "LA"])
def test_a_colour_is_the_same_however_a_file_stores_it(tmp_path, mode):
    data_root = make_folder(tmp_path, images=1)
    colour = (90, 90, 90) if "L" in mode else (255, 51, 0)  # grey, or one of the palette's
    image = Image.new("RGB", (16, 16), colour).convert(mode)
    image.save(data_root / "test" / "cat" / ("0.tiff" if mode == "CMYK" else "0.png"))
    (data_root / "test" / "cat" / "0.jpg").unlink()
    assert colour_seen(load_data(f"folder:{data_root}"), 0) == list(colour)


def test_images_of_other_sizes_are_brought_to_the_resolution(tmp_path):
    root = make_folder(tmp_path)
    Image.new("RGB", (40, 20)).save(root / "test" / "cat" / "0.jpg")
    data = load_data(f"folder:{root}", DataConfig(resolution=32))
    (images, _), *_ = evaluation_batches(data, data.test, batch_size=8)
    assert (data.resolution, images.shape) == ((32, 32), (8, 3, 32, 32))


def test_imagenet_takes_its_class_names_from_meta_bin_and_leaves_its_unlabelled_test_folder(tmp_path):
    describe(tmp_path, {"cat": ("tench", "Tinca tinca"), "dog": ("crane",)})
    (tmp_path / "test").mkdir()
    data = load_data(f"imagenet:{tmp_path}", DataConfig(resolution=32))
    assert data.classes == ("tench, Tinca tinca", "crane")
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4


def test_cifar_is_read_from_torchvisions_files(tmp_path, monkeypatch):
    folder = tmp_path / datasets.CIFAR10.base_folder
    folder.mkdir()
    rows = np.arange(2 * 3072, dtype=np.uint32).reshape(2, 3072).astype(np.uint8)
    for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list:
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": [0, 1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane", "automobile"]}))
    monkeypatch.setattr(
        "torchvision.datasets.cifar.check_integrity", lambda *_: True
    )  # the files are not the real ones
    data = load_data(f"cifar10:{tmp_path}")
    assert (data.name, data.channels, data.resolution, data.large) == ("cifar10", 3, (32, 32), False)
    assert data.classes == ("airplane", "automobile")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1] * 5, [0, 1])
    assert torch.equal(data.train.image(1), torch.from_numpy(rows[1].reshape(3, 32, 32)))
    assert data.train_transform(data.train.image(0)).shape == (3, 32, 32)


def test_a_download_that_fails_says_so_in_one_line(tmp_path, monkeypatch):
    def unreachable(self):
        raise URLError("no route\nto host")

    monkeypatch.setattr(datasets.CIFAR10, "download", unreachable)
    with pytest.raises(ValueError, match=r"no route to host.*Fetch it by hand\.$") as caught:
        load_data(f"cifar10:{tmp_path}", DataConfig(download=True))
    assert "\n" not in str(caught.value)


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: asked.append(1))
    with pytest.raises(ValueError, match="--download"):
        load_data(f"cifar10:{tmp_path}")
    assert not asked


def test_an_image_too_large_to_decode_is_named_in_one_line(tmp_path, monkeypatch):
    data = load_data(f"folder:{make_folder(tmp_path)}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"0\.jpg must be a readable image, got DecompressionBombError.*Replace"):
        next(evaluation_batches(data, data.test, batch_size=2))


@pytest.mark.skipif(not CIFAR_JPEG.is_file(), reason=f"{CIFAR_JPEG} is not there; set FASTNAS_TEST_DATA to its folder")
def test_real_cifar_images_arrive_alike_whoever_decodes_them(tmp_path):
    with tarfile.open(CIFAR_JPEG) as archive:  # class after class, test before train: stop early in each
        wanted = {f"{part}/{name}" for part in ("test", "train") for name in ("airplane", "automobile")}
        left = dict.fromkeys(wanted, 8)
        for member in archive:
            folder = member.name.rpartition("/")[0]
            if member.isfile() and left.get(folder):
                archive.extract(member, tmp_path, filter="data")
                left[folder] -= 1
            if not any(left.values()):
                break
    data = load_data(f"folder:{tmp_path}")
    assert (data.classes, data.resolution, data.large) == (("airplane", "automobile"), (32, 32), False)

    def batches(workers):
        return list(
            paired_batches(
                data,
                np.arange(0, 16, 2),
                np.arange(1, 16, 2),
                batch_size=4,
                seed=0,
                first_step=0,
                num_steps=5,
                search_from_step=0,
                workers=workers,
            )
        )

    for here, there in zip(batches(0), batches(2), strict=True):
        for one, other in zip(here, there, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
    images = torch.cat([weights.images for weights, _ in batches(0)])
    assert 0.1 < images.std() < 2  # normalised photographs, not constants
