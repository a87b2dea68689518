"""Where a training left the finite numbers, and what to look at first."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fastnas.data import Batch
from fastnas.training.checkpoint import has_checkpoint
from fastnas.training.numerics import Losses
from fastnas_kernels.check import complaint


class Fault(NamedTuple):
    """The first loss that is not finite.

    Args:
        term: Whose step it belongs to, ``weight`` or ``alpha``.
        step: Number of the step, from zero.
        value: The loss.
        before: The loss of the step before it, if it is known.
    """

    term: str
    step: int
    value: float
    before: float | None


def find_fault(losses: Losses, inner_steps: Sequence[int], outer_steps: Sequence[int] = ()) -> Fault | None:
    """The earliest loss of an epoch that is not finite."""
    faults = []
    for term, values, steps in (("alpha", losses.outer, outer_steps), ("weight", losses.inner, inner_steps)):
        numbers = [float(value) for value in values]
        at = next((i for i, value in enumerate(numbers) if not torch.isfinite(torch.tensor(value))), None)
        if at is not None and at < len(steps):
            faults.append(Fault(term, steps[at], numbers[at], numbers[at - 1] if at else None))
    return min(faults, key=lambda fault: fault.step, default=None)


@contextmanager
def explain_divergence(
    where: str,
    find: Callable[[], Fault | None],
    read: Callable[[int], dict[str, Batch | None]],
    variables: Callable[[], dict[str, list[Tensor]]],
    rates: dict[str, str],
    folder: Path | None,
) -> Generator[None, None, None]:
    """Turn what a number that is not finite leads to inside the block into one line that says where it came from.

    Args:
        where: The beginning of the line.
        find: Finds the first loss that is not finite.
        read: Reads the batches of a step again, by the terms of the losses.
        variables: What is trained, by the term of the loss that moves it.
        rates: What to lower, by the same terms.
        folder: Where the last checkpoint is, if there is any.
    """
    try:
        yield
    except (ValueError, RuntimeError, FloatingPointError) as error:
        fault = find()
        if fault is not None:
            line = _describe(where, fault, read(fault.step), rates)
        else:
            broken = [term for term, tensors in variables().items() if not all(x.isfinite().all() for x in tensors)]
            if not broken:
                raise
            rule = f"{'alpha' if broken[0] == 'alpha' else 'weights'} must stay finite"
            line = complaint(where, rule, "NaN or infinity behind finite losses", f"Lower {rates[broken[0]]} first.")
        if folder is not None and has_checkpoint(folder / "checkpoint.pt"):
            line += f" {folder / 'checkpoint.pt'} stays as it was."
        raise FloatingPointError(line) from error


def _describe(where: str, fault: Fault, batches: dict[str, Batch | None], rates: dict[str, str]) -> str:
    for term, batch in batches.items():
        of_images = None if batch is None else batch.images.flatten(1).isfinite().all(1)
        if of_images is not None and not of_images.all():
            count, total = int((~of_images).sum()), len(of_images)
            got = f"NaN or infinity in {count} of the {total} of the {term} step {fault.step}"
            return complaint(where, "images must be finite", got, "Look at the data first.")
    before = "" if fault.before is None else f", after {fault.before:.4g} in the one before"
    got = f"{fault.value} in step {fault.step}{before}"
    remedy = f"Lower {rates[fault.term]} first; then clip the gradient. The images of that step are finite."
    return complaint(where, f"the loss of the {fault.term} step must be finite", got, remedy)
