import re

import numpy as np
import pytest
import torch
from PIL import Image

from fastnas.train.data import evaluation_batches, load_data, paired_batches


def make_folder(root, parts=("train", "test"), classes=("cat", "dog"), images=4, size=16):
    rng = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(images):
                pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.jpg")
    return root


def test_digits_have_a_test_part_in_balance_and_are_never_mirrored():
    data = load_data("digits")
    assert (len(data.train.labels), len(data.test.labels)) == (1438, 359)
    assert set(np.bincount(data.test.labels)) <= {34, 35, 36, 37}
    assert (data.channels, data.resolution, data.large) == (1, 8, False)
    assert "Flip" not in str(data.train_transform)


def test_a_folder_tells_its_classes_and_its_resolution(tmp_path):
    data = load_data(f"folder:{make_folder(tmp_path)}")
    assert data.classes == ("cat", "dog")
    assert (data.resolution, data.large, data.train.labels.tolist()) == (16, False, [0] * 4 + [1] * 4)
    (images, labels), *_ = evaluation_batches(data.test, data.eval_transform, batch_size=8)
    assert images.shape == (8, 3, 16, 16)
    assert images.dtype == torch.float32
    assert labels.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("kind", ["folder", "imagenet"])
def test_photographs_are_cropped_like_imagenets(tmp_path, kind):
    data = load_data(f"{kind}:{make_folder(tmp_path, ('train', 'val'), size=120)}")
    assert (data.resolution, data.large) == (224, True)
    batches = (
        next(evaluation_batches(data.test, data.eval_transform, batch_size=2)),
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


def first_image_broken(root):
    make_folder(root)
    (root / "train" / "cat" / "0.jpg").write_bytes(b"no image")
    return root


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda root: f"folder:{root}/none", "the folder of images must exist, got .*none"),
        (lambda root: f"folder:{root}", r"must hold train/ and test/ or val/, got nothing"),
        (lambda root: f"folder:{remove_test(root)}", r"must hold train/ and test/ or val/, got train"),
        (lambda root: f"folder:{other_classes(root)}", "must have the same classes, got cow in only one"),
        (lambda root: f"folder:{class_without_images(root)}", "every class folder of .* must hold images"),
        (lambda root: f"folder:{first_image_broken(root)}", r"cat/0\.jpg must be a readable image"),
        (lambda root: "mnist", "source must be digits, cifar10:ROOT, .* got 'mnist'"),
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
