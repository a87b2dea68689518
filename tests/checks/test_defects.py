"""The silent defects of published searches, one line wrong each, and the one check that must find it."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from fastnas import check
from fastnas.checks.claims import slope_after_step
from tests.checks import random_defects
from tests.checks.random_defects import GRADIENT

ALPHA = "every alpha that matters gets a gradient"
BETA = "every beta that matters gets a gradient"
PENALTY = "the penalty has a slope, and it reaches alpha"
WEIGHTS = "an alpha step leaves the weights alone"
LOGITS = "a weight step leaves alpha alone"


# First order


def first_order(toy_of, seed):
    return toy_of(seed).system()


def softmax_of_a_copy(toy_of, seed):
    return toy_of(seed, mix_of=lambda alpha, draw: torch.tensor(alpha.tolist(), dtype=alpha.dtype).softmax(-1)).system()


def alpha_copied_at_the_start(toy_of, seed):
    toy = toy_of(seed)
    copy = toy.alpha["alpha"].detach().clone()
    toy.mix_of = lambda alpha, draw: copy.softmax(-1)
    return toy.system()


def optimizer_of_other_tensors(toy_of, seed):
    toy = toy_of(seed)
    toy.alpha_optimizer = torch.optim.Adam([a.detach().clone().requires_grad_() for a in toy.alpha.values()])
    return toy.system()


def beta_cut_off(toy_of, seed):
    return toy_of(seed, edges_of=lambda beta: beta.detach().softmax(-1)).system()


def one_edge_cut_off(toy_of, seed):
    def mix_of(alpha, draw):
        return torch.cat([alpha[:1].detach(), alpha[1:]]).softmax(-1)

    return toy_of(seed, mix_of=mix_of).system()


def alpha_on_the_batch_of_the_weights(toy_of, seed):
    toy = toy_of(seed)
    system = toy.system()
    toy.search = toy.train
    pure = toy_of(seed)
    return replace(system, outer=pure.outer, inner=pure.inner)


def only_the_last_chunk_counts(toy_of, seed):
    toy = toy_of(seed)

    def step():
        images, labels = toy.search
        for chunk in (slice(0, 4), slice(4, 8)):
            toy.alpha_optimizer.zero_grad()
            toy.loss((images[chunk], labels[chunk]), toy.w, toy.alpha).backward()
        toy.alpha_optimizer.step()

    return toy.system(alpha_step=step)


def gradients_of_the_weight_step_left_behind(toy_of, seed):
    toy = toy_of(seed)
    toy.weight_step()

    def step():
        toy.outer(toy.w, toy.alpha).backward()
        toy.alpha_optimizer.step()

    return toy.system(alpha_step=step)


def statistics_moved(toy_of, seed):
    return toy_of(seed, tracks=True).system()


def decay_on_alpha(toy_of, seed):
    return toy_of(seed, also_owned=("alpha",)).system()


# Second order


def unrolled_by(**wrong):
    def build(toy_of, seed):
        toy = toy_of(seed).stepped_once()
        return toy.system(alpha_step=lambda: toy.second_order_step(**wrong), claim=slope_after_step)

    return build


# Penalties


def with_penalty(term):
    def build(toy_of, seed):
        toy = toy_of(seed)

        def step():
            toy.alpha_optimizer.zero_grad()
            (toy.outer(toy.w, toy.alpha) + term(toy.alpha, 0)).backward()
            toy.alpha_optimizer.step()

        return toy.system(alpha_step=step, penalty=term)

    return build


COST = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)


def expected_cost(alpha, draw):
    return (alpha["alpha"].softmax(-1) * COST).sum()


def cost_of_a_list(alpha, draw):
    return (torch.tensor(alpha["alpha"].softmax(-1).tolist(), dtype=torch.float64) * COST).sum()


def cost_of_the_choice(alpha, draw):
    return (F.one_hot(alpha["alpha"].argmax(-1), 3) * COST).sum()


def cost_half_detached(alpha, draw):
    p = alpha["alpha"].softmax(-1)
    return (p * p.detach() * COST).sum()


def penalty_forgotten(toy_of, seed):
    return toy_of(seed).system(penalty=expected_cost)


DEFECTS = {
    "the softmax of a copy": (softmax_of_a_copy, ALPHA),
    "alpha copied at the start": (alpha_copied_at_the_start, ALPHA),
    "an optimiser that owns other tensors": (optimizer_of_other_tensors, {ALPHA, BETA}),
    "one edge cut off": (one_edge_cut_off, ALPHA),
    "beta cut off": (beta_cut_off, BETA),
    "alpha steps on the batch of the weights": (alpha_on_the_batch_of_the_weights, GRADIENT),
    "only the last chunk counts": (only_the_last_chunk_counts, GRADIENT),
    "gradients of the weight step left behind": (gradients_of_the_weight_step_left_behind, GRADIENT),
    "the weight optimiser owns alpha": (decay_on_alpha, LOGITS),
    "a virtual step that does nothing": (unrolled_by(virtual=False), GRADIENT),
    "the momentum forgotten in the virtual step": (unrolled_by(momentum=0.0), GRADIENT),
    "the decay forgotten in the virtual step": (unrolled_by(decay=0.0), GRADIENT),
    "the second-order term with the other sign": (unrolled_by(sign=1), GRADIENT),
    "/ 2. * eps": (unrolled_by(divided=lambda difference, eps: difference / 2.0 * eps), GRADIENT),
    "weights not put back": (unrolled_by(restores=False), WEIGHTS),
    "a penalty of a list": (with_penalty(cost_of_a_list), PENALTY),
    "a penalty of the choice": (with_penalty(cost_of_the_choice), PENALTY),
    "a penalty with a detached factor": (with_penalty(cost_half_detached), PENALTY),
    "a penalty that is never added": (penalty_forgotten, PENALTY),
    **random_defects.DEFECTS,
}
HEALTHY = {
    "first order": first_order,
    "second order": unrolled_by(),
    "a penalty": with_penalty(expected_cost),
    "statistics moved by the alpha step": statistics_moved,  # nothing reads them: a note
    **random_defects.HEALTHY,
}
SAID = {
    "alpha steps on the batch of the weights": "slope of the inner loss",
    "a virtual step that does nothing": "the step of the weights does nothing",
    "the second-order term with the other sign": "counts -1 times",
    "/ 2. * eps": "the second-order term is missing",
    **random_defects.SAID,
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_search_raises_no_alarm(name, raises_no_alarm):
    raises_no_alarm(HEALTHY[name])


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found_by_the_check_that_should_find_it(name, fails):
    build, expected = DEFECTS[name]
    fails(build, {expected} if isinstance(expected, str) else expected)


@pytest.mark.parametrize("name", SAID)
def test_a_known_defect_is_named(name, is_said_of):
    is_said_of(DEFECTS[name][0], SAID[name])


def test_losses_in_float32_are_refused(toy_of):
    def build(seed):
        toy = toy_of(seed)
        toy.alpha = {name: a.float() for name, a in toy.alpha.items()}
        return toy.system()

    with pytest.raises(ValueError, match=r"check: alpha\['alpha'\] must be float64, got torch.float32. .*double"):
        check(build)
