"""What is found out of images, and what is said of it: nothing may be harmed in silence."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fastnas.data import DataConfig, DataWarning, load_data

RANDOM = np.random.default_rng(0)
QUIET = pytest.mark.filterwarnings("ignore::fastnas.data.prepare.DataWarning")


def make(root, paint, count=6, classes=("a", "b"), extension="png"):
    """A folder of images; ``paint(k, i)`` gives picture ``i`` of class ``k``."""
    for part in ("train", "test"):
        for k, name in enumerate(classes):
            place = root / part / name
            place.mkdir(parents=True)
            for i in range(count[k] if isinstance(count, tuple) else count):
                paint(k, i).save(place / f"{i}.{extension}")
    return f"folder:{root}"


def noise(*shape, high=256):
    return Image.fromarray(RANDOM.integers(0, high, shape).astype(np.uint8))


def seen(data):
    return torch.stack([data.eval_transform(data.test.image(i)).float() for i in range(len(data.test.labels))])


@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_sixteen_bits_of_grey_are_scaled_to_eight(tmp_path, extension):
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    data = load_data(make(tmp_path, lambda k, i: Image.fromarray(values), extension=extension))
    assert data.channels == 1
    assert torch.equal(seen(data)[0].flatten(), torch.arange(256.0))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_values_without_a_range_are_refused_in_one_line_with_file_and_mode(tmp_path, mode):
    source = make(tmp_path, lambda k, i: noise(16, 16).convert(mode), extension="tiff")
    with pytest.raises(
        ValueError, match=rf"a/0\.tiff must hold values of a defined range.*got mode {mode}\."
    ) as caught:
        load_data(source)
    assert "\n" not in str(caught.value)


def test_sixteen_bits_of_which_few_are_used_are_warned_of(tmp_path):
    source = make(tmp_path, lambda k, i: Image.fromarray(RANDOM.integers(0, 4096, (16, 16)).astype(np.uint16)))
    with pytest.warns(DataWarning, match="16-bit images reach 40.. of 65535, so only 1[56] of 256 levels remain"):
        load_data(source)


def test_the_size_is_the_commonest_and_two_numbers(tmp_path):
    data = load_data(make(tmp_path, lambda k, i: noise(16, 16, 3) if i == 0 else noise(12, 48, 3)))
    assert data.resolution == (12, 48)
    assert any("resolution 12x48: the commonest of 12 training images (83%)" in note for note in data.notes)
    assert data.train_transform(data.train.image(0)).shape == (3, 12, 48)
    assert data.describe()["resolution"] == [12, 48]


@pytest.mark.parametrize(
    ("shape", "expected", "large"),
    [((128, 1024), (80, 640), True), ((200, 260), (224, 224), True), ((40, 90), (40, 90), False)],
)
def test_photographs_keep_their_proportions_where_they_are_far_from_a_square(tmp_path, shape, expected, large):
    data = load_data(make(tmp_path, lambda k, i: noise(*shape, 3), count=1))
    assert (data.resolution, data.large) == (expected, large)


@pytest.mark.parametrize(("fit", "warns"), [("squeeze", True), ("crop", True), ("pad", False), (None, True)])
def test_a_shape_that_is_not_kept_is_warned_of(tmp_path, fit, warns):
    source = make(tmp_path, lambda k, i: noise(12, 48, 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_data(source, DataConfig(resolution=16, fit=fit))
    assert any("4.0 times as elongated as 16x16" in str(one.message) for one in caught) == warns
    assert data.resolution == (16, 16)


def test_many_shapes_are_warned_of_and_many_sizes_noted(tmp_path):
    source = make(tmp_path, lambda k, i: noise(*((10, 40, 3) if i % 3 == 0 else (24, 24, 3))))
    with pytest.warns(DataWarning, match="many shapes"):
        load_data(source)
    data = load_data(make(tmp_path / "other", lambda k, i: noise(*((10, 10, 3) if i == 0 else (30, 30, 3)))))
    assert "sizes from 10x10 to 30x30" in data.notes


@pytest.mark.parametrize(("form", "channels", "augment"), [("L", 1, "crop"), ("RGB", 3, "flip-crop")])
def test_grey_images_have_one_channel_and_are_not_mirrored(tmp_path, form, channels, augment):
    source = make(tmp_path, lambda k, i: noise(16, 16, 3).convert(form))
    data = load_data(source)
    assert (data.channels, data.augment) == (channels, augment)
    assert any(f"augment {augment}" in note for note in data.notes)
    other = load_data(source, DataConfig(image_channels=4 - channels))
    assert other.channels == 4 - channels
    assert seen(other).shape[1] == 4 - channels


def test_one_image_in_colour_makes_all_of_them_coloured(tmp_path):
    data = load_data(make(tmp_path, lambda k, i: noise(16, 16, 3) if i == 3 else noise(16, 16)))
    assert data.channels == 3


def test_images_are_normalised_by_their_own_statistics(tmp_path):
    data = load_data(make(tmp_path, lambda k, i: noise(16, 16, high=101)))
    pixels = torch.stack([data.eval_transform(data.train.image(i)) for i in range(12)])
    images = data.normalise(pixels)
    assert abs(images.mean()) < 1e-4
    assert abs(images.std() - 1) < 1e-2
    assert 0.1 < data.describe()["statistics"]["mean"][0] < 0.3


def test_what_is_said_goes_before_what_the_source_knows():
    data = load_data("digits", DataConfig(augment="none", resolution=(10, 16)))
    assert (data.augment, data.resolution) == ("none", (10, 16))
    assert "Flip" not in str(data.train_transform)
    with pytest.raises(ValueError, match="augment auto needs colour images, got 1 channels"):
        load_data("digits", DataConfig(augment="auto"))
    with pytest.raises(ValueError, match="resolution must be at least 8 pixels"):
        DataConfig(resolution=(24, 4))
    with pytest.raises(ValueError, match="colour must be four numbers"):
        DataConfig(colour=(0.1, 0.1, 0.1, 0.7))
    with pytest.raises(ValueError, match=r"colour needs augment photo, got crop. It would change nothing: zeros say"):
        load_data("digits", DataConfig(colour=(0.4, 0.4, 0.4, 0.1)))
    load_data("digits", DataConfig(colour=(0.0, 0.0, 0.0, 0.0)))
    load_data("digits", DataConfig(augment="photo", colour=(0.4, 0.4, 0.4, 0.1)))


def test_unequal_classes_are_warned_of(tmp_path):
    source = make(tmp_path, lambda k, i: noise(8, 8), count=(12, 3))
    with pytest.warns(DataWarning, match="classes are unequal, 12 images of a and 3 of b"):
        load_data(source)
