"""Searches that change on the way: stages, pruning, stops and returns."""

import copy
import importlib
import warnings
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from fastnas.engine import record, relax, search
from fastnas.mechanisms.control import EigenvalueRollBack, EigenvalueRule, EigenvalueStop, SkipCount, Stop
from fastnas.mechanisms.pruning import BelowThreshold
from fastnas.mechanisms.schedules import Constant, Progress
from fastnas.methods.library import asap, darts, dso_nas, nasp, p_darts, robust_darts_ada, robust_darts_dp, snas
from fastnas.run_files import SearchEpoch, keep_epochs, read_epochs
from fastnas.spaces.cell_space import DARTS, NASBENCH201
from fastnas.supernet.supernets import DartsSupernet
from fastnas.training.config import SearchConfig
from tests.engine.points import SPACE
from tests.helpers import DIGITS, Killed, make_run, without_seconds

TINY = SearchConfig(channels=4, cells=1, epochs=4, warmup_epochs=0, batch_size=8, train_fraction=0.03, device="cpu")
loop = importlib.import_module("fastnas.engine.loop")  # the attribute of the package is the function


# ---- stages -----------------------------------------------------------------------------------------------------
def test_p_darts_grows_deeper_and_chooses_among_fewer(monkeypatch):
    seen = []
    plain = loop.search_step

    def watch(run, *batches):
        state = run.state
        counts = {sum(row) for rows in state.alive.values() for row in rows}
        mix = run.sampler("weights")(state.alpha).mix
        seen.append((state.stage, len(state.supernet.cells), counts, mix.noise))
        plain(run, *batches)

    monkeypatch.setattr(loop, "search_step", watch)
    config = replace(TINY, cells=3, channels=2, epochs=3, batch_size=16)
    result = search(DARTS, p_darts(skip_dropout=(0.0, 0.4, 0.7)), DIGITS, config)
    stages = {stage: (cells, counts, noise) for stage, cells, counts, noise in seen}
    assert {stage: (cells, counts) for stage, (cells, counts, _) in stages.items()} == {
        0: (3, {8}),
        1: (7, {5}),
        2: (10, {3}),
    }
    rates = [None if noise is None else noise.skip_dropout for _, _, noise in stages.values()]
    assert rates == [None, 0.4, 0.7]
    assert [set(record["alive"]["normal"]) for record in result.history] == [{8}, {5}, {3}]
    DARTS.check(result.genotype)
    assert result.genotype.normal.count("skip_connect") <= 2


def test_every_stage_begins_anew_and_keeps_the_best_of_the_one_before():
    config = replace(TINY, epochs=6, channels=2, alpha_lr=0.01)
    history = search(SPACE, replace(p_darts(), derivation=darts().derivation), DIGITS, config).history
    assert [record["stage"] for record in history] == [0, 0, 1, 1, 2, 2]
    assert history[2]["weight_lr"] == history[0]["weight_lr"] > history[1]["weight_lr"]
    last, first = history[3]["mix"]["normal"], history[4]["mix"]["normal"]
    for before, after in zip(last, first, strict=True):
        best = sorted(range(5), key=lambda k, row=before: -row[k])[:3]
        assert {k for k in range(5) if after[k] > 0} == set(best)
    assert max(abs(x) for row in history[4]["alpha"]["normal"] for x in row) < 0.05  # steps of 0.01 from near zero


def test_a_search_shorter_than_its_stages_or_their_warm_up_is_refused():
    with pytest.raises(ValueError, match="epochs must be at least the 3 stages of p_darts, got 2"):
        search(SPACE, p_darts(), DIGITS, replace(TINY, epochs=2))
    with pytest.raises(ValueError, match="warmup_epochs must be less than the 1 epochs of the shortest stage"):
        search(SPACE, p_darts(), DIGITS, replace(TINY, epochs=4, warmup_epochs=1))
    own = DartsSupernet(10, channels=4, cells=3, image_channels=1)
    with pytest.raises(ValueError, match="a supernet of your own needs a method of one stage: p_darts"):
        search(own, p_darts(), DIGITS, replace(TINY, epochs=3))


