"""More epochs for a search that has a checkpoint of fewer."""

import warnings
from collections.abc import Sequence
from typing import Any

from fastnas.engine.run import Run, find_weight_rate
from fastnas.errors import invalid
from fastnas.mechanisms.control import Stop

WHERE = "search"


def announce_more(run: Run, history: Sequence[dict[str, Any]], verdict: object) -> None:
    """Say how a search goes on that is given more epochs.

    Args:
        run: With the new number of epochs.
        history: Its records so far.
        verdict: What the method's control says of them.

    Raises:
        ValueError: If its method has stages, whose borders would move, it stopped by itself, or it would wait again.
    """
    method, done, epochs = run.method, len(history), run.config.epochs
    if len(method.stages) > 1:
        rule = f"more epochs need a method of one stage: {method.name} divides its epochs into {len(method.stages)}"
        raise invalid(WHERE, rule, f"{epochs} epochs", "Start a new search.")
    if isinstance(verdict, Stop):
        raise invalid(WHERE, "more epochs need a search that did not stop by itself", verdict.reason)
    if run.at.warmup > done:
        rule = f"more epochs must leave the warm-up within the {done} epochs that are done"
        raise invalid(WHERE, rule, f"a warm-up of {run.at.warmup}", "Give fewer epochs, or start a new search.")
    losses = [record["inner_loss"] for record in history]
    at = run.at
    rate = find_weight_rate(run.config, done, method.learning_rate, epochs, losses, at.warmup)
    before = f" after {history[-1]['weight_lr']:.4g}" if history else ""
    text = (
        f"{WHERE}: epoch {done} goes on as in a search of {epochs} epochs: the learning rate of the weights is "
        f"{rate:.4g}{before}, and other schedules are where they would be; the rate of alpha stays. The result is not "
        f"that of {epochs} epochs from the start."
    )
    warnings.warn(text, RuntimeWarning, stacklevel=3)
