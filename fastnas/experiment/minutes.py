"""A whole run in a given time: its shares, and what fits into each of them on this machine."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np

from fastnas.data import class_balanced_fraction
from fastnas.engine import SearchResult
from fastnas.engine.budget import read_budget, write_budget
from fastnas.experiment.selecting import Scene
from fastnas.ranks import Ranks, local_device
from fastnas.run_files import HALVING, RungRecord, SearchEpoch, read_records
from fastnas.selection import LadderConfig
from fastnas.selection.evaluation import HeldOut, ShortTraining
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.sampling import random_genotype
from fastnas.supernet.mix import select_path
from fastnas.training.config import RetrainConfig

SEARCH, LADDER, RETRAINING = 0.45, 0.15, 0.4
"""Of the time of a run without random search, which gets as much as the search and the ladder; what a run leaves out
goes to the others in their proportion."""
SCORING = 0.2  # of the ladder's time
TIMED = 4  # steps
MOST_ENTRANTS = 256  # of a random search


def find_share(part: float, *, ladder: bool, retraining: bool, halving: bool = False) -> float:
    """The share of the run's time that ``part`` has, beside the parts that the run has."""
    searched = SEARCH + LADDER * ladder
    return part / (searched * (1 + halving) + RETRAINING * retraining)


def fit_halving(seconds: float, scene: Scene, folder: Path, ranks: Ranks) -> LadderConfig:
    """The ladder that random architectures can climb in ``seconds``; ``budget.json`` keeps the number of them.

    The first rung takes a quarter of the steps of a whole training, so that the last one is a whole training of two or
    more.

    Args:
        seconds: What the search took. Two always climb, however short it was.
        scene: What was searched; its training is that of the derived networks.
        folder: The run folder.
        ranks: The processes of the run; the first one measures.
    """
    config, images = (
        scene.training,
        class_balanced_fraction(scene.data.train.labels, scene.config.train_fraction, scene.config.seed),
    )
    steps = max(1, config.epochs * (len(images) // config.batch_size) // 4)
    ladder, chosen = LadderConfig(entrants=2, steps=steps), read_budget(folder).get(HALVING)
    if chosen is None and ranks.is_first:
        genotypes = [random_genotype(scene.space, seed) for seed in range(scene.config.seed, scene.config.seed + 4)]
        of_step = sum(_time_step(genotype, scene) for genotype in genotypes) / len(genotypes)
        entrants = 2
        while replace(ladder, entrants=entrants + 1).total_steps * of_step <= seconds and entrants < MOST_ENTRANTS:
            entrants += 1
        chosen = {"entrants": entrants, "seconds": {"all": seconds, "step": of_step}}
        write_budget(folder, {HALVING: chosen})
    chosen = json.loads(ranks.broadcast(json.dumps(chosen)))
    return replace(ladder, entrants=chosen["entrants"])


def fit_ladder(
    ladder: LadderConfig, seconds: float, found: SearchResult, scene: Scene, folder: Path, ranks: Ranks
) -> LadderConfig:
    """``ladder`` with as many proposals and entrants as fit into ``seconds``; ``budget.json`` keeps the choice.

    Args:
        ladder: Steps of the first rung and images of a score stay as they are.
        seconds: For all of it.
        found: What the search returned.
        scene: What was searched.
        folder: The run folder.
        ranks: The processes of the run; the first one measures.
    """
    chosen = read_budget(folder).get("ladder")
    if chosen is None and ranks.is_first:
        device = local_device(scene.config.device)
        held_out = HeldOut(scene.data, np.arange(len(scene.data.train.labels)), ladder.images, scene.config, device)
        other = random_genotype(scene.space, scene.config.seed)
        edges = found.history[-1]["edge_mix"]
        started = perf_counter()
        held_out.measure(found.supernet, select_path(scene.space, found.genotype, edges, device))
        of_score = perf_counter() - started
        of_step = (_time_step(found.genotype, scene) + _time_step(other, scene)) / 2
        proposals = int(np.clip(SCORING * seconds / of_score, 8, 512))
        left = max(seconds - proposals * of_score, 0.0)  # one entrant, which trains nothing, always fits
        fitting = [
            entrants
            for entrants in range(1, proposals + 1)
            if replace(ladder, entrants=entrants).total_steps * of_step <= left
        ]
        times = {"score": of_score, "step": of_step}
        chosen = {"proposals": proposals, "entrants": fitting[-1], "seconds": times}
        write_budget(folder, {"ladder": chosen})
    chosen = json.loads(ranks.broadcast(json.dumps(chosen)))
    return replace(ladder, proposals=chosen["proposals"], entrants=chosen["entrants"])


def fit_retraining(
    seconds: float, contestants: Sequence[Genotype], scene: Scene, folder: Path, ranks: Ranks
) -> RetrainConfig:
    """The retraining with as many epochs as fit into ``seconds`` for all contestants together, and never
    less than one: what was found is trained also where the search took longer than planned. ``budget.json`` keeps the
    number.

    Args:
        seconds: For all networks.
        contestants: What will be retrained.
        scene: What was searched; its training is that of the derived networks.
        folder: The run folder.
        ranks: The processes of the run; the first one measures.
    """
    chosen, config = read_budget(folder).get("retraining"), scene.training
    if chosen is None and ranks.is_first:
        images = len(class_balanced_fraction(scene.data.train.labels, scene.config.train_fraction, scene.config.seed))
        steps, tests = images // config.batch_size, len(scene.data.test.labels) / config.batch_size
        of_steps = [_time_step(genotype, scene) for genotype in contestants]
        # a forward pass takes a third of a step, and all networks are tested once and every few epochs
        of_epochs = sum(steps * of_step + tests / config.evaluate_every * of_step / 3 for of_step in of_steps)
        chosen = {"epochs": max(config.least_epochs, round(seconds / of_epochs)), "seconds": {"epoch": of_epochs}}
        write_budget(folder, {"retraining": chosen})
    return replace(config, epochs=json.loads(ranks.broadcast(json.dumps(chosen)))["epochs"])


def add_up_seconds(folder: Path) -> float:
    """What the search, the ladder and the random search of a run folder took."""
    searches = folder, *sorted((folder / "restarts").glob("*"))
    epochs = [epoch for search in searches for epoch in read_records(search / "metrics.jsonl", SearchEpoch)]
    ladders = folder / "selection.jsonl", folder / HALVING / "selection.jsonl"
    rungs = [rung for path in ladders for rung in read_records(path, RungRecord)]
    return sum(epoch["seconds"] for epoch in epochs) + sum(rung["seconds"] for rung in rungs)


def _time_step(genotype: Genotype, scene: Scene) -> float:
    """Mean seconds of a training step of the derived network, with what it takes to get its images."""
    device, indices = local_device(scene.config.device), np.arange(len(scene.data.train.labels))
    training = ShortTraining(genotype, scene.data, indices, scene.training, scene.config, device, scene.space)
    training.train_to(1)
    started = perf_counter()
    training.train_to(1 + TIMED)
    return (perf_counter() - started) / TIMED