# ---- pruning ----------------------------------------------------------------------------------------------------
def test_asap_removes_candidates_until_every_edge_is_decided_and_stops():
    eager = replace(asap(), tau=Constant(0.02))
    result = search(NASBENCH201, eager, DIGITS, replace(TINY, epochs=12, alpha_lr=0.05))
    counts = [record["alive"]["normal"] for record in result.history]
    changes = [pair for early, late in pairwise(counts) for pair in zip(early, late, strict=True)]
    assert all(1 <= after <= before for before, after in changes)
    assert counts[-1] == [1] * 6
    assert len(result.history) < 12
    assert result.stopped == "every edge is decided"
    assert all(sorted(row) == [0, 0, 0, 0, 1] for row in result.history[-1]["mix"]["normal"])


def test_nothing_is_removed_while_alpha_waits():
    patient = replace(asap(), tau=Constant(0.001), warmup_share=0.5)
    result = search(SPACE, patient, DIGITS, replace(TINY, warmup_epochs=None))
    assert [min(record["alive"]["normal"]) for record in result.history[:2]] == [5, 5]
    assert min(result.history[-1]["alive"]["normal"]) < 5


def test_the_dead_keep_their_logits():
    method = replace(darts(), tau=Constant(0.001), prune=BelowThreshold(0.9))
    result = search(SPACE, method, DIGITS, TINY)
    first, last = result.history[1], result.history[-1]
    dead = [(e, k) for e, row in enumerate(first["mix"]["normal"]) for k, value in enumerate(row) if value == 0]
    assert dead
    assert all(first["alpha"]["normal"][e][k] == last["alpha"]["normal"][e][k] for e, k in dead)


def test_dso_nas_drives_scalings_to_exact_zeros_and_drops_them():
    result = search(SPACE, replace(dso_nas(gamma=30.0), prune_every=1), DIGITS, TINY)
    zeros = sum(value == 0 for row in result.history[-1]["mix"]["normal"] for value in row)
    alive = sum(result.history[-1]["alive"]["normal"])
    assert zeros > 0
    assert alive < 15
    assert all(value >= 0 for row in result.history[-1]["mix"]["normal"] for value in row)


# ---- control ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class StopAfter:
    epochs: int
    returned: int

    def __call__(self, space, records):
        return Stop(self.returned, "enough") if len(records) >= self.epochs else None


def test_a_stop_returns_the_architecture_that_it_names_and_a_resume_stays_stopped(tmp_path):
    method = replace(darts(), control=StopAfter(3, 1))
    result = search(SPACE, method, DIGITS, replace(TINY, alpha_lr=0.3), folder=tmp_path)
    assert (len(result.history), result.stopped) == (3, "enough")
    whole = search(SPACE, darts(), DIGITS, replace(TINY, alpha_lr=0.3, epochs=4))
    texts = [record["genotype"] for record in whole.history]
    assert [record["genotype"] for record in result.history] == texts[:3]
    again = search(SPACE, method, DIGITS, replace(TINY, alpha_lr=0.3), folder=tmp_path)
    assert again.genotype == result.genotype
    assert without_seconds(again.history) == without_seconds(result.history)


def test_records_that_a_stop_needs_and_that_are_gone_are_missed(tmp_path):
    method = replace(darts(), control=StopAfter(4, 1))
    search(SPACE, method, DIGITS, TINY, folder=tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"metrics\.jsonl must hold the 4 epochs of the checkpoint .* got 0 of them"):
        search(SPACE, method, DIGITS, TINY, folder=tmp_path)
    plain = tmp_path / "plain"
    search(SPACE, darts(), DIGITS, TINY, folder=plain)
    (plain / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"metrics\.jsonl must hold the 4 epochs of the checkpoint .* got 0 of them"):
        search(SPACE, darts(), DIGITS, TINY, folder=plain)


