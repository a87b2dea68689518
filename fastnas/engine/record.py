"""What a search writes down at the end of an epoch."""

import warnings
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from fastnas.data import Batch, evaluation_batches
from fastnas.engine.coefficients import Sampler, relax, with_skips
from fastnas.engine.run import Run
from fastnas.engine.step import outer_eigenvalue
from fastnas.mechanisms.relaxation import entropy
from fastnas.ranks import ALONE, Ranks
from fastnas.seeds import stream
from fastnas.spaces.formats import genotype_to_text
from fastnas.spaces.genotype import Genotype
from fastnas.supernet.architecture import by_cell_type
from fastnas.supernet.mix import Mix
from fastnas.training.numerics import Means, evaluate

CONSTANT_EPOCHS = 3
"""Of one output for all images, before the warning: a single draw of a sampled method may pass nothing by chance."""


class Stopwatch:
    """Seconds since it was last read."""

    def __init__(self) -> None:
        self.started = perf_counter()

    def read(self) -> float:
        before, self.started = self.started, perf_counter()
        return self.started - before


def read_coefficients(run: Run, epoch: int) -> Mix:
    """The coefficients without a draw, at the temperature of ``epoch``."""
    with torch.no_grad():
        tau = run.method.tau(run.progress(epoch))
        return relax(run.method, run.space, run.state.alpha, run.state.alive, tau)


def choose_mix(run: Run, epoch: int) -> Mix:
    """The coefficients to measure the supernet with: one draw of the weight step, where the method draws."""
    at = run.progress(epoch)
    if run.method.draw is None:
        return with_skips(run.space, read_coefficients(run, epoch), run.method.auxiliary_skip(at))
    tau, seed = run.method.tau(at), stream(run.config.seed, "evaluation draw", epoch)
    skip = run.method.auxiliary_skip(at)
    sampler = Sampler(run.method, run.space, run.state.alive, tau, seed, auxiliary_skip=skip, for_weights=True)
    with torch.no_grad():
        return sampler(run.state.alpha).mix


def evaluate_supernet(
    run: Run, mix: Mix, images: int | None, ranks: Ranks = ALONE, weights: Tensor | None = None
) -> tuple[Means, bool]:
    """The mean loss and score of the supernet at ``mix`` on images held out, by the statistics of each batch, and
    whether its output is the same for all images of this process.

    Args:
        run: The search.
        mix: The coefficients.
        images: How many; ``None`` for the whole half for alpha.
        ranks: The processes that share them.
        weights: Of the classes in the loss, ``[C]``.
    """
    batches = evaluation_batches(
        run.data,
        run.data.train,
        run.evaluation_order[:images],
        batch_size=run.config.batch_size,
        workers=run.config.workers,
        ranks=ranks,
        device=run.device,
        broken=run.broken,
    )

    differs = torch.zeros((), dtype=torch.bool, device=run.device)
    first: list[Tensor] = []

    def logits(images: Tensor) -> Tensor:
        output = run.state.supernet(images, mix)
        if not first:
            first.append(output[:1])
        differs.logical_or_((output != first[0]).any())
        return output

    with torch.no_grad():
        means = evaluate(logits, batches, run.device, run.config.precision, ranks, weights, run.data.task)
    return means, not differs.item()


def derive(run: Run, mix: Mix) -> Genotype:
    """The architecture that the coefficients prefer."""
    candidates, edges = (
        {t: x.detach().cpu().tolist() for t, x in part.items()} for part in (mix.candidates, mix.edges)
    )
    return run.method.derivation(run.space, candidates, edges)


def make_record(run: Run, epoch: int, lr: float, eigenvalue: float | None, stopwatch: Stopwatch) -> dict[str, Any]:
    """The line of ``epoch`` in ``metrics.jsonl``; starts the sums of the next epoch."""
    state, config, method = run.state, run.config, run.method
    state.losses.check("search", state.step)
    mix, at, measured = read_coefficients(run, epoch), run.progress(epoch), choose_mix(run, epoch)
    outer, constant = evaluate_supernet(run, measured, config.evaluation_images, run.ranks, run.held_out_weights)
    inner = state.losses.take_means(run.ranks, run.data.task)
    score = run.data.task.score_name

    def plain(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        return {name: tensor.detach().cpu().tolist() for name, tensor in tensors.items()}

    return {
        "epoch": epoch,
        "epochs": config.epochs,
        "stage": at.stage,
        "step": state.step,
        "weight_lr": lr,
        "weight_decay": state.weight_optimizer.param_groups[0]["weight_decay"],
        "tau": method.tau(at),
        "alpha_moves": at.epoch >= at.warmup,
        "inner_loss": inner.loss,
        f"inner_{score}": inner.score,
        "outer_loss": outer.loss,
        f"outer_{score}": outer.score,
        **({} if outer.confusion is None else {"outer_balanced_accuracy": outer.balanced_accuracy}),
        "entropy": plain({name: entropy(mix_EK) for name, mix_EK in mix.candidates.items()}),
        "alpha": plain(by_cell_type(state.alpha, "alpha", lambda x: x)),
        "beta": plain(by_cell_type(state.alpha, "beta", lambda x: x)),
        "mix": plain(mix.candidates),
        "edge_mix": plain(mix.edges),
        "alive": {name: [sum(row) for row in rows] for name, rows in state.alive.items()},
        "genotype": genotype_to_text(derive(run, mix)),
        "roll_backs": list(state.roll_backs),
        "seconds": stopwatch.read(),
        **({"constant_output": True} if constant else {}),
        **({} if eigenvalue is None else {"eigenvalue": eigenvalue}),
    }


def warn_of_constant_output(history: Sequence[Mapping[str, Any]]) -> None:
    """Warn once when the network has given every image the same output for :data:`CONSTANT_EPOCHS` epochs: an
    architecture where nothing passes from the input to the output has no gradient that leads away from it."""
    before, last = history[-CONSTANT_EPOCHS - 1 : -CONSTANT_EPOCHS], history[-CONSTANT_EPOCHS:]
    constant = [record.get("constant_output", False) for record in (*before, *last)]
    if len(last) == CONSTANT_EPOCHS and all(constant[-CONSTANT_EPOCHS:]) and (not before or not constant[0]):
        text = (
            f"search: since epoch {last[0]['epoch'] + 1} the supernet has given every image the same output: what it "
            "chooses passes nothing on, as `none` does. Use a space without `none`, or a lower --alpha-lr."
        )
        warnings.warn(text, RuntimeWarning, stacklevel=3)


def measure_sharpness(run: Run, search_batch: Batch | None, epoch: int) -> float | None:
    """The dominant eigenvalue at the end of ``epoch``, if the method asks for it and there is a batch for alpha."""
    every = run.method.eigenvalue_every
    last = epoch == run.config.epochs - 1
    due = every > 0 and search_batch is not None and (epoch % every == 0 or last)
    return outer_eigenvalue(run, search_batch, epoch) if due else None  # type: ignore[arg-type]
