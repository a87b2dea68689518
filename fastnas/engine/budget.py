"""How long a search runs that is given minutes, and how fast alpha moves in the steps that it has."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from fastnas.data import Batch, ImageData, paired_batches
from fastnas.engine.record import choose_mix
from fastnas.engine.run import Run, build_stage, make_state, search_halves
from fastnas.engine.step import search_step
from fastnas.errors import invalid
from fastnas.files import write_json
from fastnas.mechanisms.pruning import keep_best
from fastnas.methods.method import Method
from fastnas.ranks import ALONE, Ranks, local_device, wait_for
from fastnas.run_files import BudgetFile, read_file
from fastnas.spaces.space import Space
from fastnas.training.checkpoint import read_identity, read_settings
from fastnas.training.config import SearchConfig

SHORT_SEARCH, LONG_SEARCH = (2_000, 3e-2), (39_000, 3e-4)
"""Steps of alpha and a rate that decides in them: one measured (profiling/results/quality.md), one that of
NAS-Bench-201's searches (Dong and Yang, 2020, arXiv:2001.00326)."""
LEAST_EPOCHS = 12  # a stage; fewer have too coarse a schedule, so that a short search takes fewer images instead
WARMUP_SHARE = 1 / 8  # of a stage, for methods that say nothing of a warm-up
RECORDED = 2048  # images that an epoch's record is measured on
STEPS_OF_A_SEARCH, MOST_SEARCHES = 2000, 16
"""Where several searches are averaged: a time for more steps is divided between more of them, since one long search
drifts. The steps are those in which alpha moves; in fewer of them ProxylessNAS, which moves it in every fifth, is left
with skip connections, which have nothing to learn (profiling/results/quality.md)."""
TIMED = 5  # steps
FILE = "budget.json"
Clock = Callable[[], float]


def find_alpha_rate(steps: int) -> float:
    """The learning rate of alpha in a search of so many alpha steps: 0.03 up to 2,000 steps, the published 3e-4 from
    39,000 on, and in between the power of the steps that joins them.

    Args:
        steps: In which alpha moves.

    Example:
        >>> find_alpha_rate(1_000), find_alpha_rate(100_000), round(find_alpha_rate(8_000), 5)
        (0.03, 0.0003, 0.0035)
    """
    (short, fast), (long, slow) = SHORT_SEARCH, LONG_SEARCH
    share = math.log(min(max(steps, short), long) / short) / math.log(long / short)
    return fast ** (1 - share) * slow**share


def with_rates(config: SearchConfig, method: Method, steps: int) -> SearchConfig:
    """``config`` with a rate for alpha, if it leaves that open.

    Args:
        config: Of the search.
        method: Says when alpha moves.
        steps: Of an epoch.
    """
    if config.alpha_lr is not None:
        return config
    if method.alpha_lr is not None:
        return replace(config, alpha_lr=method.alpha_lr)
    return replace(config, alpha_lr=find_alpha_rate(round(_count_moves(config, method, steps))))


def keep_alpha_rate(config: SearchConfig, folder: Path | None) -> SearchConfig:
    """``config`` with the rate for alpha of the checkpoint in ``folder``, if it leaves that open: a rate that follows
    from the number of steps stays what it was."""
    if folder is None or config.alpha_lr is not None:
        return config
    return replace(config, alpha_lr=read_settings(read_identity(folder / "checkpoint.pt")).get("alpha_lr"))


def _with_rate_of_several(config: SearchConfig, method: Method, searches: int, folder: Path | None) -> SearchConfig:
    """``config`` with the method's rate for alpha in one of several searches, if there are several; of searches that
    have begun, with theirs."""
    if searches == 1 or config.alpha_lr is not None or method.alpha_lr_of_several is None:
        return config
    if folder is not None and (folder / "checkpoint.pt").exists():
        return keep_alpha_rate(config, folder)
    return replace(config, alpha_lr=method.alpha_lr_of_several)


