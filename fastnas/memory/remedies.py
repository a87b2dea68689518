"""What would make a search fit that does not: single changes, each confirmed by a prediction."""

from collections.abc import Iterator
from dataclasses import replace

from fastnas.mechanisms.draw import BinaryGate, GumbelSoftmax, TwoPaths, gumbel_all, gumbel_selected
from fastnas.mechanisms.perturbation import unperturbed
from fastnas.mechanisms.relaxation import softmax
from fastnas.memory.budget import Budget, show_bytes
from fastnas.memory.predict import predict
from fastnas.memory.subject import Subject
from fastnas.methods.method import Method
from fastnas.supernet.recompute import Word

LEAST: tuple[Word, ...] = ("edges",)
"""The words of least memory."""


def least_bytes(subject: Subject, budget: Budget) -> int:
    """What ``subject`` needs if every unit is evaluated again, one edge after another."""
    return predict(subject.changed(recompute=LEAST), budget.granularity).peak.num_bytes


def largest_batch(subject: Subject, budget: Budget) -> int:
    """The most images a step, below those of ``subject``, with which it fits at its least memory; 0 if none do.

    Peak bytes grow almost linearly with the batch: two predictions give a first guess, which others confirm.
    """

    def needs(batch_size: int) -> int:
        return least_bytes(subject.changed(batch_size=batch_size), budget)

    small, large = 2, max(4, subject.config.batch_size // 2)
    at_small, at_large = needs(small), needs(large)
    if at_small > budget.usable:
        return 0
    slope = max(1.0, (at_large - at_small) / (large - small))
    guess = min(subject.config.batch_size - 1, small + int((budget.usable - at_small) / slope))
    while guess > small and needs(guess) > budget.usable:
        guess = max(small, int(0.95 * guess))
    return max(guess, small)


def fewer_paths(method: Method) -> tuple[str, Method] | None:
    """``method`` with fewer candidates that run on an edge for alpha's gradient, and what to call the change.

    The gradients of all gates are replaced by those of two sampled paths (Cai et al., 2019, arXiv:1812.00332, section
    3.2.1), a mixture of all candidates by one sampled path (Dong and Yang, 2019, arXiv:1910.04465). ``None`` where
    that would have no meaning, or one or two run already. How many samples a gradient is the mean of, as in PARSEC
    and ProxylessNAS-R, changes no peak: one at a time is evaluated.
    """
    if isinstance(method.draw, BinaryGate):
        return "two sampled paths an edge, draw=TwoPaths()", replace(method, draw=TwoPaths())
    is_mixture = method.draw is None and method.relaxation is softmax
    is_plain = method.perturbation is unperturbed and method.eigenvalue_every == 0
    if (is_mixture and is_plain) or isinstance(method.draw, GumbelSoftmax) or method.draw == gumbel_all:
        return "one sampled path an edge, draw=gumbel_selected", replace(method, draw=gumbel_selected)
    return None


def remedies(subject: Subject, budget: Budget) -> Iterator[str]:
    """Changes each of which alone would make ``subject`` fit; the last ones change the method."""
    config, k = subject.config, subject.method.connection.k
    largest = largest_batch(subject, budget)
    if largest:
        yield f"--batch-size {largest}"
    changes = []
    if config.precision == "float32":
        changes.append(("--precision bfloat16", subject.changed(precision="bfloat16")))
    if config.channels % 2 == 0 and config.channels // 2 >= 2 * k:
        changes.append((f"--channels {config.channels // 2}", subject.changed(channels=config.channels // 2)))
    if subject.space.stages is None and k == 1 and config.channels % 8 == 0:
        partial = replace(subject.method, connection=replace(subject.method.connection, k=4))
        changes.append(("partial channels with k=4, which is another method", replace(subject, method=partial)))
    paths = fewer_paths(subject.method) if subject.space.dag is None else None
    if paths is not None:
        changes.append((f"{paths[0]}, which is another method", replace(subject, method=paths[1])))
    for words, changed in changes:
        needs = least_bytes(changed, budget)
        if needs <= budget.usable:
            yield f"{words} (then {show_bytes(needs)})"
