import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from fastnas.data import (
    DataConfig,
    ImageSet,
    batched,
    evaluation_batches,
    from_arrays,
    from_dataset,
    hold_out,
    load_data,
    loading,
    paired_batches,
    share_memory,
    split_halves,
    training_batches,
)

DIGITS = load_data("digits")
HALVES = split_halves(DIGITS.train.labels, np.arange(400), 0.5, 0)


def batches(first_step=0, num_steps=9, workers=0, search_from_step=2, seed=0):
    return list(
        paired_batches(
            DIGITS,
            *HALVES,
            batch_size=32,
            seed=seed,
            first_step=first_step,
            num_steps=num_steps,
            search_from_step=search_from_step,
            workers=workers,
        )
    )


def same(one, other):
    return all(
        (x is None and y is None) or (torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels))
        for x, y in zip(one, other, strict=True)
    )


def test_workers_change_nothing():
    assert all(map(same, batches(), batches(workers=2)))


def test_a_step_has_the_same_batch_wherever_a_run_begins():
    everything = batches()
    assert all(map(same, everything[5:], batches(first_step=5, num_steps=4)))


def test_seeds_and_passes_differ():
    first, other = batches(), batches(seed=1)
    assert not same(first[0], other[0])
    steps = len(HALVES[0]) // 32
    assert not same(first[0], first[steps])


def test_no_image_for_alpha_is_decoded_before_it_is_needed():
    assert [alpha is None for _, alpha in batches()] == [True] * 2 + [False] * 7


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    batches(num_steps=2)
    assert torch.equal(torch.rand(3), expected)


def test_every_image_of_a_half_is_seen_once_a_pass():
    labels = DIGITS.train.labels
    numbers = np.arange(len(labels))
    told = replace(DIGITS, train=ImageSet(numbers, DIGITS.train.image))
    indices = np.arange(64)
    seen = [
        int(i)
        for batch in training_batches(told, indices, batch_size=16, seed=0, first_step=0, num_steps=4, workers=0)
        for i in batch.labels
    ]
    assert sorted(seen) == indices.tolist()


def retraining(first_step=0, num_steps=6, workers=0):
    return list(
        training_batches(
            DIGITS,
            np.arange(100),
            batch_size=25,
            seed=3,
            first_step=first_step,
            num_steps=num_steps,
            workers=workers,
            cutout=4,
        )
    )


def test_retraining_keeps_its_batches_whatever_the_workers_and_wherever_it_resumes():
    everything = retraining()
    assert same(everything, retraining(workers=2))
    assert same(everything[3:], retraining(first_step=3, num_steps=3, workers=2))


def test_an_image_is_augmented_anew_in_every_pass():
    one = training_batches(DIGITS, np.array([7]), batch_size=1, seed=0, first_step=0, num_steps=20, workers=0)
    assert len({batch.images.numpy().tobytes() for batch in one}) > 4  # of the nine shifts


def test_a_half_has_the_same_batches_whether_or_not_the_other_is_read():
    late, early = batches(search_from_step=5), batches(search_from_step=0)
    assert same([weights for weights, _ in late], [weights for weights, _ in early])
    assert same([alpha for _, alpha in late][5:], [alpha for _, alpha in early][5:])


