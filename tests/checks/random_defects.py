"""The silent defects of draws and of coefficients, and the one check that must find each, for test_defects.py."""

import torch
from torch.nn import functional as F

from fastnas.checks.claims import Scored, StraightThrough
from fastnas.checks.system import Coefficients, Estimate

GRADIENT = "the hypergradient is the one that is claimed"
AGAIN = "the steps repeat from the same seed"
FORMULA = "the coefficients follow their formula"
SUMS = "the coefficients of an edge sum to one"
ZEROS = "candidates that are off have a coefficient of exactly zero"
FREQUENCY = "the candidates are drawn as often as their probabilities say"


def gumbel(like, seed):
    g = None if seed is None else torch.Generator().manual_seed(seed)
    return -torch.empty_like(like).exponential_(generator=g).log()


def one_hot(scores):
    return F.one_hot(scores.argmax(-1), scores.shape[-1]).double()


# Draws


def sampled(noise_of, soft_noise_of=None):
    """A soft Gumbel sample; the gradient through ``soft_noise_of``, if that is another one."""

    def build(toy_of, seed):
        def mix_of(alpha, draw):
            mix = ((alpha + noise_of(alpha, seed + draw)) / 0.7).softmax(-1)
            if soft_noise_of is None:
                return mix
            other = ((alpha + soft_noise_of(alpha, seed + draw)) / 0.7).softmax(-1)
            return mix.detach() + other - other.detach()

        return toy_of(seed, mix_of=mix_of).system(random=True)

    return build


def straight_through(soft):
    """One candidate an edge, its gradient through ``soft``, which is said to be the sample's softmax."""

    def build(toy_of, seed):
        def noisy(alpha, draw):
            return (alpha + gumbel(alpha, seed + draw)) / 0.7

        def mix_of(alpha, draw):
            scores = noisy(alpha, draw)
            through = soft(scores, alpha)
            return one_hot(scores) + through - through.detach()

        toy = toy_of(seed, mix_of=mix_of)
        plain = toy_of(seed, mix_of=lambda mix, draw: mix)
        claim = StraightThrough(
            hard=lambda alpha, draw: {"alpha": one_hot(noisy(alpha["alpha"], draw)), "beta": alpha["beta"]},
            soft=lambda alpha, draw: {"alpha": noisy(alpha["alpha"], draw).softmax(-1), "beta": alpha["beta"]},
            loss=plain.outer,
        )
        return toy.system(claim=claim, random=True)

    return build


def scored(weights):
    """Three draws, weighted by how likely they make the data."""

    def build(toy_of, seed):
        def choice(alpha, draw):
            return one_hot(alpha.detach() + gumbel(alpha, 3 * seed + draw))

        toy = toy_of(seed, mix_of=choice, edges_of=lambda beta: torch.full((2,), 0.5, dtype=torch.float64))
        toy.alpha = {"alpha": toy.alpha["alpha"]}
        toy.loss = lambda batch, w, alpha, draw=0: toy_of.loss(toy, batch, w, {**alpha, "beta": torch.zeros(2)}, draw)
        toy.alpha_optimizer = torch.optim.Adam(toy.alpha.values(), 0.01)

        def step():
            alpha = toy.alpha["alpha"]
            losses = torch.stack([toy.outer(toy.w, toy.alpha, k).detach() for k in range(3)])
            logs = torch.stack([(choice(alpha, k) * alpha.log_softmax(-1)).sum() for k in range(3)])
            toy.alpha_optimizer.zero_grad()
            (-(weights(losses) * logs).sum()).backward()
            toy.alpha_optimizer.step()

        claim = Scored(lambda alpha, draw: {"alpha": choice(alpha["alpha"], draw)}, lambda x: (-x).softmax(0), 3)
        return toy.system(alpha_step=step, claim=claim, random=True)

    return build


def drawn_with(noise):
    """How often a candidate is chosen, with some noise."""

    def build(toy_of, seed):
        toy = toy_of(seed)
        alpha = toy.alpha["alpha"].detach()
        estimate = Estimate(
            FREQUENCY,
            lambda i: {"alpha": one_hot(alpha + noise(alpha, i))},
            lambda: {"alpha": alpha.softmax(-1)},
            400,
            "",
        )
        return toy.system(estimates=(estimate,))

    return build


def gaussian(like, seed):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


# Coefficients


def coefficients(values, **claims):
    def build(toy_of, seed):
        toy = toy_of(seed, mix_of=lambda alpha, draw: values(alpha))
        claimed = Coefficients(values=lambda alpha, draw: {"alpha": values(alpha["alpha"])}, **claims)
        return toy.system(coefficients=claimed)

    return build


DEAD = torch.tensor([[False, False, True]] * 3)


def tempered(alpha, draw):
    return {"alpha": (alpha["alpha"] / 0.3).softmax(-1)}


def dead(alpha, draw):
    return {"alpha": DEAD}


DEFECTS = {
    "noise without a seed": (sampled(lambda alpha, seed: gumbel(alpha, None)), AGAIN),
    "noise drawn anew for the gradient": (
        sampled(gumbel, soft_noise_of=lambda alpha, seed: gumbel(alpha, seed + 99)),
        GRADIENT,
    ),
    "straight through without the softmax": (straight_through(lambda scores, alpha: scores), GRADIENT),
    "straight through without the noise": (straight_through(lambda scores, alpha: alpha.softmax(-1)), GRADIENT),
    "unlikely draws count most": (scored(lambda losses: losses.softmax(0)), GRADIENT),
    "all draws count alike": (scored(lambda losses: torch.full_like(losses, 1 / 3)), GRADIENT),
    "importance weights that are not normalised": (scored(lambda losses: (-losses).exp()), GRADIENT),
    "Gaussian noise for Gumbel's": (drawn_with(gaussian), FREQUENCY),
    "the temperature after the softmax": (
        coefficients(lambda a: (a.softmax(-1) / 0.3).softmax(-1), formula=tempered),
        FORMULA,
    ),
    "rows that do not sum to one": (coefficients(torch.sigmoid), SUMS),
    "a dead candidate with a small coefficient": (
        coefficients(lambda a: a.masked_fill(DEAD, -20.0).softmax(-1), off=dead),
        ZEROS,
    ),
}
HEALTHY = {
    "a soft sample": sampled(gumbel),
    "straight through": straight_through(lambda scores, alpha: scores.softmax(-1)),
    "scored draws": scored(lambda losses: (-losses).softmax(0)),
    "Gumbel's maximum": drawn_with(gumbel),
    "tempered coefficients": coefficients(lambda a: (a / 0.3).softmax(-1), formula=tempered),
    "a dead candidate": coefficients(lambda a: a.masked_fill(DEAD, -torch.inf).softmax(-1), off=dead),
}
SAID = {
    "unlikely draws count most": "the wrong sign",
    "all draws count alike": "the importance weights are missing",
}
