"""Perturbations of SmoothDARTS: their projection's numbers, their radius, and what they do to a loss."""

import pytest
import torch

from fastnas.mechanisms.perturbation import Adversarial, onto_simplex, random_smoothing

MIX = {"normal": torch.randn(14, 8).softmax(-1), "reduction": torch.randn(14, 8).softmax(-1)}
TARGET = torch.randn(14, 8)


def loss(mix):
    return sum((m * TARGET).sum() ** 2 for m in mix.values())


def test_rows_are_brought_onto_the_simplex_as_published():
    torch.testing.assert_close(
        onto_simplex(torch.tensor([[0.55, -0.05, 0.35, 0.15]])),
        torch.tensor([[0.523810, 0, 0.333333, 0.142857]]),
        rtol=0,
        atol=1e-6,
    )
    assert onto_simplex(torch.tensor([[-0.1, 0.0, -0.1]])).tolist() == [[0.0, 1.0, 0.0]]


def test_a_row_without_a_positive_entry_goes_to_its_leader_after_the_noise():
    noisy = torch.tensor([[-0.3, -0.1, -0.2, 0.0]])
    assert onto_simplex(noisy[:, :3]).tolist() == [[0.0, 1.0, 0.0]]
    alive = torch.tensor([[True, True, True, False]])  # what is dead has zero and leads nothing
    assert onto_simplex(noisy, alive).tolist() == [[0.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize("perturb", [random_smoothing, Adversarial()])
def test_a_radius_of_zero_changes_no_bit(perturb):
    assert all(torch.equal(perturb(MIX, {}, loss, 0.0, 1)[name], mix) for name, mix in MIX.items())


@pytest.mark.parametrize("perturb", [random_smoothing, Adversarial()])
def test_perturbed_rows_sum_to_one_repeat_themselves_and_leave_the_dead_at_zero(perturb):
    alive = {"normal": torch.arange(8).expand(14, 8) < 5}
    mix = {**MIX, "normal": MIX["normal"] * alive["normal"]}
    mix["normal"] = mix["normal"] / mix["normal"].sum(-1, keepdim=True)
    moved, again = (perturb(mix, alive, loss, 0.1, 3) for _ in range(2))
    for name, rows in moved.items():
        assert torch.equal(rows, again[name])
        assert not torch.equal(rows, mix[name])
        torch.testing.assert_close(rows.sum(-1), torch.ones(14))
        assert rows.min() >= 0
    assert moved["normal"][:, 5:].abs().max() == 0


def test_random_smoothing_is_centred_on_the_coefficients():
    rows = torch.tensor([0.4, 0.35, 0.25]).expand(20_000, 3)
    mean = random_smoothing({"n": rows}, {}, loss, 0.1, 0)["n"].mean(0)
    # the standard error is 0.0004; dividing by the sum bends the mean by at most the variance, 0.0033
    torch.testing.assert_close(mean, rows[0], rtol=0, atol=5e-3)


def test_the_adversary_never_lowers_the_loss_and_mostly_beats_chance():
    for seed in range(10):
        raised = loss(Adversarial()(MIX, {}, loss, 0.1, seed))
        assert raised >= loss(MIX)
        assert raised > loss(random_smoothing(MIX, {}, loss, 0.1, seed))


def test_the_adversary_keeps_the_coefficients_when_it_cannot_raise_the_loss():
    lowest = {"n": torch.full((3, 4), 0.25)}

    def punishes_any_move(mix):
        return -((mix["n"] - 0.25) ** 2).sum()

    assert torch.equal(Adversarial()(lowest, {}, punishes_any_move, 0.1, 0)["n"], lowest["n"])


@pytest.mark.parametrize("steps", [1, 7])
def test_the_ascent_stays_within_the_radius_but_for_the_division_by_the_sum(steps):
    evaluations = []

    def watch(mix):
        evaluations.append(mix)
        return (mix["n"] * torch.tensor([1.0, -1.0, 0.0, 0.0])).sum()

    moved = Adversarial(steps)({"n": torch.full((1, 4), 0.25)}, {}, watch, 0.05, 0)["n"][0]
    assert moved[0] > 0.25 > moved[1]
    assert moved[0] / moved[1] <= 0.3 / 0.2 + 1e-6  # a common divisor leaves the ratio alone
    assert moved[0] / moved[1] > 0.3 / 0.21  # steps of 2 radius / steps lead to the border from wherever they begin
    assert len(evaluations) == steps + 2
