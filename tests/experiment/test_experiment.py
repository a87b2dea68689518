"""The loop: what each step touches, what a seed decides, and what a resume repeats."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch

import fastnas
from fastnas.engine import relax, search
from fastnas.methods.library import darts, pc_darts
from fastnas.run_files import SearchEpoch, read_epochs
from fastnas.spaces.cell_space import DARTS, NASBENCH201
from fastnas.supernet.supernets import DartsSupernet, NasBench201Supernet
from fastnas.training.config import SearchConfig, TrainingSetup
from tests.helpers import DIGITS, Killed, without_seconds

TINY = SearchConfig(channels=8, cells=1, epochs=3, warmup_epochs=1, batch_size=16, train_fraction=0.05, device="cpu")
THREE_CELLS = replace(TINY, cells=3, epochs=1, warmup_epochs=0)


def logits(result):
    return {name: tensor.numpy().tobytes() for name, tensor in result.alpha.items()}


@pytest.fixture(scope="module")
def reference():
    return search(NASBENCH201, pc_darts(), DIGITS, TINY)


def test_one_seed_decides_everything(reference):
    again = search(NASBENCH201, pc_darts(), DIGITS, TINY)
    assert logits(again) == logits(reference)
    assert without_seconds(again.history) == without_seconds(reference.history)
    assert again.genotype == reference.genotype
    other = search(NASBENCH201, pc_darts(), DIGITS, replace(TINY, seed=1))
    assert logits(other) != logits(reference)


def test_alpha_and_beta_wait_through_the_warm_up_and_then_move(reference):
    first, second, _ = reference.history
    start = search(NASBENCH201, pc_darts(), DIGITS, replace(TINY, epochs=2, warmup_epochs=1)).history[0]
    assert first["alpha"] == start["alpha"]
    assert (first["alpha_moves"], second["alpha_moves"]) == (False, True)
    assert first["alpha"] != second["alpha"]
    assert first["beta"] != second["beta"]
    assert max(abs(x) for row in first["alpha"]["normal"] for x in row) < 5e-3


def test_each_step_leaves_the_other_variables_and_all_gradients_alone(monkeypatch):
    loop, step_module = (importlib.import_module(f"fastnas.engine.{name}") for name in ("loop", "step"))
    plain_step, plain_search_step = step_module.apply_gradients, loop.search_step
    everything, seen = [], {}

    def search_step(run, *batches):
        everything[:] = [*run.state.w.values(), *run.state.alpha.values()]
        plain_search_step(run, *batches)

    def step(optimizer, variables, gradients, *limits):
        before = [p.detach().clone() for p in everything]
        assert all(p.grad is None for p in everything)
        plain_step(optimizer, variables, gradients, *limits)
        changed = {id(p) for p, old in zip(everything, before, strict=True) if not torch.equal(p, old)}
        others = changed - {id(p) for p in variables.values()}
        kind = "alpha" if "alpha.normal" in variables else "w"
        seen[kind] = (bool(changed), bool(others), all(p.grad is None for p in everything))

    monkeypatch.setattr(step_module, "apply_gradients", step)
    monkeypatch.setattr(loop, "search_step", search_step)
    search(DARTS, darts(), DIGITS, THREE_CELLS)
    assert seen == {"alpha": (True, False, True), "w": (True, False, True)}


def test_the_coefficients_are_a_softmax_of_the_logits(reference):
    mix = relax(pc_darts(), NASBENCH201, reference.alpha)
    torch.testing.assert_close(mix.candidates["normal"], reference.alpha["alpha.normal"].softmax(-1))
    assert [
        round(float(mix.edges["normal"][row.start : row.stop].sum()), 6) for row in map(NASBENCH201.rows, (1, 2, 3))
    ] == [1, 1, 1]
    assert relax(darts(), NASBENCH201, {"alpha.normal": reference.alpha["alpha.normal"]}).edges == {}


@pytest.mark.parametrize("steps", [0, 2])
def test_a_run_that_stops_anywhere_goes_on_bit_for_bit(tmp_path, reference, steps):
    config = replace(TINY, checkpoint_steps=steps)
    for kill_at in (3, 4, 5):

        def kill(done, total, kill_at=kill_at):
            if done == kill_at:
                raise Killed

        with pytest.raises(Killed):
            search(NASBENCH201, pc_darts(), DIGITS, config, folder=tmp_path, on_step=kill)
    resumed = search(NASBENCH201, pc_darts(), DIGITS, config, folder=tmp_path)
    assert logits(resumed) == logits(reference)
    assert without_seconds(resumed.history) == without_seconds(reference.history)
    lines = read_epochs(tmp_path / "metrics.jsonl", SearchEpoch)
    assert without_seconds(lines) == without_seconds(reference.history)


def test_a_checkpoint_of_another_search_or_another_variant_of_the_same_recipe_is_refused(tmp_path):
    config = replace(TINY, epochs=1, warmup_epochs=0)
    search(NASBENCH201, darts(), DIGITS, config, folder=tmp_path)
    with pytest.raises(ValueError, match="got a checkpoint of another configuration"):
        search(NASBENCH201, darts(), DIGITS, replace(config, weight_lr=0.01), folder=tmp_path)
    variant = replace(darts(), alpha_init_std=1e-2)
    assert variant.name == "darts"
    with pytest.raises(ValueError, match="got a checkpoint of another configuration"):
        search(NASBENCH201, variant, DIGITS, config, folder=tmp_path)
    again = search(NASBENCH201, darts(), DIGITS, config, folder=tmp_path)  # and it is still there
    assert len(again.history) == 1


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    supernet, good = NasBench201Supernet(10, channels=8, cells=1, image_channels=1), []

    def spoil(record):
        good.append((tmp_path / "checkpoint.pt").read_bytes())
        with torch.no_grad():
            supernet.classifier.weight.fill_(float("nan"))

    message = r"search: the loss of the \w+ step must be finite, got nan in step \d+.*Lower --.*checkpoint.pt stays"
    with pytest.raises(FloatingPointError, match=message):
        search(supernet, darts(), DIGITS, TINY, folder=tmp_path, on_epoch=spoil)
    assert [(tmp_path / "checkpoint.pt").read_bytes()] == good


def test_a_rate_that_is_too_high_stops_the_run_before_there_is_a_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match=r"search: the loss of the \w+ step must be finite"):
        search(
            NASBENCH201, darts(), DIGITS, replace(TINY, weight_lr=1e6, weight_decay=1e6, grad_clip=0.0), folder=tmp_path
        )
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_supernet_of_your_own_is_searched_as_it_is():
    supernet = DartsSupernet(10, channels=4, cells=3, image_channels=1)
    result = search(supernet, darts(), DIGITS, THREE_CELLS)
    assert result.supernet is supernet
    DARTS.check(result.genotype)
    with pytest.raises(ValueError, match="search: supernet must have a space, got Linear"):
        search(torch.nn.Linear(2, 2), darts(), DIGITS, TINY)


def test_bfloat16_leaves_alpha_in_float32_and_near_the_full_precision():
    full = search(DARTS, pc_darts(), DIGITS, THREE_CELLS)
    half = search(DARTS, pc_darts(), DIGITS, replace(THREE_CELLS, precision="bfloat16"))
    assert all(tensor.dtype == torch.float32 for tensor in half.alpha.values())
    assert abs(half.history[0]["inner_loss"] - full.history[0]["inner_loss"]) < 0.05 * full.history[0]["inner_loss"]
    assert logits(half) != logits(full)


def test_a_batch_larger_than_a_half_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"batch_size must not exceed the half for the weights \(\d+\), got 512"):
        search(DARTS, darts(), DIGITS, replace(TINY, batch_size=512))
    with pytest.raises(ValueError, match=r"batch_size must not exceed the half for alpha \(\d+\), got 16"):
        search(DARTS, darts(), DIGITS, replace(TINY, weight_share=0.9))


def test_the_package_offers_search_and_retrain():
    result = fastnas.search(
        fastnas.spaces.NASBENCH201, fastnas.methods.darts(), "digits", replace(TINY, epochs=1, warmup_epochs=0)
    )
    trained = fastnas.retrain(
        result.genotype,
        "digits",
        fastnas.RetrainConfig(channels=8, cells=1, epochs=1, batch_size=32),
        TrainingSetup(train_fraction=0.2, device="cpu"),
    )
    assert 0 <= trained.test_accuracy <= 1
    assert trained.num_params == sum(p.numel() for p in trained.network.parameters())
    assert np.isfinite(trained.seconds)
