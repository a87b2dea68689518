"""The end of a search by evaluations of its supernet."""

import math
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastnas.data import training_batches
from fastnas.engine.record import evaluate_supernet, read_coefficients
from fastnas.engine.run import Run
from fastnas.engine.step import apply_gradients
from fastnas.mechanisms.choice import Coefficients, Judge
from fastnas.seeds import stream
from fastnas.spaces.formats import genotype_to_text, parse_genotype
from fastnas.spaces.genotype import Genotype
from fastnas.supernet.mix import Mix, select_path
from fastnas.training.checkpoint import has_checkpoint, load_checkpoint, restoring, save_checkpoint
from fastnas.training.numerics import autocast

FILE = "choice.pt"
IMAGES = 2048  # of the half for alpha, where the configuration does not say how many


def choose_once(
    run: Run, folder: Path | None, accept: Callable[[Genotype], bool], report: Callable[[int, int], None]
) -> Genotype:
    """What :func:`choose` returns, or returned before, with the weights that it tuned: ``choice.pt`` keeps both."""
    path = None if folder is None else folder / FILE
    if path is not None and has_checkpoint(path):
        saved = load_checkpoint(path, run.identity, run.device)
        with restoring(path), torch.no_grad():
            found = parse_genotype(saved["genotype"], run.space)
            if accept(found):
                for name, w in run.state.w.items():
                    w.copy_(saved["weights"][name])
                return found
        path.unlink(missing_ok=True)  # or it would be kept as the one before
    genotype = choose(run, accept, report)
    if path is not None:
        weights = {name: w.detach() for name, w in run.state.w.items()}
        save_checkpoint(path, run.identity, {"genotype": genotype_to_text(genotype), "weights": weights})
    return genotype


def choose(
    run: Run,
    accept: Callable[[Genotype], bool] = lambda genotype: True,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Genotype:
    """The architecture that the method's choice makes of the run, at its end; the weights may be tuned on the way."""
    assert run.method.choice is not None
    reached = read_coefficients(run, run.config.epochs - 1)
    joint = run.method.joint_inputs  # then they mark the inputs of one architecture, and another reads others
    edges = {} if joint else {name: x.tolist() for name, x in reached.edges.items()}
    rounds = count()

    def measure_path(genotype: Genotype) -> float:
        return _loss(run, select_path(run.space, genotype, edges, run.device))

    def as_mix(mix: Coefficients) -> Mix:
        tensors = {name: torch.tensor(x, dtype=torch.float32, device=run.device) for name, x in mix.items()}
        columns = {name: tuple(tuple(np.flatnonzero(row).tolist()) for row in x) for name, x in mix.items()}
        return Mix(tensors, reached.edges, columns)

    def loss_at(mix: Coefficients) -> float:
        return _loss(run, as_mix(mix))

    def tune(mix: Coefficients, epochs: float, share: float) -> None:
        _tune(run, as_mix(mix), round(epochs * run.steps), share, next(rounds))

    mix = {name: x.detach().cpu().numpy().astype(float) for name, x in reached.candidates.items()}
    judge = Judge(mix, measure_path, loss_at, tune, accept, report)
    return run.method.choice(run.space, judge, stream(run.config.seed, "choice"))


def _loss(run: Run, mix: Mix) -> float:
    """Mean loss on images held out, by the statistics of each batch; infinite where it is no number."""
    try:
        found, _ = evaluate_supernet(run, mix, run.config.evaluation_images or IMAGES)
    except FloatingPointError:
        return math.inf
    return found.loss if math.isfinite(found.loss) else math.inf


def _tune(run: Run, mix: Mix, steps: int, share: float, number: int) -> None:
    """Steps of the weights at fixed coefficients, at a rate that falls from a tenth of the search's by a cosine."""
    if steps == 0:
        return
    config, w = run.config, run.state.w
    final = min(config.weight_lr_final, config.weight_lr / 10)
    lr = final + (config.weight_lr / 10 - final) * (1 + math.cos(math.pi * share)) / 2
    optimizer = torch.optim.SGD(w.values(), lr, momentum=config.momentum, weight_decay=config.weight_decay)
    batches = training_batches(
        run.data,
        run.halves[0],
        batch_size=config.batch_size,
        seed=stream(config.seed, "tuning", number),
        first_step=0,
        num_steps=steps,
        workers=config.workers,
        sampling=config.sampling,
        device=run.device,
        broken=run.broken,
    )
    for images, labels in batches:
        with autocast(run.device, config.precision):
            logits = run.state.supernet(images, mix)
        loss = run.data.task.loss(logits, labels, run.class_weights)
        found = torch.autograd.grad(loss, list(w.values()), allow_unused=True)
        gradients: Mapping[str, Tensor | None] = dict(zip(w, found, strict=True))
        apply_gradients(optimizer, w, gradients, config.grad_clip)
