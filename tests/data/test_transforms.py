"""The numbers of the method cards S3 and S5."""

import pytest
import torch
from torchvision.transforms import v2

from fastnas.data.pixels import CIFAR, GREY, IMAGENET, Normalise, cut_out
from fastnas.data.transforms import evaluation_transform, training_transform
from fastnas.networks.preprocessing import FitTo


def steps_of(transform):
    return {type(step).__name__: step for step in transform.transforms}


@pytest.mark.parametrize("statistics", [CIFAR, IMAGENET, GREY])
def test_normalising_equals_torchvisions_bit_for_bit(statistics):
    channels = len(statistics.mean)
    every_value = torch.arange(256, dtype=torch.uint8).expand(1, channels, 1, 256)
    theirs = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(*map(list, statistics))])
    assert torch.equal(Normalise(statistics)(every_value), theirs(every_value))


def test_cifar_is_normalised_with_the_statistics_of_darts():
    assert CIFAR.mean == (0.49139968, 0.48215827, 0.44653124)
    assert CIFAR.std == (0.24703233, 0.24348505, 0.26158768)


@pytest.mark.parametrize(("resolution", "padding"), [(8, 1), (32, 4), (64, 8)])
def test_small_images_are_shifted_by_an_eighth_and_flipped(resolution, padding):
    size = resolution, resolution
    train = steps_of(training_transform(size, 3, "squeeze", False, "flip-crop"))
    evaluation = steps_of(evaluation_transform(size, 3, "squeeze", False))
    assert list(train) == ["Decode", "FitTo", "RandomCrop", "RandomHorizontalFlip"]
    assert set(train["RandomCrop"].padding) == {padding}
    assert list(evaluation) == ["Decode", "FitTo"]


@pytest.mark.parametrize(("resolution", "resized"), [(224, 256), (112, 128)])
def test_large_images_are_augmented_like_darts_on_imagenet(resolution, resized):
    size = resolution, resolution
    train = steps_of(training_transform(size, 3, "crop", True, "photo"))
    assert list(train) == ["RandomResizedCrop", "RandomHorizontalFlip", "ColourJitter"]
    jitter = train["ColourJitter"].jitter
    assert jitter.brightness == jitter.contrast == jitter.saturation == (0.6, 1.4)
    assert jitter.hue == (-0.2, 0.2)
    evaluate = evaluation_transform(size, 3, "crop", True)
    centre = v2.Compose([v2.Resize(resized, antialias=True), v2.CenterCrop(resolution)])
    for shape in ((300, 401), (431, 290), (260, 260), (100, 133)):
        image = torch.randint(256, (3, *shape), dtype=torch.uint8)
        assert torch.equal(evaluate(image), centre(image))


def test_cutout_of_sixteen_blanks_between_a_quarter_and_all_of_its_square():
    image = torch.ones(3, 32, 32)
    images = cut_out(image.expand(400, 3, 32, 32), 16, 1.0, seed=0)
    blanked = [cut == 0 for cut in images]
    assert all(torch.equal(mask[0], mask[1]) and torch.equal(mask[0], mask[2]) for mask in blanked)
    areas = [int(mask[0].sum()) for mask in blanked]
    assert min(areas) >= 8 * 8  # the centre in a corner
    assert max(areas) == 16 * 16
    assert torch.equal(image, torch.ones(3, 32, 32))
    # Rows 8..24 can be centres of a whole square; a uniform centre is one in (17/32)**2 = 28 % of draws, and 400 draws
    # lie within five standard deviations (2.2 % each) of it
    assert abs(areas.count(256) / 400 - (17 / 32) ** 2) < 0.12


@pytest.mark.parametrize("side", [2, 5, 10])
def test_cutout_blanks_a_square_that_may_hang_over_the_border(side):
    areas = {int((cut == 0).sum()) // 3 for cut in cut_out(torch.ones(200, 3, 8, 8), side, 1.0, seed=0)}
    assert max(areas) <= min(side, 8) ** 2
    assert min(areas) >= 1
    assert len(areas) > 1


def test_squares_are_blanked_in_some_images_as_wide_as_they_are_and_nothing_else_changes():
    images = torch.rand(400, 1, 16, 16) + 1
    cut = cut_out(images, 8, 0.3, seed=5)
    blank = cut[:, 0] == 0
    is_cut = blank.flatten(1).any(1)
    assert abs(is_cut.float().mean().item() - 0.3) < 4 * (0.3 * 0.7 / 400) ** 0.5  # four standard errors
    assert torch.equal(torch.where(cut == 0, images, cut), images)
    for square in blank[is_cut]:
        rows, columns = square.any(1), square.any(0)
        assert torch.equal(square, rows[:, None] & columns[None, :])
        assert rows.sum() <= 8
        assert columns.sum() <= 8
    assert max(int(square.sum()) for square in blank) == 64
    assert torch.equal(cut_out(images, 8, 0.3, seed=5), cut)
    assert not torch.equal(cut_out(images, 8, 0.3, seed=6), cut)
    assert (cut_out(images, 8, 1.0, seed=5) == 0).flatten(1).any(1).all()
    assert torch.equal(cut_out(images, 8, 0.0, seed=5), images)


def test_an_image_of_another_shape_is_squeezed_padded_or_cropped():
    image = torch.zeros(1, 10, 40, dtype=torch.uint8)
    image[:, :, 20:] = 200
    squeezed, padded, cropped = (FitTo((20, 20), how)(image)[0] for how in ("squeeze", "pad", "crop"))
    assert all(x.shape == (20, 20) for x in (squeezed, padded, cropped))
    assert squeezed[:, :9].max() == 0
    assert squeezed[:, 11:].min() == 200
    assert padded[:7].max() == padded[13:].max() == 0  # 5 rows of it are image
    assert padded[10, 15] == 200
    assert cropped[:, :8].max() == 0
    assert cropped[:, 12:].min() == 200
    assert torch.equal(FitTo((10, 40), "crop")(image), image)


@pytest.mark.parametrize("augment", ["none", "crop", "flip-crop", "photo", "auto"])
@pytest.mark.parametrize("large", [False, True])
def test_every_augmentation_gives_the_two_sides_that_were_asked_for(augment, large):
    transform = training_transform((24, 96), 3, "squeeze", large, augment)
    image = torch.randint(256, (3, 30, 100), dtype=torch.uint8)
    assert transform(image).shape == (3, 24, 96)
    assert transform(image).dtype == torch.uint8
    assert ("Flip" in str(transform)) == (augment not in ("none", "crop"))


def test_a_transform_of_ones_own_comes_behind_the_size():
    transform = training_transform((8, 12), 1, "squeeze", False, lambda image: 255 - image)
    assert torch.equal(
        transform(torch.zeros(1, 8, 12, dtype=torch.uint8)), torch.full((1, 8, 12), 255, dtype=torch.uint8)
    )
