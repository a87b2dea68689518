"""The end of a search by evaluations of its supernet."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastnas.data import training_batches
from fastnas.engine.record import evaluate_supernet, read_coefficients
from fastnas.engine.run import Run
from fastnas.engine.step import apply_gradients
from fastnas.errors import invalid
from fastnas.fingerprint import fingerprint
from fastnas.mechanisms.choice import Coefficients, Judge
from fastnas.seeds import stream
from fastnas.spaces.formats import genotype_to_text, parse_genotype
from fastnas.spaces.genotype import Genotype
from fastnas.supernet.mix import Mix, select_path
from fastnas.training.checkpoint import has_checkpoint, load_checkpoint, restoring, save_checkpoint
from fastnas.training.numerics import autocast

FILE = "choice.pt"
KEPT = {"losses": dict, "tunings": list, "weights": dict}
IMAGES = 2048  # of the half for alpha, where the configuration does not say how many


@dataclass
class Journal:
    """What a choice measured and tuned so far, by what it asked: one that is made again goes through it at once.

    Args:
        losses: By what was measured, after how many tunings.
        tunings: The coefficients of each, as a fingerprint.
        weights: After the last one; none if there was none.
        save: Keeps all of it.
    """

    losses: dict[str, float] = field(default_factory=dict)
    tunings: list[str] = field(default_factory=list)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    save: Callable[[], None] = lambda: None


def choose_once(
    run: Run, folder: Path | None, accept: Callable[[Genotype], bool], report: Callable[[int, int], None]
) -> Genotype:
    """What :func:`choose` returns, or returned before, with the weights that it tuned: ``choice.pt`` keeps both, and
    before that what was measured in every part that is done."""
    if folder is None:
        return choose(run, accept, report, Journal())
    path, journal = folder / FILE, Journal()
    if has_checkpoint(path):
        saved = load_checkpoint(path, run.identity, run.device)
        with restoring(path), torch.no_grad():
            if "genotype" in saved:
                found = parse_genotype(saved["genotype"], run.space)
                if accept(found):
                    _put(run, saved["weights"])
                    return found
            journal = Journal(*(saved.get(name, kind()) for name, kind in KEPT.items()))

    def save(**found: object) -> None:
        kept = {name: getattr(journal, name) for name in KEPT}
        save_checkpoint(path, run.identity, kept | found)

    journal.save = save
    genotype = choose(run, accept, report, journal)
    save(genotype=genotype_to_text(genotype), weights=_weights(run))
    return genotype


def choose(
    run: Run, accept: Callable[[Genotype], bool], report: Callable[[int, int], None], journal: Journal
) -> Genotype:
    """The architecture that the method's choice makes of the run, at its end; the weights may be tuned on the way.

    Raises:
        ValueError: If the choice tunes otherwise than in its journal.
    """
    assert run.method.choice is not None
    reached = read_coefficients(run, run.config.epochs - 1)
    joint = run.method.joint_inputs  # then they mark the inputs of one architecture, and another reads others
    edges = {} if joint else {name: x.tolist() for name, x in reached.edges.items()}
    done = 0

    def measured(asked: str, mix: Callable[[], Mix]) -> float:
        key = f"{done} {asked}"
        if key not in journal.losses:
            journal.losses[key] = _loss(run, mix())
        return journal.losses[key]

    def measure_path(genotype: Genotype) -> float:
        return measured(genotype_to_text(genotype), lambda: select_path(run.space, genotype, edges, run.device))

    def as_mix(mix: Coefficients) -> Mix:
        tensors = {name: torch.tensor(x, dtype=torch.float32, device=run.device) for name, x in mix.items()}
        columns = {name: tuple(tuple(np.flatnonzero(row).tolist()) for row in x) for name, x in mix.items()}
        return Mix(tensors, reached.edges, columns)

    def loss_at(mix: Coefficients) -> float:
        return measured(_digest(mix), lambda: as_mix(mix))

    def tune(mix: Coefficients, epochs: float, share: float) -> None:
        nonlocal done
        done, asked = done + 1, _digest(mix)
        if done > len(journal.tunings):
            _tune(run, as_mix(mix), round(epochs * run.steps), share, done - 1)
            journal.tunings.append(asked)
            journal.weights = _weights(run)
        elif asked != journal.tunings[done - 1]:
            rule, got = "a choice that goes on must tune as it did before", f"other coefficients in tuning {done}"
            raise invalid("search", rule, got, f"Delete {FILE} to begin it anew.")
        elif done == len(journal.tunings):
            _put(run, journal.weights)

    def begin_part(part: int, parts: int) -> None:
        if part:
            journal.save()
        report(part, parts)

    mix = {name: x.detach().cpu().numpy().astype(float) for name, x in reached.candidates.items()}
    judge = Judge(mix, measure_path, loss_at, tune, accept, begin_part)
    return run.method.choice(run.space, judge, stream(run.config.seed, "choice"))


def _weights(run: Run) -> dict[str, Tensor]:
    return {name: w.detach() for name, w in run.state.w.items()}


def _digest(mix: Coefficients) -> str:
    return fingerprint({name: torch.from_numpy(x) for name, x in mix.items()})


@torch.no_grad()
def _put(run: Run, weights: Mapping[str, Tensor]) -> None:
    for name, w in run.state.w.items():
        w.copy_(weights[name])


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