def test_one_loader_serves_all_epochs(monkeypatch):
    started, begin = [], DataLoader.__iter__
    monkeypatch.setattr(DataLoader, "__iter__", lambda loader: started.append(1) or begin(loader))
    assert len(batches(num_steps=3 * (len(HALVES[0]) // 32))) == 18
    assert len(started) == 1


def test_only_images_for_weights_are_decoded_during_warm_up():
    decoded = []

    def image(index):
        decoded.append(index)
        return DIGITS.train.image(index)

    data = replace(DIGITS, train=ImageSet(DIGITS.train.labels, image))
    for weights, alpha in paired_batches(
        data, *HALVES, batch_size=32, seed=0, first_step=0, num_steps=4, search_from_step=9, workers=0
    ):
        assert alpha is None
        assert len(weights.labels) == 32
    assert set(decoded) <= set(HALVES[0].tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_once_in_order_in_batches_of_nearly_one_size(workers):
    everything = list(evaluation_batches(DIGITS, DIGITS.test, batch_size=100, workers=workers))
    assert [len(batch.labels) for batch in everything] == [90, 90, 90, 89]
    assert torch.cat([batch.labels for batch in everything]).tolist() == DIGITS.test.labels.tolist()


def test_evaluation_of_some_images_or_of_none():
    (batch,) = evaluation_batches(DIGITS, DIGITS.test, np.array([5, 3]), batch_size=8)
    assert batch.labels.tolist() == DIGITS.test.labels[[5, 3]].tolist()
    assert list(evaluation_batches(DIGITS, DIGITS.test, np.array([], int), batch_size=8)) == []


def test_a_batch_that_a_half_cannot_fill_is_refused_before_anything_is_read():
    arguments = {"seed": 0, "first_step": 0, "num_steps": 1, "workers": 0}
    with pytest.raises(ValueError, match=r"must not exceed the half for alpha \(3\), got 8\. Lower --batch-size"):
        paired_batches(DIGITS, np.arange(8), np.arange(3), batch_size=8, search_from_step=0, **arguments)
    with pytest.raises(ValueError, match=r"must not exceed the half for the weights \(3\), got 8"):
        paired_batches(DIGITS, np.arange(3), np.arange(8), batch_size=8, search_from_step=0, **arguments)
    with pytest.raises(ValueError, match=r"must not exceed the training images \(3\), got 8"):
        training_batches(DIGITS, np.arange(3), batch_size=8, **arguments)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        training_batches(DIGITS, np.arange(3), batch_size=0, **arguments)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluation_batches(DIGITS, DIGITS.test, batch_size=0)


def test_data_can_be_sent_to_spawned_workers():
    copy = pickle.loads(pickle.dumps(DIGITS))
    assert torch.equal(copy.eval_transform(copy.train.image(3)), DIGITS.eval_transform(DIGITS.train.image(3)))


@pytest.mark.parametrize("augment", ["none", "crop", "flip-crop"])
@pytest.mark.parametrize("kind", ["bytes", "floats", "labels", "selected", "shared"])
def test_a_batch_in_memory_is_bit_for_bit_its_images_one_by_one(augment, kind, monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 3, 9, 16), dtype=np.uint8), np.arange(60) % 3
    x = rng.normal(size=x.shape) if kind == "floats" else x
    y, task = (np.eye(3)[y], "multi_label") if kind == "labels" else (y, None)
    data = from_arrays((x, y), config=DataConfig(augment=augment), task=task)
    if kind == "selected":
        data = hold_out(data, np.arange(40)[::-1], np.arange(8))
    if kind == "shared":
        data = share_memory(data)

    def read():
        count = len(data.train.labels)
        training = training_batches(data, np.arange(count), batch_size=16, seed=3, first_step=1, num_steps=3, workers=0)
        return [*training, *evaluation_batches(data, data.test, batch_size=5)]

    at_once = read()
    asked = []
    monkeypatch.setattr(loading, "read_batch", lambda *arguments: asked.append(arguments))
    assert all(map(same, [[b] for b in at_once], [[b] for b in read()]))
    assert len(asked) == len(at_once)
    assert batched.read_batch(*asked[0]) is not None


def test_other_images_and_transforms_are_read_one_by_one(monkeypatch):
    x, y = np.zeros((20, 1, 10, 10), np.uint8), np.arange(20) % 2
    larger = from_arrays((x, y), config=DataConfig(resolution=12))
    coloured = from_arrays((x, y), config=DataConfig(image_channels=3))
    own = from_arrays((x, y), augment=lambda image: image)
    of_files = from_dataset([(torch.as_tensor(image), label) for image, label in zip(x, y, strict=True)])
    crop = v2.RandomCrop(10, padding=1, padding_mode="reflect")
    reflected = replace(own, train_transform=v2.Compose([*own.train_transform.transforms[:-1], crop]))
    for data in (larger, coloured, own, of_files, reflected):
        assert batched.read_batch(data.train, data.train_transform, np.arange(4), [0] * 4) is None
        assert len(next(evaluation_batches(data, data.train, batch_size=16)).images) > 0