def _count_moves(config: SearchConfig, method: Method, steps: int) -> float:
    """The steps in which alpha moves, of a search whose epochs have ``steps``."""
    waits = method.warmup_share if config.warmup_epochs is None else config.warmup_epochs / config.epochs
    return steps * config.epochs * (1 - waits) / method.update_schedule.alpha_every


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one batch.

    Args:
        weight: A step of the weights.
        alpha: What a step takes longer in which alpha moves, too.
        evaluation: A forward pass.
    """

    weight: float
    alpha: float
    evaluation: float


def time_steps(
    space: Space, method: Method, data: ImageData, config: SearchConfig, clock: Clock = perf_counter
) -> StepTimes:
    """The mean over the stages of what a batch takes here, measured on states of their own.

    Args:
        space: Searched.
        method: Whose steps.
        data: The images, whose decoding counts.
        config: Size of the supernet and of a batch.
        clock: Seconds since some moment; ``time.process_time`` where the machine does something else, too.
    """
    every_step = replace(method, update_schedule=replace(method.update_schedule, alpha_every=1))
    stages = [_time_stage(space, every_step, data, config, stage, clock) for stage in range(len(method.stages))]
    every = method.update_schedule.alpha_every
    return StepTimes(
        mean(one.weight for one in stages),
        mean(one.alpha for one in stages) / every,
        mean(one.evaluation for one in stages),
    )


def start_run(
    space: Space, method: Method, data: ImageData, config: SearchConfig, stage: int, steps: int
) -> tuple[Run, Iterator[tuple[Batch, Batch | None]]]:
    """A search of its own, at the beginning of a stage, and batches for its ``steps``, to be measured."""
    device, halves = local_device(config.device), search_halves(data, config)
    config = replace(config, minutes=None, epochs=len(method.stages), warmup_epochs=0)
    config = with_rates(config, method, 1)
    joint = method.update_schedule.joint
    for_weights = np.union1d(*halves) if joint else halves.weights
    state = make_state(build_stage(space, method, data, config, stage), method, config, device)
    keeps = method.stages[stage].candidates
    if keeps is not None:
        even = {name: [[1.0] * len(row) for row in rows] for name, rows in state.alive.items()}
        state.alive = {name: keep_best(even[name], rows, keeps) for name, rows in state.alive.items()}
    run = Run(method, data, config, device, (for_weights, halves.alpha), steps, state)
    state.stage, state.step = stage, stage * steps
    batches = paired_batches(
        data,
        *run.halves,
        batch_size=config.batch_size,
        seed=config.seed,
        first_step=0,
        num_steps=steps,
        search_from_step=steps if joint else 0,
        workers=0,
        device=device,
    )
    return run, batches


def _time_stage(
    space: Space, method: Method, data: ImageData, config: SearchConfig, stage: int, clock: Clock
) -> StepTimes:
    steps = 2 * (TIMED + 1) + 1
    run, batches = start_run(space, method, data, config, stage, steps)
    device = run.device
    with_alpha = _time_each(clock, device, batches, lambda pair: search_step(run, *pair))
    run.state.step = stage * steps
    alone = _time_each(clock, device, batches, lambda pair: search_step(run, pair[0], None))
    run.state.step = stage * steps
    mix, images = choose_mix(run, stage), next(batches)[0].images
    with torch.no_grad():
        evaluation = _time_each(clock, device, iter([images] * (TIMED + 1)), lambda x: run.state.supernet(x, mix))
    return StepTimes(alone, max(with_alpha - alone, 0.0), evaluation)


def _time_each(clock: Clock, device: torch.device, batches: Any, step: Callable[[Any], object]) -> float:
    """Mean seconds of all but the first of ``TIMED + 1`` steps, with what it takes to get their batches."""
    started = 0.0
    for number in range(TIMED + 1):
        if number == 1:
            wait_for(device)
            started = clock()
        step(next(batches))
    wait_for(device)
    return (clock() - started) / TIMED


def fit_minutes(times: StepTimes, method: Method, data: ImageData, config: SearchConfig) -> SearchConfig:
    """``config`` with as many epochs as fit into its minutes; of fewer images where twelve epochs a stage do not fit.

    Args:
        times: Of this machine.
        method: Its stages and its warm-up.
        data: The images.
        config: With ``minutes``.

    Raises:
        ValueError: If not even an epoch of one batch fits.
    """
    assert config.minutes is not None
    stages, batch = len(method.stages), config.batch_size
    halves, seconds = search_halves(data, config), 60 * config.minutes
    of_weights = len(halves.weights) + (len(halves.alpha) if method.update_schedule.joint else 0)
    recorded = config.evaluation_images or min(RECORDED, len(halves.alpha))
    waits = WARMUP_SHARE if method.warmup_share == 0 else method.warmup_share
    waits = 0.0 if method.update_schedule.joint else waits

    def epoch(images: float) -> float:
        moving = times.weight + (1 - waits) * times.alpha
        return images / batch * moving + -(-recorded // batch) * times.evaluation

    epochs, least, share = int(seconds / epoch(of_weights)), LEAST_EPOCHS * stages, 1.0
    if epochs < least and config.index is None:
        left = seconds / least - epoch(0)
        share = max(left, 0.0) / (epoch(of_weights) - epoch(0))
        epochs = least
    if epochs < stages or share * len(halves.weights) < batch or share * len(halves.alpha) < batch:
        rule = f"minutes must allow {least} epochs of a batch of {batch}, of which a step takes {times.weight:.2g} s"
        raise invalid("search", rule, config.minutes, "Give it more, or lower --batch-size or --channels.")
    total = len(data.train.labels)
    fractions = (share * len(halves.weights) / total, share * len(halves.alpha) / total)
    warmup = config.warmup_epochs
    if warmup is None and method.warmup_share == 0 and not method.update_schedule.joint:
        warmup = max(1, round(WARMUP_SHARE * epochs / stages))
    return replace(
        config,
        minutes=None,
        epochs=epochs,
        warmup_epochs=warmup,
        fractions=config.fractions if share == 1 else fractions,
        evaluation_images=recorded,
    )


def fit_searches(times: StepTimes, method: Method, data: ImageData, config: SearchConfig) -> int:
    """How many searches of :data:`STEPS_OF_A_SEARCH` fit into the minutes of ``config``, between one and
    :data:`MOST_SEARCHES`.

    Args:
        times: Of this machine.
        method: Its stages and its warm-up.
        data: The images.
        config: With ``minutes``.
    """
    whole = fit_minutes(times, method, data, config)
    halves = search_halves(data, whole)
    images = len(halves.weights) + (len(halves.alpha) if method.update_schedule.joint else 0)
    moves = _count_moves(whole, method, images // whole.batch_size)
    return min(MOST_SEARCHES, max(1, round(moves / STEPS_OF_A_SEARCH)))


def plan_searches(
    space_or_supernet: Space | nn.Module,
    method: Method,
    data: ImageData,
    config: SearchConfig,
    folder: Path | None,
    searches: int | None = 1,
    ranks: Ranks = ALONE,
) -> tuple[SearchConfig, int]:
    """``config`` of each search without minutes, with the rate of alpha if time was divided between several, and how
    many: what ``budget.json`` of ``folder`` says, or else what fits here, which is written there. Given that file, a
    search is as deterministic as any.

    Args:
        space_or_supernet: Searched.
        method: What to do.
        data: The images.
        config: With or without ``minutes``, which are those of all searches together.
        folder: Of the run.
        searches: How many; ``None`` for one, or with minutes for as many as :func:`fit_searches` says.
        ranks: The processes that search together; the first one measures.
    """
    if config.minutes is None:
        return config, searches or 1
    if not isinstance(space_or_supernet, Space):
        rule = "minutes needs a space: a supernet of your own would be trained by being measured"
        raise invalid("search", rule, config.minutes, "Give epochs instead.")
    saved, given = read_budget(folder), searches
    chosen: Mapping[str, Any] = saved.get("search", {})
    if not chosen:
        times = time_steps(space_or_supernet, method, data, config)
        searches = searches or fit_searches(times, method, data, config)
        fitted = fit_minutes(times, method, data, replace(config, minutes=config.minutes / searches))
        names = ("epochs", "warmup_epochs", "fractions", "evaluation_images")
        chosen = {name: getattr(fitted, name) for name in names} | {"searches": searches}
        chosen = json.loads(ranks.broadcast(json.dumps(chosen)))  # all processes do what the first one measured
        write_budget(folder, {"search": {**chosen, "minutes": config.minutes, "seconds": asdict(times)}}, ranks)
    numbers = {name: chosen[name] for name in ("epochs", "warmup_epochs", "evaluation_images")}
    fractions = None if chosen["fractions"] is None else tuple(chosen["fractions"])
    config = replace(config, minutes=None, fractions=fractions, **numbers)
    planned: int = chosen.get("searches", 1)
    # A number of one's own says nothing of the steps that each search has, and the rate was measured with those
    return _with_rate_of_several(config, method, planned, folder) if given is None else config, planned


def read_budget(folder: Path | None) -> dict[str, Any]:
    """What a run with minutes has decided so far."""
    return {} if folder is None else dict(read_file(folder / FILE, BudgetFile) or {})


def write_budget(folder: Path | None, part: Mapping[str, Any], ranks: Ranks = ALONE) -> None:
    """Add a decision to ``budget.json``."""
    if folder is not None and ranks.is_first:
        write_json(folder / FILE, {**read_budget(folder), **part}, checksum=True)
