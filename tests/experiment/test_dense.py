"""Segmentation from arrays to a model that predicts maps, on rendered squares; by the command line and in Python."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

import fastnas
from fastnas import tasks
from fastnas.cli.main import main
from fastnas.data import DataConfig, from_arrays, from_dataset
from fastnas.data.loading import training_batches
from fastnas.networks.export import export
from fastnas.training.config import RetrainConfig, SearchConfig

SIDE, COUNT = 16, 64
SEARCH = SearchConfig(channels=4, cells=1, epochs=1, batch_size=16, warmup_epochs=0, device="cpu")
TRAINING = RetrainConfig(channels=4, cells=1, epochs=1, batch_size=16)


def render():
    """Squares of two brightnesses on black, the class of every pixel, and a border that does not count."""
    rng = np.random.default_rng(0)
    images, maps = np.zeros((COUNT, SIDE, SIDE), np.uint8), np.zeros((COUNT, SIDE, SIDE), np.int64)
    for image, classes in zip(images, maps, strict=True):
        y, x = rng.integers(0, SIDE - 8, 2)
        kind = rng.integers(1, 3)
        image[y : y + 8, x : x + 8], classes[y : y + 8, x : x + 8] = 100 * kind, kind
    maps[:, 0] = 255
    return images, maps


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    images, maps = render()
    np.savez(folder / "data.npz", x_train=images, y_train=maps, classes=["ground", "dark", "light"])
    search = "--space nasbench201 --method darts --device cpu --channels 4 --cells 1 --epochs 1 --warmup-epochs 0"
    search += " --batch-size 16 --no-random-halving --random-genotypes 1 --retrain.channels 4 --retrain.cells 1"
    search += " --retrain.epochs 1 --retrain.batch-size 16 --select ladder --ladder.proposals 2 --ladder.entrants 2"
    source = ["--data", f"arrays:{folder / 'data.npz'}", "--task", "dense"]
    run = ["search", *search.split(), "--ladder.steps", "1", *source, "--run", str(folder / "run")]
    assert main(run) == 0
    return folder, folder / "run"


def test_search_ladder_retraining_report_and_comparison_follow(finished, tmp_path):
    _, run = finished
    for path, parts in ((run, ("inner", "outer")), (run / "retrain" / "searched", ("train", "test"))):
        record = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
        assert all(0 <= record[f"{part}_miou"] <= 1 for part in parts)
    assert {rung["score"] for rung in json.loads((run / "selection.json").read_text())["rungs"]} == {"miou"}
    assert "Test mean IoU after retraining" in (run / "report.html").read_text()
    assert main(["compare", str(run), "--out", str(tmp_path / "table.csv")]) == 0
    assert "test mean IoU (%)" in (tmp_path / "table.csv").read_text()


def test_a_model_predicts_maps_evaluates_and_exports(finished, tmp_path, capsys):
    folder, run = finished
    image = tmp_path / "image.png"
    Image.fromarray(render()[0][0]).save(image)
    assert main(["predict", str(run), str(image), "--json", "--masks", str(tmp_path / "masks")]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert sum(one["share of places"] for one in entry["classes"]) == pytest.approx(1)
    mask = np.array(Image.open(tmp_path / "masks" / "image.png"))
    (tmp_path / "b").mkdir()
    other = Path(shutil.copy(image, tmp_path / "b"))
    assert main(["predict", str(run), str(image), str(other), "--masks", str(tmp_path / "both")]) == 1
    assert "their names must differ, got image" in capsys.readouterr().err
    assert not (tmp_path / "both").exists()
    model = fastnas.load(run)
    assert mask.shape == (SIDE, SIDE)
    assert np.array_equal(mask, model.predict([image]).argmax(1)[0].numpy())
    assert main(["evaluate", str(run), "--data", f"arrays:{folder / 'data.npz'}", "--device", "cpu"]) == 0
    assert tasks.SCORES["miou"].show(model.metrics["test_miou"]) in capsys.readouterr().out
    assert export(model, tmp_path / "model.pt", "torchscript") < 1e-4
    assert model(torch.zeros(1, 1, 2 * SIDE, SIDE)).shape == (1, 3, 2 * SIDE, SIDE)  # any size that the stride divides


@pytest.mark.parametrize("divisor", [1, 2, 4])
def test_targets_may_be_a_fraction_of_the_images(divisor):
    images, maps = render()
    data = from_arrays((images, maps[:, ::divisor, ::divisor]), task=tasks.dense())
    for space, cells in (("nasbench201", 1), ("darts", 3)):
        genotype = fastnas.spaces.random_genotype(fastnas.spaces.space_by_name(space), 0)
        trained = fastnas.retrain(genotype, data, replace(TRAINING, cells=cells))
        assert trained.network(torch.zeros(2, 1, SIDE, SIDE)).shape == (2, 3, SIDE // divisor, SIDE // divisor)


def test_a_network_learns_where_squares_are_and_second_order_works():
    images, maps = render()
    found = fastnas.search("nasbench201", "darts_2nd", (images, maps), SEARCH, task="dense")
    assert found.history[0]["outer_miou"] > 0
    genotype = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
    trained = fastnas.retrain(genotype, (images, maps), replace(TRAINING, epochs=8, lr=0.1), task="dense")
    assert trained.score > 0.45  # ground alone is below 0.3


def test_images_and_maps_change_together():
    images, maps = render()

    def mirror(image, classes):
        return v2.RandomHorizontalFlip(p=1.0)(image, tv_tensors.Mask(classes))

    data = from_arrays((images, maps), task="dense", augment=mirror)
    plain = from_arrays((images, maps), task="dense")
    read = {"batch_size": 8, "seed": 0, "first_step": 0, "num_steps": 1, "workers": 0}
    (one,), (other,) = (list(training_batches(d, np.arange(8), **read)) for d in (data, plain))
    assert torch.equal(one.images, other.images.flip(-1))
    assert torch.equal(torch.as_tensor(one.labels), other.labels.flip(-1))


def test_loss_and_score_leave_out_what_does_not_count():
    task = tasks.dense()
    logits = torch.tensor([[[4.0, -4.0, 4.0]], [[-4.0, 4.0, -4.0]]])[None]  # [1, 2, 1, 3]
    targets = torch.tensor([[[0, 1, 255]]])
    assert float(task.loss(logits, targets)) == pytest.approx(np.log1p(np.exp(-8)), rel=1e-4)
    right = task.statistics(logits, targets)
    assert float(task.score(right, 1)) == 1.0
    half = task.statistics(logits, torch.tensor([[[0, 0, 255]]]))
    assert float(task.score(half, 1)) == pytest.approx((1 / 2 + 0) / 2)
    assert float(task.loss(logits, torch.full_like(targets, 255))) == 0.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (lambda x, y: {"train": (x, y[:, 0, 0])}, "whole numbers"),
        (lambda x, y: {"train": (x, y), "classes": ["a", "b"]}, r"lie in \[0, 2\)"),
        (lambda x, y: {"train": (x, y), "config": DataConfig(augment="flip-crop")}, "augment must be none"),
        (lambda x, y: {"train": (x, y), "config": DataConfig(resolution=32)}, "must all have the size"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        from_arrays(**arguments(*render()), task="dense")


def test_sizes_and_spaces_that_do_not_fit_are_refused():
    images, maps = render()
    odd = from_arrays((images[:, :15], maps[:, :15]), task="dense")
    with pytest.raises(ValueError, match="sides divisible by 4"):
        fastnas.search("nasbench201", "darts", odd, SEARCH)
    with pytest.raises(ValueError, match="a space of cells"):
        fastnas.search("proxyless", "proxyless_nas", from_arrays((images, maps), task="dense"), SEARCH)
    pairs = [
        (Image.fromarray(image), Image.fromarray(one.astype(np.uint8))) for image, one in zip(*render(), strict=True)
    ]
    assert from_dataset(pairs, task="dense").task.size == (SIDE, SIDE)
