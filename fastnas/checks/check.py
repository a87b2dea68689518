"""Whether an architecture search does what it says: ``fastnas check``."""

from collections.abc import Callable

from torch import Tensor, nn

from fastnas.checks.engine import make_build
from fastnas.checks.estimates import check_coefficients, check_estimate
from fastnas.checks.finding import Finding, Report, Verdict, skip
from fastnas.checks.gradients import DRAWS, check_gradient, observe
from fastnas.checks.point import make_images, make_networks
from fastnas.checks.steps import check_repeats, check_steps, check_twin, trace_twice
from fastnas.checks.system import Build, Claim
from fastnas.errors import describe, invalid
from fastnas.methods.method import Method
from fastnas.methods.registry import as_method
from fastnas.spaces.space import Space
from fastnas.supernet.own import as_space


def check(
    subject: Space | nn.Module | Build | str,
    method: Method | str | Callable[[], Method] | None = None,
    *,
    claim: Claim | None = None,
    images: Tensor | None = None,
    seed: int = 0,
) -> Report:
    """Compare the gradient of an architecture search with what it is claimed to be, on a tiny problem in float64.

    The reference is made of values of the losses alone (central differences, and sums over all choices), so a graph
    that was cut somewhere cannot fool it. Also looked at: penalties, what each step leaves alone, coefficients,
    whether a step repeats.

    A method of the library on a space or on a supernet of your own, called as ``supernet(images, mix)``::

        print(fastnas.check(fastnas.spaces.NASBENCH201, fastnas.methods.gdas()))

    Code in the style of DARTS, a network and an architect, in a function from a seed to a system::

        def build(seed):
            torch.manual_seed(seed)
            net, architect, sgd = my_search()  # fresh, in float64
            step = lambda: architect.step(*train, *valid, 0.025, sgd, unrolled=True)
            return architect_system(net, train, valid, alpha_step=step, weight_optimizer=sgd,
                                    alpha_optimizer=architect.optimizer, claim=CentralDifference())

        assert fastnas.check(build).ok

    ``architect_system`` is in :mod:`fastnas.checks.architect`. Any other code as a
    :class:`fastnas.checks.system.System`: two losses as functions, two steps as they are, and the claim.

    Args:
        subject: A space or its name, a supernet, or a function that builds a system.
        method: What to check on it, or its name; not for a system, which is one already.
        claim: What the gradient of alpha is, where the method has a part of your own that the library knows no
            formula of: see :mod:`fastnas.checks.claims`.
        images: Two batches ``[2, N, C, H, W]`` that the supernet takes, with at least two classes; tiny grey ones if
            not given.
        seed: Decides everything random.

    Returns:
        The findings; ``report.ok`` says whether nothing failed, ``print(report)`` all.

    Raises:
        ValueError: If the subject is none of these, or there is no formula to compare with.

    Example:
        >>> import fastnas
        >>> fastnas.check("nasbench201", "darts").ok
        True
    """
    subject = as_space(subject) if isinstance(subject, str | Space) else subject
    if isinstance(subject, Space | nn.Module):
        if method is None:
            raise invalid("check", "a space or a supernet needs a method", "none")
        method = as_method(method, "check")
        moves, why = method.update_schedule.alpha_moves, "alpha never moves"
        if not moves:
            raise invalid("check", "a method must have a gradient of alpha", f"{method.name}, in which {why}")
        build = make_build(
            method, make_networks(subject), make_images(method, seed) if images is None else images, claim
        )
        space = subject if isinstance(subject, Space) else subject.space
        return _check(f"{method.name} in {space.name}", build, seed)  # type: ignore[union-attr]
    if not callable(subject) or isinstance(subject, Method):
        raise invalid("check", "subject must be a space, a supernet or a function", describe(subject))
    remedy = "Its losses and its claim already say it all."
    alone = method is None and claim is None and images is None
    if not alone:
        raise invalid("check", "method, claim and images must not be given with a system", "one of them", remedy)
    return _check(getattr(subject, "__name__", "system"), subject, seed)


def _check(title: str, build: Build, seed: int) -> Report:
    one, other = trace_twice(build, seed)
    again = check_repeats(one, other)
    if again.verdict is Verdict.FAILED:
        # what cannot be repeated cannot be compared: the reference would see another draw than the step
        why = "the steps do not repeat, so there is no gradient to compare"
        return Report(title, (again, skip("the hypergradient is the one that is claimed", why)))
    first = observe(build, seed)
    system = first.system
    findings: list[Finding] = [
        *check_gradient([first, *(observe(build, seed + i) for i in range(1, DRAWS if system.random else 1))]),
        *[check_estimate(estimate) for estimate in system.estimates],
        *check_steps(one),
        *[check_twin(twin, seed) for twin in system.twins],
        *check_coefficients(system),
    ]
    return Report(title, (*findings, again))
