"""THE loop: every method of the library goes through it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastnas.data import Batch, BrokenImages, ImageData, as_data, paired_batches, steps_per_epoch
from fastnas.engine.budget import keep_alpha_rate, plan_searches, with_rates
from fastnas.engine.choosing import FILE as CHOICE
from fastnas.engine.choosing import choose_once
from fastnas.engine.coefficients import relax
from fastnas.engine.compiling import compile_ahead
from fastnas.engine.extend import announce_more
from fastnas.engine.fit import require_own, require_read, require_task
from fastnas.engine.graphs import StepGraphs, make_graphs
from fastnas.engine.record import (
    Stopwatch,
    derive,
    make_record,
    measure_sharpness,
    read_coefficients,
    warn_of_constant_output,
)
from fastnas.engine.run import (
    Run,
    build_stage,
    copy_nest,
    enter_stage,
    find_stage_borders,
    find_weight_rate,
    make_state,
    require_stages,
    search_halves,
    to_lists,
)
from fastnas.engine.step import cut_squares, search_step
from fastnas.errors import require_type
from fastnas.mechanisms.control import RollBack, Stop
from fastnas.mechanisms.pruning import keep_best
from fastnas.methods.method import Method
from fastnas.methods.registry import as_method
from fastnas.progress import OnEpoch, OnStep, show_in_notebook
from fastnas.ranks import ALONE, Ranks, digest_tensors, local_device, require_divisible
from fastnas.run_files import SearchEpoch, append_record, keep_epochs
from fastnas.spaces.formats import genotype_to_text, parse_genotype
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.space import Space
from fastnas.supernet.own import as_space
from fastnas.tasks import Task
from fastnas.training.checkpoint import (
    delete_checkpoint,
    has_checkpoint,
    load_checkpoint,
    note_threads,
    restoring,
    save_checkpoint,
    with_fewer_epochs,
)
from fastnas.training.config import SearchConfig
from fastnas.training.divergence import Fault, explain_divergence, find_fault
from fastnas.training.numerics import deterministic

Batches = Iterator[tuple[Batch, Batch | None]]


@dataclass(frozen=True)
class SearchResult:
    """What a search returns.

    Args:
        genotype: The derived architecture.
        alpha: Logits at the end, ``alpha.<cell type>`` ``[E, K]`` and ``beta.<cell type>`` ``[E]``.
        history: One record an epoch, as in ``metrics.jsonl``.
        supernet: The trained supernet.
        stopped: Why the search ended before its last epoch, or nothing.
        returned: The epoch whose architecture this is, if a control chose one.
    """

    genotype: Genotype
    alpha: dict[str, Tensor]
    history: list[dict[str, Any]]
    supernet: nn.Module
    stopped: str = ""
    returned: int | None = None


def search(
    space_or_supernet: Space | nn.Module | str,
    method: Method | str | Callable[[], Method],
    data: Any,
    config: SearchConfig = SearchConfig(),  # noqa: B008
    *,
    task: Task | str | None = None,
    folder: Path | str | None = None,
    extend: bool = False,
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
    on_compile: OnStep | None = None,
    on_choice: OnStep | None = None,
    ranks: Ranks = ALONE,
    accept: Callable[[Genotype], bool] = lambda genotype: True,
) -> SearchResult:
    """Search an architecture: train alpha and the weights of a supernet, as the method says, then derive.

    Args:
        space_or_supernet: A space or its name, for which a supernet is built, or a supernet: a module with a
            ``space``, called as ``supernet(images, mix)``. A supernet of your own keeps its weights as the starting
            point and is trained in place.
        method: What to do, or its name; see :mod:`fastnas.methods.library`.
        data: Images, or what names them: ``"digits"``, ``"cifar10:ROOT"``, arrays, a data set, or two data loaders,
            for the weights and for alpha; see :func:`fastnas.data.as_data`.
        config: Size, budget and optimisers.
        task: What the labels of arrays and data sets are, see :mod:`fastnas.tasks`; without it classes.
        folder: Where to keep ``metrics.jsonl`` and ``checkpoint.pt``. If they are there already, the search goes on
            from them, bit for bit as if it had never stopped.
        extend: Also go on from a checkpoint of fewer epochs, with a warning that says what becomes of the schedules.
        on_step: Called after every step with the number of steps done and their total. Without callbacks, a Jupyter
            notebook shows a live table.
        on_epoch: Called after every epoch with its record.
        on_compile: On a GPU, called before the first step with the number of kernels compiled and their total.
        on_choice: Where the method chooses by evaluations of the supernet, called with the number of their parts that
            are done and their total.
        ranks: The processes that search together, see :func:`fastnas.ranks.join_processes`; the first one writes.
        accept: Which architectures a choice by evaluation may return.

    Raises:
        ValueError: For data, sizes or files that do not fit together.
        FloatingPointError: If a loss is not finite.

    Example:
        >>> import fastnas
        >>> tiny = fastnas.SearchConfig(channels=4, cells=1, epochs=1, batch_size=32, train_fraction=0.1)
        >>> result = fastnas.search("nasbench201", "darts", "digits", tiny)
        >>> result.genotype.space, len(result.history), result.alpha["alpha.normal"].shape
        ('nasbench201', 1, torch.Size([6, 5]))
    """
    on_step, on_epoch, on_choice = show_in_notebook("search", on_step, on_epoch, on_choice)
    if not isinstance(space_or_supernet, nn.Module):
        space_or_supernet = as_space(space_or_supernet, "search")
    space = space_or_supernet if isinstance(space_or_supernet, Space) else getattr(space_or_supernet, "space", None)
    method = as_method(method, "search")
    data = as_data(data, "search", dimensions=getattr(space, "dimensions", 2), task=task)
    require_type("search", "config", config, SearchConfig)
    folder = None if folder is None else Path(folder)
    if data.loaders is not None:
        config = data.loaders.fit(config, ranks.size > 1)
    require_task(data.task, method, config)
    require_read(method, config)
    config, _ = plan_searches(space_or_supernet, method, data, config, folder, ranks=ranks)
    device = local_device(config.device)
    require_divisible(ranks, config.batch_size)
    halves = _divide(data, method, config)
    drop_last = config.drop_last or ranks.size > 1
    steps = steps_per_epoch(len(halves[0]), config.batch_size, "the half for the weights", drop_last=drop_last)
    steps_per_epoch(len(halves[1]), config.batch_size, "the half for alpha")  # raises where one cannot be filled
    config = with_rates(keep_alpha_rate(config, folder) if extend else config, method, steps)
    require_stages(method, config)
    supernet = _first_supernet(space_or_supernet, method, data, config)
    broken = BrokenImages(config.max_broken, folder and folder / ranks.own_name("broken.jsonl"))
    state = make_state(supernet, method, config, device)
    run = Run(method, data, config, device, halves, steps, state, ranks, broken)
    ranks.require_same("the configuration", run.identity)
    history = _restore(run, folder, extend)
    with deterministic(), _explain(run, folder):
        if run.state.step < run.total_steps:
            compile_ahead(run, on_compile)
        for record in _epochs(run, history, folder, on_step):
            if on_epoch is not None:
                on_epoch(record)
    verdict = _decide(run, history)
    genotype = derive(run, read_coefficients(run, config.epochs - 1))
    if method.choice is not None:
        with deterministic():
            report = on_choice or (lambda done, total: None)
            text = genotype_to_text(choose_once(run, folder, accept, report)) if ranks.is_first else ""
            genotype = parse_genotype(ranks.broadcast(text), run.space)
    stopped = isinstance(verdict, Stop) and len(history) < config.epochs
    returned = verdict.epoch if isinstance(verdict, Stop) else None
    if returned is not None:
        genotype = parse_genotype(history[returned]["genotype"], run.space)
    alpha = {name: a.detach().clone() for name, a in run.state.alpha.items()}
    return SearchResult(genotype, alpha, history, run.state.supernet, verdict.reason if stopped else "", returned)  # type: ignore[union-attr]


def _divide(data: ImageData, method: Method, config: SearchConfig) -> tuple[np.ndarray, np.ndarray]:
    """The images for the weights, and for alpha; a method that trains both at once uses all of them for that."""
    halves = search_halves(data, config)
    return (np.union1d(*halves), halves.alpha) if method.update_schedule.joint else halves


def _first_supernet(
    space_or_supernet: Space | nn.Module, method: Method, data: ImageData, config: SearchConfig
) -> nn.Module:
    if isinstance(space_or_supernet, Space):
        return build_stage(space_or_supernet, method, data, config, 0)
    require_own(space_or_supernet, method, config)
    return space_or_supernet


def _restore(run: Run, folder: Path | None, extend: bool) -> list[dict[str, Any]]:
    """Load the checkpoint of ``folder`` if there is one; returns the records of the epochs that it has behind it."""
    if folder is None:
        return []
    checkpoint, metrics, identity = folder / "checkpoint.pt", folder / "metrics.jsonl", run.identity
    if has_checkpoint(checkpoint):
        identity = with_fewer_epochs(checkpoint, identity) if extend else identity
        saved = load_checkpoint(checkpoint, identity, run.device)
        with restoring(checkpoint):
            if saved["stage"] > 0:
                enter_stage(run, saved["stage"])
            run.state.load_state_dict(saved)
        if run.state.step < run.total_steps:
            note_threads(checkpoint, saved, run.device)
    history = keep_epochs(metrics, SearchEpoch, run.state.step // run.steps, write=run.ranks.is_first)
    if identity != run.identity:
        announce_more(run, history, _decide(run, history))  # type: ignore[arg-type]
        delete_checkpoint(folder / CHOICE)  # of the shorter search
    return history  # type: ignore[return-value]


def _save(run: Run, folder: Path | None) -> None:
    if folder is not None:
        run.state.losses.check("search", run.state.step)
        run.ranks.require_same(
            "alpha and the weights", digest_tensors([*run.state.alpha.values(), *run.state.w.values()])
        )
    if folder is not None and run.ranks.is_first:
        state = {**run.state.state_dict(), "threads": torch.get_num_threads()}
        save_checkpoint(folder / "checkpoint.pt", run.identity, state)


def _epochs(
    run: Run, history: list[dict[str, Any]], folder: Path | None, on_step: OnStep | None
) -> Iterator[dict[str, Any]]:
    """Run the epochs that are left, appending the record of each to ``history``."""
    state, batches, stopwatch, graphs = run.state, None, Stopwatch(), make_graphs(run)
    while state.step < run.total_steps:
        if state.step % run.steps == 0:
            verdict = _decide(run, history)
            if isinstance(verdict, Stop):
                return
            if isinstance(verdict, RollBack):
                _go_back(run, history, verdict, folder)
                batches = None
            if run.at.stage > state.stage:
                _next_stage(run)
                batches = None
            _prune(run)
        batches = _batches(run) if batches is None else batches
        lr = _set_learning_rate(run, history)
        search_batch = _rest_of_epoch(run, batches, folder, on_step, graphs)
        epoch = state.step // run.steps - 1
        eigenvalue = measure_sharpness(run, search_batch, epoch)
        record = make_record(run, epoch, lr, eigenvalue, stopwatch)
        history.append(record)
        warn_of_constant_output(history)
        _keep_snapshot(run, epoch)
        if folder is not None and run.ranks.is_first:
            append_record(folder / "metrics.jsonl", record)
        _save(run, folder)
        if on_step is not None:
            on_step(state.step, run.total_steps)
        yield record


def _rest_of_epoch(
    run: Run, batches: Batches, folder: Path | None, on_step: OnStep | None, graphs: StepGraphs | None
) -> Batch | None:
    """Step to the end of the epoch; returns the last batch for alpha."""
    state, every = run.state, run.config.checkpoint_steps
    while True:
        weight_batch, search_batch = next(batches)
        weight_batch = cut_squares(run, "weights", weight_batch)
        search_batch = None if search_batch is None else cut_squares(run, "alpha", search_batch)
        if graphs is None:
            search_step(run, weight_batch, search_batch)
        else:
            graphs(weight_batch, search_batch)
        if state.step % run.steps == 0:
            return search_batch
        if every > 0 and state.step % every == 0:
            _save(run, folder)
        if on_step is not None:
            on_step(state.step, run.total_steps)


def _explain(run: Run, folder: Path | None) -> AbstractContextManager[None]:
    """Inside the block, a number that is not finite ends the search in one line that says where it came from."""
    state, every = run.state, run.method.update_schedule.alpha_every

    def find() -> Fault | None:
        start = state.step - state.step % run.steps
        start -= run.steps if start == state.step and len(state.losses.inner) == run.steps else 0
        steps = range(start, start + run.steps)
        return find_fault(state.losses, steps, [step for step in steps if (step + 1) % every == 0])

    def read(step: int) -> dict[str, Batch | None]:
        return dict(zip(("weight", "alpha"), next(_batches(run, step, 1)), strict=True))

    def variables() -> dict[str, list[Tensor]]:
        return {"alpha": [*state.alpha.values()], "weight": [*state.w.values()]}

    config = run.config
    rates = {"alpha": f"--alpha-lr ({config.alpha_lr:g})", "weight": f"--weight-lr ({config.weight_lr:g})"}
    return explain_divergence("search", find, read, variables, rates, folder)


def _batches(run: Run, step: int | None = None, count: int | None = None) -> Batches:
    """The batches from here to the end of the stage, or ``count`` from ``step`` on."""
    step, stage = run.state.step if step is None else step, run.state.stage
    borders = find_stage_borders(run.method, run.config)
    count = borders[stage + 1] * run.steps - step if count is None else count
    first = borders[stage] + run.progress(borders[stage]).warmup
    schedule, never = run.method.update_schedule, run.total_steps + 1
    alone = schedule.joint or not schedule.alpha_moves  # a joint step has one batch for both
    return iter(
        paired_batches(
            run.data,
            *run.halves,
            batch_size=run.config.batch_size,
            seed=run.config.seed,
            first_step=step,
            num_steps=count,
            search_from_step=never if alone else first * run.steps,
            workers=run.config.workers,
            sampling=run.config.sampling,
            ranks=run.ranks,
            device=run.device,
            broken=run.broken,
            drop_last=run.config.drop_last,
        )
    )


def _set_learning_rate(run: Run, history: list[dict[str, Any]]) -> float:
    at = run.at
    losses = [record["inner_loss"] for record in history if record["stage"] == at.stage][: at.epoch]
    lr = find_weight_rate(run.config, at.epoch, run.method.learning_rate, at.epochs, losses, at.warmup)
    for group in run.state.weight_optimizer.param_groups:
        group["lr"] = lr
    return lr


def _next_stage(run: Run) -> None:
    """Leave every edge its best candidates, and begin anew with them in the networks of the next stage."""
    stage = run.state.stage + 1
    keeps = run.method.stages[stage].candidates
    if keeps is not None:
        mix = to_lists(read_coefficients(run, run.state.step // run.steps - 1).candidates)
        run.state.alive = {name: keep_best(mix[name], rows, keeps) for name, rows in run.state.alive.items()}
    enter_stage(run, stage)


def _prune(run: Run) -> None:
    """Let the method remove candidates at the beginning of an epoch in which alpha moves."""
    at, method, state = run.at, run.method, run.state
    if method.prune is None or at.epoch < at.warmup or (at.epoch - at.warmup) % method.prune_every:
        return
    with torch.no_grad():
        mix = to_lists(relax(method, run.space, state.alpha, state.alive, run.tau).candidates)
    state.alive = {name: method.prune(mix[name], rows) for name, rows in state.alive.items()}


def _decide(run: Run, history: list[dict[str, Any]]) -> Stop | RollBack | None:
    """What the method's control says after the epochs of ``history``."""
    return None if run.method.control is None else run.method.control(run.space, history)