def test_darts_plus_may_return_the_epoch_before():
    records = [{"genotype": "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", "alpha_moves": True}] * 2
    records.append({**records[0], "genotype": "|skip_connect~0|+|skip_connect~0|none~1|+|none~0|none~1|none~2|"})
    assert SkipCount()(NASBENCH201, records).epoch == 2
    assert SkipCount(previous=True)(NASBENCH201, records).epoch == 1


RULE = EigenvalueRule(growth=1.1, window=1, lag=2, lookback=2)
# Of first order, since the order of a gradient is nothing to a return
RETURNING = replace(
    robust_darts_ada(),
    hypergradient=darts().hypergradient,
    control=EigenvalueRollBack(RULE),
    eigenvalue_every=1,
)


def sharpening(run, batch, epoch):
    """Eigenvalues that grow until the weight decay has been raised once."""
    raised = run.state.weight_optimizer.param_groups[0]["weight_decay"] > 1e-3
    return 1.0 if raised else 2.0**epoch


def test_a_sharp_loss_sends_ada_back_to_go_on_with_more_weight_decay(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "outer_eigenvalue", sharpening)
    order = []
    result = search(
        SPACE, RETURNING, DIGITS, TINY, folder=tmp_path, on_epoch=lambda record: order.append(record["epoch"])
    )
    assert order == [0, 1, 2, 1, 2, 3]
    assert [record["epoch"] for record in result.history] == [0, 1, 2, 3]
    assert [record["weight_decay"] for record in result.history] == pytest.approx([3e-4, 3e-3, 3e-3, 3e-3])
    assert [back["to"] for back in result.history[-1]["roll_backs"]] == [0]
    lines = read_epochs(tmp_path / "metrics.jsonl", SearchEpoch)
    assert without_seconds(lines) == without_seconds(result.history)
    decayed = replace(RETURNING, control=lambda space, records: None)
    plain = search(SPACE, decayed, DIGITS, TINY)
    assert plain.history[0]["alpha"] == result.history[0]["alpha"]
    assert plain.history[1]["alpha"] != result.history[1]["alpha"]


def test_a_kill_around_a_return_changes_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "outer_eigenvalue", sharpening)
    whole = search(SPACE, RETURNING, DIGITS, TINY)
    calls = []

    def before(*arguments):
        raise Killed

    def between(*arguments, **options):  # the first call is the one that reads what is there
        calls.append(arguments)
        if len(calls) > 1:
            raise Killed
        return keep_epochs(*arguments, **options)

    for place, deadly in (("_go_back", before), ("keep_epochs", between)):
        folder = tmp_path / place
        with monkeypatch.context() as patch:
            patch.setattr(loop, place, deadly)
            with pytest.raises(Killed):
                search(SPACE, RETURNING, DIGITS, TINY, folder=folder)
        resumed = search(SPACE, RETURNING, DIGITS, TINY, folder=folder)
        assert without_seconds(resumed.history) == without_seconds(whole.history)
        assert all(torch.equal(resumed.alpha[name], a) for name, a in whole.alpha.items())


def test_the_eigenvalue_of_a_search_is_that_of_its_full_hessian(monkeypatch):
    seen = []
    plain = record.outer_eigenvalue

    def watch(run, batch, epoch):
        value = plain(run, batch, epoch)
        net = copy.deepcopy(run.state.supernet)

        def loss(flat):
            mix = relax(run.method, run.space, {"alpha.normal": flat.view(3, 5)})
            return F.cross_entropy(net(batch.images, mix), batch.labels)

        full = torch.autograd.functional.hessian(loss, run.state.alpha["alpha.normal"].detach().flatten())
        seen.append((value, torch.linalg.eigvalsh(full)[-1].item()))
        return value

    monkeypatch.setattr(record, "outer_eigenvalue", watch)
    method = replace(darts(), control=EigenvalueStop(), eigenvalue_every=2)
    history = search(SPACE, method, DIGITS, TINY).history
    assert [("eigenvalue" in record) for record in history] == [True, False, True, True]
    for ours, exact in seen:
        assert ours == pytest.approx(exact, rel=1e-2)  # ten products with a Hessian of fifteen variables


