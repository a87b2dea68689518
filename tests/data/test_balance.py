"""Classes of unequal size: what the options for them do in a search, a selection and a retraining."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

import fastnas
from fastnas.cli.main import main
from fastnas.data import Batch, from_arrays, load_data, paired_batches, training_batches
from fastnas.data.balance import class_weights, draw_balanced_pass
from fastnas.selection import LadderConfig, climb
from fastnas.selection.evaluation import HeldOut
from fastnas.selection.proposals import Proposal
from fastnas.spaces import DARTS, NASBENCH201
from fastnas.spaces.sampling import random_genotype
from fastnas.tasks import CLASSIFICATION, classification
from fastnas.training.config import RetrainConfig, SearchConfig
from fastnas.training.numerics import evaluate
from fastnas.training.retrain import retrain

RARE = 10  # images of the rare class for 90 of the other
LABELS = np.repeat([0, 1], [9 * RARE, RARE])
BALANCED = [{"class_weights": "balanced"}, {"sampling": "balanced"}]
SEARCH = SearchConfig(channels=4, cells=1, epochs=2, batch_size=8, warmup_epochs=0, device="cpu")
RETRAIN = RetrainConfig(channels=4, cells=1, epochs=4, batch_size=8)
WORDS = ["weights", "sampling"]


@pytest.fixture(scope="module")
def data():
    """Two classes that overlap, nine images of one for each of the other."""
    rng = np.random.default_rng(0)
    parts = [(rng.normal(size=(len(LABELS), 1, 8, 8)) + 0.25 * LABELS[:, None, None, None], LABELS) for _ in range(2)]
    with pytest.warns(UserWarning, match="classes are unequal"):
        return from_arrays(*parts)


def test_weights_are_those_of_scikit_learn():
    labels = np.array([0, 0, 0, 2, 3, 3])
    expected = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=labels)
    np.testing.assert_allclose(class_weights(labels, 4), [expected[0], 0, *expected[1:]])


@pytest.mark.parametrize("labels", [LABELS, np.arange(30) % 3, np.array([0] * 17 + [1] + [2] * 3)])
def test_a_balanced_pass_has_as_many_of_each_class_and_repeats_no_image_needlessly(labels):
    indices = np.arange(len(labels))
    first, again, other = (draw_balanced_pass(indices, labels, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    counts = np.bincount(labels[first])
    assert len(first) == len(labels)
    assert counts.max() - counts.min() <= 1
    for label in np.unique(labels):
        times = np.bincount(first, minlength=len(labels))[labels == label]
        assert times.max() - times.min() <= 1


def test_losses_of_parts_of_a_batch_average_to_that_of_the_batch():
    logits, labels, weights = torch.randn(8, 3), torch.randint(3, (8,)), torch.tensor([0.5, 1.0, 3.0])
    whole = CLASSIFICATION.loss(logits, labels, weights, 0.1)
    halves = [CLASSIFICATION.loss(logits[part], labels[part], weights, 0.1) for part in (slice(4), slice(4, 8))]
    torch.testing.assert_close(whole, sum(halves) / 2)
    one_by_one = F.cross_entropy(logits, labels, reduction="none") * weights[labels]
    torch.testing.assert_close(CLASSIFICATION.loss(logits, labels, weights), one_by_one.mean())
    assert torch.equal(CLASSIFICATION.loss(logits, labels), F.cross_entropy(logits, labels))


def test_an_evaluation_counts_confusions_and_weights_its_loss():
    labels = torch.tensor([0, 0, 0, 1])
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    batches = [(labels[:3], logits[:3]), (labels[3:], logits[3:])]
    found = evaluate(
        lambda x: x, [Batch(x, y) for y, x in batches], torch.device("cpu"), weights=torch.tensor([0.5, 2])
    )
    assert found.confusion.tolist() == [[2, 1], [1, 0]]
    assert (found.accuracy, found.balanced_accuracy) == (0.5, pytest.approx(1 / 3))
    one_by_one = F.cross_entropy(logits, labels, reduction="none") * torch.tensor([0.5, 0.5, 0.5, 2])
    assert found.loss == pytest.approx(float(one_by_one.mean()))


class Count:
    """As a metric of torchmetrics."""

    def reset(self):
        self.images = 0

    def update(self, predictions, targets):
        self.images += len(targets)

    def compute(self):
        return self.images


def test_a_metric_beside_changes_no_weighted_loss(data):
    batches = [Batch(torch.randn(5, 2), torch.randint(2, (5,))), Batch(torch.randn(3, 2), torch.tensor([1, 0, 0]))]
    weights = torch.tensor([0.5, 2])
    plain, measured = (
        evaluate(lambda x: x, batches, torch.device("cpu"), weights=weights, task=task)
        for task in (CLASSIFICATION, classification(metrics={"count": Count()}))
    )
    assert measured.loss == pytest.approx(plain.loss, rel=1e-6)
    assert (measured.score, measured.metrics) == (plain.score, {"count": 8})
    ladder = LadderConfig(entrants=2, steps=2, images=20)
    entrants = [Proposal(random_genotype(NASBENCH201, seed), "uniform") for seed in range(2)]
    with_metric = replace(data, task=classification(metrics={"count": Count()}))
    losses = [
        [rung.loss for rung in climb(entrants, NASBENCH201, one, replace(SEARCH, **BALANCED[0]), RETRAIN, ladder).rungs]
        for one in (data, with_metric)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("what", ["search", "selection", "retraining"])
def test_weights_are_refused_beside_a_loss_of_ones_own_which_gets_none_and_sampling_is_not(data, what):
    own = replace(data, task=classification(loss=F.cross_entropy))
    tiny, ladder = replace(SEARCH, epochs=1), LadderConfig(entrants=1, steps=1, images=20)
    entrants = [Proposal(random_genotype(NASBENCH201, 0), "uniform")]
    run = {
        "search": lambda config: fastnas.search("nasbench201", "darts", own, config),
        "selection": lambda config: climb(entrants, NASBENCH201, own, config, RETRAIN, ladder),
        "retraining": lambda config: retrain(entrants[0].genotype, own, replace(RETRAIN, epochs=1), config),
    }[what]
    with pytest.raises(ValueError, match="class_weights must be equal with a loss= of your own, which gets no weights"):
        run(replace(tiny, **BALANCED[0]))
    assert run(replace(tiny, **BALANCED[1]))


@pytest.mark.parametrize("workers", [0, 2])
def test_balanced_batches_hold_both_classes_alike_in_search_and_retraining(data, workers):
    arguments = {"batch_size": 8, "seed": 0, "first_step": 0, "num_steps": 10, "workers": workers}
    halves = np.arange(0, 100, 2), np.arange(1, 100, 2)
    pairs = list(paired_batches(data, *halves, search_from_step=0, sampling="balanced", **arguments))
    for half in zip(*pairs, strict=True):
        assert 0.35 < float(torch.cat([batch.labels for batch in half]).double().mean()) < 0.65
    batches = training_batches(data, np.arange(100), sampling="balanced", **arguments)
    assert 0.35 < float(torch.cat([batch.labels for batch in batches]).double().mean()) < 0.65


@pytest.mark.parametrize("options", BALANCED, ids=WORDS)
def test_a_retraining_finds_the_rare_class(data, options):
    genotype, large = random_genotype(DARTS, 0), replace(RETRAIN, cells=3)
    plain, balanced = (retrain(genotype, data, large, replace(SEARCH, **extra)) for extra in ({}, options))
    assert plain.test_balanced_accuracy < 0.6 < balanced.test_balanced_accuracy  # all for the large class is a half
    assert sum(map(sum, balanced.confusion)) == len(LABELS)
    assert balanced.info.metrics["test_balanced_accuracy"] == balanced.test_balanced_accuracy


@pytest.mark.parametrize(
    ("options", "method"),
    [(BALANCED[0], "darts"), (BALANCED[1], "darts"), (BALANCED[0], "proxyless_nas_r")],
    ids=[*WORDS, "weights of rewards"],
)
def test_a_search_moves_alpha_by_balanced_losses_and_goes_on_with_them(data, options, method, tmp_path):
    plain, balanced = (fastnas.search("nasbench201", method, data, replace(SEARCH, **extra)) for extra in ({}, options))
    assert not torch.equal(plain.alpha["alpha.normal"], balanced.alpha["alpha.normal"])

    def stop(record):
        raise KeyboardInterrupt

    config = replace(SEARCH, **options)
    with pytest.raises(KeyboardInterrupt):
        fastnas.search("nasbench201", method, data, config, folder=tmp_path, on_epoch=stop)
    resumed = fastnas.search("nasbench201", method, data, config, folder=tmp_path)
    assert all(torch.equal(resumed.alpha[name], balanced.alpha[name]) for name in resumed.alpha)
    with pytest.raises(ValueError, match="another configuration"):
        fastnas.search("nasbench201", method, data, SEARCH, folder=tmp_path)


@pytest.mark.parametrize("options", BALANCED, ids=WORDS)
def test_a_selection_ranks_by_balanced_losses(data, options):
    halves = np.arange(0, 100, 2), np.arange(1, 100, 2)
    always_first = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    with torch.no_grad():
        always_first[1].weight.zero_()
        always_first[1].bias.copy_(torch.tensor([2.0, -2.0]))
    arguments = data, halves[1], 50
    plain, balanced = (
        HeldOut(*arguments, replace(SEARCH, **extra), torch.device("cpu")).measure(always_first)
        for extra in ({}, options)
    )
    assert plain.loss < 0.5  # a coin has ln 2
    assert balanced.loss > 1.9
    ladder = LadderConfig(entrants=2, steps=2, images=20)
    entrants = [Proposal(random_genotype(NASBENCH201, seed), "uniform") for seed in range(2)]
    losses = [
        [rung.loss for rung in climb(entrants, NASBENCH201, data, config, RETRAIN, ladder).rungs]
        for config in (SEARCH, replace(SEARCH, **options))
    ]
    assert losses[0] != losses[1]


def test_both_at_once_are_refused():
    with pytest.raises(ValueError, match="only one of class_weights and sampling must be balanced"):
        SearchConfig(class_weights="balanced", sampling="balanced")


def test_the_command_line_balances_and_reports(tmp_path, photo, capsys):
    for part, counts in (("train", (24, 6)), ("test", (6, 3))):
        for name, count in zip("ab", counts, strict=True):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                photo(12, 12, seed=i).save(folder / f"{i}.png")
    size = ["--space", "nasbench201", "--channels", "4", "--cells", "1", "--epochs", "2", "--batch-size", "6"]
    size += ["--device", "cpu"]
    size += ["--retrain.channels", "4", "--retrain.cells", "1", "--retrain.epochs", "1", "--retrain.batch-size", "6"]
    options = [
        "--recipe",
        "digits_darts",
        "--data",
        f"folder:{tmp_path / 'data'}",
        *size,
        "--random-genotypes",
        "0",
        "--select",
        "argmax",
    ]
    run = tmp_path / "run"
    with pytest.warns(UserWarning, match="classes are unequal"):
        assert main(["search", *options, "--class-weights", "balanced", "--run", str(run)]) in (None, 0)
    printed = capsys.readouterr().out
    assert "data: classes are unequal" in printed
    assert "balanced" in printed
    assert json.loads((run / "config.json").read_text())["config"]["class_weights"] == "balanced"
    assert "What the network that was found takes the test images" in (run / "report.html").read_text()
    assert fastnas.load(run).metrics["test_balanced_accuracy"] <= 1


def test_digits_need_no_balancing():
    assert not any("unequal" in note for note in load_data("digits").notes)
