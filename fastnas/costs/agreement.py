"""How well predictions agree with measurements."""

from collections.abc import Sequence
from itertools import combinations
from math import sqrt


def mean_absolute_percentage_error(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """``100 mean(|predicted - measured| / measured)``, in percent; ``measured`` is positive."""
    return 100 * sum(abs(p - m) / m for p, m in zip(predicted, measured, strict=True)) / len(measured)


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation with ties, tau-b (Kendall, 1945): 1 for the same order, -1 for the opposite, 0 for chance.

    Pairs that are equal in ``a`` or in ``b`` count for neither order. 0 where all values of one are equal.
    """
    agreement, differ_a, differ_b = 0, 0, 0
    for (a1, b1), (a2, b2) in combinations(zip(a, b, strict=True), 2):
        sign_a, sign_b = (a1 > a2) - (a1 < a2), (b1 > b2) - (b1 < b2)
        agreement += sign_a * sign_b
        differ_a += sign_a != 0
        differ_b += sign_b != 0
    return agreement / sqrt(differ_a * differ_b) if differ_a and differ_b else 0.0