# ---- update schedule -----------------------------------------------------------------------------------------------
def test_a_joint_search_trains_on_all_images():
    config = replace(TINY, epochs=1, batch_size=16, train_fraction=0.05)  # 70 images
    joint, apart = (search(SPACE, method, DIGITS, config).history[0]["step"] for method in (snas(), darts()))
    assert joint == 2 * apart


def test_a_search_with_the_first_order_gradient_is_the_second_order_one_with_a_rate_of_zero():
    slow = replace(TINY, weight_lr=1e-30, momentum=0.0, weight_decay=0.0, epochs=1)
    first, second = (search(SPACE, darts(order=order), DIGITS, slow) for order in (1, 2))
    torch.testing.assert_close(first.alpha["alpha.normal"], second.alpha["alpha.normal"], rtol=0, atol=1e-6)


# ---- cutout -----------------------------------------------------------------------------------------------------
def blanked(monkeypatch, method, **changes):
    """The share of images with a blanked pixel, of the batches for the weights and of those for alpha, by epoch."""
    seen = []

    def watch(run, *batches):
        shares = [(batch.images == 0).flatten(1).any(1).float().mean().item() for batch in batches]
        seen.append((run.at.epoch, shares, [batch.images.clone() for batch in batches]))
        run.state.step += 1
        run.state.losses.add_inner(torch.tensor(1.0), torch.tensor(0), 1)
        run.state.losses.add_outer(torch.tensor(1.0))

    monkeypatch.setattr(loop, "search_step", watch)
    search(SPACE, method, DIGITS, replace(TINY, batch_size=32, train_fraction=0.3, **changes))
    return seen


def test_the_cutout_of_robust_darts_grows_from_none_to_every_image_of_both_halves(monkeypatch):
    method = replace(robust_darts_dp(), hypergradient=darts().hypergradient)
    assert [method.cutout(at) for at in progresses(4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    seen = blanked(monkeypatch, method)
    for epoch, probability in enumerate([0, 1 / 3, 2 / 3, 1]):
        for half in (0, 1):
            shares = [of_halves[half] for at, of_halves, _ in seen if at == epoch]
            tolerance = 4 * (probability * (1 - probability) / (32 * len(shares))) ** 0.5  # four standard errors
            assert abs(sum(shares) / len(shares) - probability) <= tolerance
    again = blanked(monkeypatch, method)
    assert all(torch.equal(*pair) for a, b in zip(seen, again, strict=True) for pair in zip(a[2], b[2], strict=True))
    assert not any(share for _, shares, _ in blanked(monkeypatch, robust_darts_dp(largest=0.0)) for share in shares)


def progresses(epochs):
    return [Progress(epoch, epochs) for epoch in range(epochs)]


def test_a_network_that_passes_nothing_is_said_once_and_a_healthy_one_never():
    dead = replace(nasp(), alpha_init_std=0.0)  # a tie, which chooses `none` everywhere
    with pytest.warns(
        RuntimeWarning, match=r"since epoch 1 the supernet has given every image the same output: .*`none`"
    ) as said:
        found = search(NASBENCH201, dead, DIGITS, replace(TINY, epochs=5))
    assert len(said) == 1
    assert [record["constant_output"] for record in found.history] == [True] * 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = search(NASBENCH201, nasp(), DIGITS, replace(TINY, epochs=3))
    assert not any("constant_output" in record for record in found.history)


@pytest.mark.parametrize(("network", "constant"), [(lambda x, _: x.mean((2, 3)).expand(-1, 10), False),
                                                   (lambda x, _: x.new_zeros(len(x), 10), True)])  # fmt: skip
def test_whether_outputs_differ_is_seen_in_batches_of_one_image(network, constant):
    run = make_run(darts(), replace(TINY, batch_size=1))
    run.state.supernet = network
    assert record.evaluate_supernet(run, None, 4)[1] == constant
