"""Data of one's own objects: what is taken, what is refused, and that it is searched on like any other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset
from torchvision.datasets import ImageFolder

import fastnas
from fastnas.data import DataConfig, as_data, from_arrays, from_dataset
from fastnas.data.prepare import DataWarning
from fastnas.training.config import RetrainConfig, SearchConfig

COUNT = 60
LABELS = np.arange(COUNT) % 3
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 3, 12, 16)).astype(np.uint8)
SEARCH = SearchConfig(channels=4, cells=1, epochs=2, batch_size=8, device="cpu")
RETRAIN = RetrainConfig(channels=4, cells=3, epochs=1, batch_size=8)


def seen(data, index=0):
    """What a network sees of a training image."""
    return data.normalise(data.eval_transform(data.train.image(index))[None])[0]


class Pictures(Dataset):
    classes = ("a", "b", "c")

    def __init__(self, change=lambda image: image):
        self.change = change

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return self.change(Image.fromarray(PIXELS[index].transpose(1, 2, 0))), int(LABELS[index])


@pytest.mark.parametrize(
    "images",
    [PIXELS, PIXELS.transpose(0, 2, 3, 1), torch.from_numpy(PIXELS), PIXELS.astype(np.float32) / 255],
    ids=["channels first", "channels last", "tensor", "numbers in [0, 1]"],
)
def test_images_are_the_same_however_they_come(images):
    data, expected = from_arrays((images, LABELS)), from_arrays((PIXELS, LABELS))
    assert (data.channels, data.resolution, data.classes) == (3, (12, 16), ("0", "1", "2"))
    torch.testing.assert_close(seen(data), seen(expected), rtol=1e-4, atol=1e-5)
    assert sorted(np.bincount(data.test.labels)) == [4, 4, 4]  # a fifth, class by class
    assert any("held out" in note for note in data.notes)


def test_numbers_keep_all_their_levels():
    x = np.random.default_rng(1).normal(5, 3, (COUNT, 1, 12, 12))
    data = from_arrays((x, LABELS), (x, LABELS))
    values = torch.stack([seen(data, i) for i in range(COUNT)])
    torch.testing.assert_close(values, torch.from_numpy((x - x.mean()) / x.std()).float(), rtol=1e-4, atol=1e-4)
    assert data.augment == "none"
    assert data.values == (x.min(), x.max())


def test_sixteen_bits_and_whole_numbers_are_scaled():
    x = (PIXELS[:, :1].astype(np.int32) - 100) * 300
    assert seen(from_arrays((x, LABELS))).std() > 0.1
    assert from_arrays((PIXELS[:, 0], LABELS)).channels == 1
    assert from_arrays((np.repeat(PIXELS, 2, axis=1)[:, :4], LABELS)).channels == 4


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((PIXELS, LABELS[:-1]), "one label for every image, got 60 images and 59 labels"),
        ((PIXELS, LABELS.astype(float)), "labels must be whole numbers"),
        ((PIXELS, LABELS - 1), r"labels must lie in \[0, 2\)"),
        ((PIXELS.reshape(COUNT, -1), LABELS), r"images must have the shape \[N, C, H, W\]"),
        ((np.full((COUNT, 12, 12), np.nan), LABELS), "finite"),
        ((np.zeros((COUNT, 12, 12)), LABELS), "images must differ, got 0.0 everywhere"),
        ((np.array(["a"] * COUNT), LABELS), "images must be numbers"),
        ((PIXELS[:0], LABELS[:0]), "must hold images"),
        (PIXELS, "pair of images and labels"),
    ],
)
def test_what_is_no_data_is_one_line(train, message):
    with pytest.raises(ValueError, match=message) as error:
        from_arrays(train, dimensions=2)
    assert str(error.value).count("\n") == 0


def test_numbers_have_no_augmentation_that_is_made_for_pixels():
    with pytest.raises(ValueError, match="augment auto must have images of 8 bits"):
        from_arrays((PIXELS / 255.0, LABELS), config=DataConfig(augment="auto"))


@pytest.mark.parametrize("kind", ["pictures", "tensors"])
def test_a_data_set_is_read_when_it_is_needed_and_knows_its_classes(kind):
    dataset = Pictures() if kind == "pictures" else TensorDataset(torch.from_numpy(PIXELS), torch.from_numpy(LABELS))
    data = from_dataset(dataset)
    assert data.classes == (("a", "b", "c") if kind == "pictures" else ("0", "1", "2"))
    torch.testing.assert_close(seen(data), seen(from_arrays((PIXELS, LABELS))), rtol=1e-4, atol=1e-5)


def test_a_data_set_that_draws_is_warned_of():
    with pytest.warns(DataWarning, match="changes its images at random"):
        from_dataset(Pictures(lambda image: image.rotate(90 * int(torch.randint(4, ())))))


class Listed(Pictures):
    """Lists its labels, too, and counts the items that were read."""

    def __init__(self, labels=LABELS, change=lambda label: label):
        super().__init__()
        self.targets, self.change_label, self.reads = labels.tolist(), change, 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)[0], self.change_label(self.targets[index])


def all_labels(data):
    """Of the images to train and to test on, in the order of the data set."""
    return np.concatenate([data.train.labels, data.test.labels])


def test_listed_labels_are_taken_where_items_agree_without_reading_them_all():
    dataset = Listed(np.repeat(np.arange(3), COUNT // 3))
    assert from_dataset(dataset, config=DataConfig(resolution=16)).classes == ("a", "b", "c")
    assert dataset.reads < 2 * COUNT  # sizes and statistics are looked at once


@pytest.mark.parametrize(
    "change",
    [lambda label: label % 2, lambda label: {1: 2}.get(label, 0), lambda label: torch.tensor(2 - label)],
    ids=["merged", "one class is another", "a tensor"],
)
def test_labels_are_those_of_the_items_and_not_those_that_are_listed(change):
    labels = np.sort(LABELS)
    with pytest.warns(DataWarning, match=r"the items of Listed have other labels .* Name them by classes="):
        data = from_dataset(Listed(labels, change))
    expected = np.array([int(change(int(label))) for label in labels])
    assert sorted(all_labels(data)) == sorted(expected)
    assert data.classes == tuple(map(str, range(expected.max() + 1)))
    again = from_dataset(Listed(labels, change), Listed(labels, change), classes=["x", "y", "z"])
    assert (again.train.labels.tolist(), again.test.labels.tolist()) == (expected.tolist(), expected.tolist())
    assert any("those of the items count" in note for note in again.notes)


def test_a_class_of_few_images_that_items_call_another_is_found():
    labels = np.zeros(COUNT, np.int64)
    labels[31], labels[45:] = 2, 1
    with pytest.warns(DataWarning, match="other labels"):
        data = from_dataset(Listed(labels, lambda label: min(label, 1)))
    assert sorted(all_labels(data)) == [0] * 44 + [1] * 16


def test_a_folder_with_a_transform_of_labels_has_the_labels_that_it_gives(tmp_path, photo):
    for name in "abc":
        (tmp_path / name).mkdir()
        for i in range(6):
            photo(16, 16, seed=i).save(tmp_path / name / f"{i}.png")
    with pytest.warns(DataWarning, match="other labels"):
        data = from_dataset(ImageFolder(str(tmp_path), target_transform=lambda label: int(label == 2)))
    assert np.bincount(all_labels(data)).tolist() == [12, 6]
    assert from_dataset(ImageFolder(str(tmp_path), target_transform=int)).classes == ("a", "b", "c")


class Ages(Dataset):
    """A number for each image, beside classes that are called its labels."""

    labels = LABELS.tolist()
    ages = np.linspace(20, 80, COUNT)

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return torch.from_numpy(PIXELS[index]), self.ages[index]


def test_a_regression_has_the_numbers_of_the_items():
    data = from_dataset(Ages(), task="regression")
    np.testing.assert_allclose(np.sort(all_labels(data)[:, 0]), Ages.ages, rtol=1e-6)


def test_tensors_whose_items_are_changed_are_read_item_by_item():
    class Merged(TensorDataset):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image, label % 2

    data = from_dataset(Merged(torch.from_numpy(PIXELS), torch.from_numpy(LABELS)))
    assert sorted(all_labels(data)) == sorted(LABELS % 2)


def test_numbers_that_are_no_classes_are_refused_before_they_become_outputs():
    with pytest.raises(ValueError, match=r"must be less than 100000, got 3000000\. Number the classes"):
        from_arrays((PIXELS[:2], np.array([0, 3_000_000])))


def test_an_iterable_is_refused():
    with pytest.raises(ValueError, match="must have a length and items"):
        from_dataset(iter([]))
    with pytest.raises(ValueError, match=r"Or give digits, .* arrays, a data set or two data loaders"):
        as_data(3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("data", [Pictures(), (PIXELS / 255.0, LABELS)], ids=["data set", "arrays"])
def test_a_search_runs_and_repeats(data, workers):
    found = [fastnas.search("nasbench201", "darts", data, replace(SEARCH, workers=number)) for number in (0, workers)]
    assert all(torch.equal(found[0].alpha[name], found[1].alpha[name]) for name in found[0].alpha)


def test_a_model_of_arrays_reads_arrays_and_refuses_image_files(tmp_path):
    x = np.random.default_rng(1).normal(5, 3, (COUNT, 1, 16, 16)).astype(np.float32)
    data = from_arrays((x, LABELS))
    fastnas.retrain("DARTS_V2", data, RETRAIN).save(tmp_path / "model")
    model = fastnas.load(tmp_path / "model")
    normalised = model.preprocessing.normalize(torch.from_numpy(x))
    torch.testing.assert_close(normalised.mean(), torch.zeros(()), atol=0.1, rtol=0)
    assert model(normalised).shape == (COUNT, 3)
    with pytest.raises(ValueError, match="the network must have been trained on images, got arrays of values"):
        model.predict([Image.new("L", (16, 16))])


def test_a_table_of_hugging_face_is_read_by_its_columns():
    datasets = pytest.importorskip("datasets")
    pictures = [Image.fromarray(x.transpose(1, 2, 0)) for x in PIXELS]
    features = datasets.Features(picture=datasets.Image(), kind=datasets.ClassLabel(names=["a", "b", "c"]))
    table = datasets.Dataset.from_dict({"picture": pictures, "kind": LABELS.tolist()}, features=features)
    data = as_data(table)
    assert data.classes == ("a", "b", "c")
    torch.testing.assert_close(seen(data), seen(from_arrays((PIXELS, LABELS))), rtol=1e-4, atol=1e-5)