def _keep_snapshot(run: Run, epoch: int) -> None:
    """Keep what a roll-back may return to, and no more."""
    keeps, snapshots = run.method.snapshots, run.state.snapshots
    if keeps:
        snapshots[epoch] = copy_nest(run.state.snapshot())
        for old in [saved for saved in snapshots if saved < epoch - keeps]:
            del snapshots[old]


def _go_back(run: Run, history: list[dict[str, Any]], verdict: RollBack, folder: Path | None) -> None:
    """Return to the end of ``verdict.epoch``: state first, records second, so that a kill between them is harmless."""
    state = run.state
    state.roll_backs.append(
        {"from": len(history) - 1, "to": verdict.epoch, "weight_decay": verdict.weight_decay, "reason": verdict.reason}
    )
    state.load_state_dict(copy_nest(state.snapshots[verdict.epoch]))
    state.snapshots = {epoch: saved for epoch, saved in state.snapshots.items() if epoch <= verdict.epoch}
    for group in state.weight_optimizer.param_groups:
        group["weight_decay"] = verdict.weight_decay
    _save(run, folder)
    del history[verdict.epoch + 1 :]
    if folder is not None:
        keep_epochs(folder / "metrics.jsonl", SearchEpoch, verdict.epoch + 1, write=run.ranks.is_first)
