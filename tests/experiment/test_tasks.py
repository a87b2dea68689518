"""Each task from arrays to a model that predicts, on rendered squares; from the command line and from Python."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import fastnas
from fastnas import tasks
from fastnas.cli.main import main
from fastnas.data import from_arrays, load_data
from fastnas.mechanisms.choice import Perturbation
from fastnas.methods import darts
from fastnas.training.config import RetrainConfig, SearchConfig
from fastnas.training.numerics import evaluate

SIDE, COUNT = 16, 96
TINY = ["--space", "nasbench201", "--channels", "4", "--cells", "1", "--epochs", "1", "--warmup-epochs", "0"]
TINY += ["--batch-size", "16", "--device", "cpu", "--random-genotypes", "1", "--retrain.channels", "4"]
TINY += ["--retrain.cells", "1"]
TINY += ["--retrain.epochs", "1", "--retrain.batch-size", "16"]
SCORE = {"multi_label": "f1", "regression": "rmse"}


def render():
    """A bright square on black: images, its place in pixels, and whether it is low and right."""
    rng = np.random.default_rng(0)
    place = rng.integers(2, SIDE - 2, (COUNT, 2))
    images = np.zeros((COUNT, SIDE, SIDE), np.uint8)
    for image, (y, x) in zip(images, place, strict=True):
        image[y - 2 : y + 3, x - 2 : x + 3] = 200
    targets = {"regression": place.astype(np.float64), "multi_label": place > SIDE // 2}
    return images, targets


@pytest.fixture(scope="module", params=["multi_label", "regression"])
def finished(request, tmp_path_factory):
    """A run of the command line, ladder included."""
    task, folder = request.param, tmp_path_factory.mktemp(request.param)
    images, targets = render()
    np.savez(folder / "data.npz", x_train=images, y_train=targets[task], classes=["first", "second"])
    ladder = ["--select", "ladder", "--ladder.proposals", "2", "--ladder.entrants", "2", "--ladder.steps", "1"]
    source = f"arrays:{folder / 'data.npz'}"
    arguments = ["search", *TINY, *ladder, "--data", source, "--task", task, "--run", str(folder / "run")]
    assert main([*arguments, "--method", "darts"]) == 0
    return task, source, folder / "run"


def test_a_run_is_scored_by_its_task_in_all_its_files(finished):
    task, _, run = finished
    name = SCORE[task]
    for path in (run / "metrics.jsonl", run / "retrain" / "searched" / "metrics.jsonl"):
        record = json.loads(path.read_text().splitlines()[-1])
        parts = ("inner", "outer") if path.parent == run else ("train", "test")
        assert all(isinstance(record[f"{part}_{name}"], float) for part in parts)
        assert not [key for key in record if "accuracy" in key]
    networks = json.loads((run / "comparison.json").read_text())["networks"]
    assert all(f"test_{name}" in network for network in networks)
    assert {rung["score"] for rung in json.loads((run / "selection.json").read_text())["rungs"]} == {name}


def test_report_and_comparison_name_the_score(finished, tmp_path, capsys):
    task, _, run = finished
    label = tasks.SCORES[SCORE[task]].label
    page = (run / "report.html").read_text()
    assert f"Test {label} after retraining" in page
    assert "accuracy" not in page.split("Settings")[0].lower()
    assert main(["compare", str(run), "--out", str(tmp_path / "table.csv")]) == 0
    assert f"test {label}" in (tmp_path / "table.csv").read_text()


def test_a_model_predicts_evaluates_and_exports(finished, tmp_path, capsys):
    task, source, run = finished
    model = fastnas.load(run)
    assert (model.task.name, model.classes) == (task, ("first", "second"))
    image = tmp_path / "image.png"
    Image.fromarray(render()[0][0]).save(image)
    assert main(["predict", str(run), str(image), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    found = entry["outputs" if task == "regression" else "classes"]
    assert {one["output" if task == "regression" else "class"] for one in found} == {"first", "second"}
    assert main(["evaluate", str(run), "--data", source, "--device", "cpu"]) == 0
    assert tasks.SCORES[SCORE[task]].show(model.metrics[f"test_{SCORE[task]}"]) in capsys.readouterr().out
    assert main(["export", str(run), "--to", "torchscript", "--out", str(tmp_path / "model.pt")]) == 0


def test_a_regression_learns_where_a_square_is_and_says_it_in_pixels():
    images, targets = render()
    config = RetrainConfig(channels=4, cells=3, epochs=24, batch_size=16, lr=0.1, evaluate_every=24)
    skips = fastnas.spaces.random_genotype(fastnas.spaces.DARTS, 3)
    trained = fastnas.retrain(skips, (images, targets["regression"]), config, task="regression")
    spread = targets["regression"].std()
    assert trained.score < 0.7 * spread
    pixels = trained.info.build().eval()
    assert pixels(torch.zeros(1, 1, SIDE, SIDE)).shape == (1, 2)
    with pytest.raises(AttributeError, match="rmse"):
        _ = trained.test_accuracy


class MeanError:
    """As a metric of torchmetrics."""

    def reset(self):
        self.errors = []

    def update(self, predictions, targets):
        self.errors.append((predictions - targets).abs().mean())

    def compute(self):
        return torch.stack(self.errors).mean()


def test_loss_and_metrics_of_ones_own_are_followed_by_search_and_retraining():
    images, targets = render()
    seen = []

    def loss(outputs, targets):
        seen.append(len(outputs))
        return torch.nn.functional.l1_loss(outputs, targets)

    task = tasks.regression(loss=loss, metrics={"mean_error": MeanError()})
    config = SearchConfig(channels=4, cells=1, epochs=1, batch_size=32, warmup_epochs=0, device="cpu")
    result = fastnas.search("nasbench201", "darts", (images, targets["regression"]), config, task=task)
    assert seen
    training = RetrainConfig(channels=4, cells=1, epochs=1, batch_size=16)
    trained = fastnas.retrain(result.genotype, (images, targets["regression"]), training, task=task)
    assert 0 < trained.info.metrics["test_mean_error"] <= trained.info.metrics["test_rmse"]


@pytest.mark.parametrize(
    ("task", "targets", "says"),
    [
        ("multi_label", np.arange(COUNT), "0 or 1"),
        ("multi_label", np.full((COUNT, 2), 3), "0 or 1"),
        ("regression", np.full(COUNT, np.nan), "finite"),
        ("regression", np.ones(COUNT), "must differ"),
        ("classification", np.linspace(0, 1, COUNT), "fastnas.tasks"),
        ("segmentation", np.arange(COUNT), "task must be one of"),
    ],
)
def test_targets_that_do_not_fit_the_task_are_refused_at_once(task, targets, says):
    with pytest.raises(ValueError, match=says):
        from_arrays((render()[0], targets), task=task)


def test_what_a_task_rules_out_is_refused_in_one_line(capsys):
    assert main(["search", "--data", "digits", "--task", "regression"]) == 1
    assert "--task must be classification beside digits" in capsys.readouterr().err
    data = from_arrays((render()[0], render()[1]["regression"]), task="regression")
    with pytest.raises(ValueError, match="must not have balanced classes"):
        fastnas.search("darts", "darts", data, SearchConfig(class_weights="balanced", device="cpu"))
    with pytest.raises(ValueError, match="label_smoothing must be 0 with regression"):
        fastnas.retrain("DARTS_V2", data, RetrainConfig(label_smoothing=0.1))
    with pytest.raises(ValueError, match="where the data is made"):
        fastnas.search("darts", "darts", "digits", task="regression")


def test_scores_are_those_of_their_definitions():
    label = tasks.multi_label()
    outputs, targets = torch.tensor([[3.0, -3.0], [3.0, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert float(label.score(label.statistics(outputs, targets), 2)) == pytest.approx((2 / 3 + 1) / 2)
    numbers = tasks.regression().fit(np.array([[0.0], [2.0]]))
    assert float(numbers.score(numbers.statistics(torch.tensor([[1.0], [-1.0]]), torch.tensor([[0.0], [0.0]])), 2)) == (
        pytest.approx((4 / 2) ** 0.5)
    )


def test_a_task_survives_its_description():
    for task in (tasks.multi_label(threshold=0.3), tasks.regression().fit(np.array([[0.0], [2.0]]))):
        assert tasks.task_from_json(json.loads(json.dumps(task.describe()))) == task


def test_classification_is_measured_as_before():
    data = load_data("digits")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    batches = list(fastnas.data.evaluation_batches(data, data.test, batch_size=64))
    plain = evaluate(network, batches, torch.device("cpu"))
    own = tasks.classification(loss=torch.nn.functional.cross_entropy)
    through_task = evaluate(network, batches, torch.device("cpu"), task=own)
    assert through_task.score == plain.score
    assert through_task.loss == pytest.approx(plain.loss, rel=1e-5)
    assert torch.equal(through_task.confusion, plain.confusion)


def test_perturbation_tunes_by_the_loss_of_the_task():
    images, targets = render()
    calls = []

    def loss(outputs, target):
        calls.append(outputs.requires_grad)
        return (outputs - target).abs().mean()

    data = from_arrays((images, targets["regression"]), task=tasks.regression(loss=loss))
    config = SearchConfig(channels=4, cells=1, epochs=1, batch_size=16, device="cpu")
    fastnas.search("nasbench201", replace(darts(), choice=Perturbation(tune_epochs=1)), data, config)
    steps, edges = len(data.train.labels) // 2 // config.batch_size, 6
    assert sum(calls) == (2 + edges) * steps
