"""Are coefficients what is claimed, and random estimates right in the mean?"""

import torch
from torch import Tensor

from fastnas.bilevel.problem import detach_all
from fastnas.checks.finding import Finding, compare, skip
from fastnas.checks.system import Estimate, System

ROUNDING = 1e-12  # a softmax of a dozen float64 numbers is good to a few 1e-16
DRAWS = 4


def check_coefficients(system: System) -> list[Finding]:
    """What is claimed of the coefficients, at a few draws."""
    claimed = system.coefficients
    titles = (
        "the coefficients follow their formula",
        "the coefficients of an edge sum to one",
        "candidates that are off have a coefficient of exactly zero",
    )
    if claimed is None:
        return [skip(title, "nothing is claimed") for title in titles]
    alpha = detach_all(system.alpha)
    draws = range(DRAWS if system.random else 1)
    values = [detach_all(claimed.values(alpha, draw)) for draw in draws]
    formulas = [{} if claimed.formula is None else claimed.formula(alpha, draw) for draw in draws]
    off = [{} if claimed.off is None else claimed.off(alpha, draw) for draw in draws]
    pairs = list(zip(values, formulas, strict=True))
    formula = _compare_rows(
        titles[0],
        [(v[name] - f[name]).abs() for v, f in pairs for name in f],
        "A temperature divides the logits, before the softmax; a candidate that is dead takes no part in it.",
    )
    sums = _compare_rows(
        titles[1],
        [(x.sum(-1) - 1).abs() for v in values for name, x in v.items() if name not in claimed.exempt],
        "Normalise over the candidates that are alive, and over nothing else.",
    )
    zeros = [v[name][mask].abs() for v, masks in zip(values, off, strict=True) for name, mask in masks.items()]
    zeros = [x for x in zeros if x.numel()]
    remedy = "Mask logits with minus infinity, or multiply by the mask: a small number still runs, decays and learns."
    return [formula, sums, _compare_rows(titles[2], zeros, remedy, 0.0, "exact zeros", "nothing is off")]


def _compare_rows(
    title: str,
    errors: list[Tensor],
    remedy: str,
    bound: float = ROUNDING,
    origin: str = "rounding of float64",
    absent: str = "it is not claimed",
) -> Finding:
    if not errors:
        return skip(title, absent)
    meaning = f"{sum(x.numel() for x in errors)} numbers"
    worst = max(float(x.max()) for x in errors)
    return compare(title, worst, bound, origin, meaning, remedy)


def check_estimate(estimate: Estimate) -> Finding:
    """Whether the mean over samples is the exact expectation, in standard errors."""
    exact = estimate.exact()
    samples = [estimate.sample(i) for i in range(estimate.samples)]
    worst = 0.0
    for name, expected in exact.items():
        drawn = torch.stack([sample[name].detach() for sample in samples])
        deviation = drawn.std(0) / estimate.samples**0.5
        off_by = (drawn.mean(0) - expected).abs()
        # where nothing is random only rounding may differ
        worst = max(worst, float((off_by / (deviation + 1e-9 * expected.abs().max() + 1e-15)).max()))
    return compare(
        estimate.name,
        worst,
        5.0,
        f"five standard errors of the mean of {estimate.samples} samples; the seed is fixed, so chance strikes once",
        f"the mean of {estimate.samples} samples is {worst:.1f} standard errors off at worst",
        estimate.remedy,
    )
