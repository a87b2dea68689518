"""Compiles what will be measured in several processes at once: one alone would take most of a scarce ten minutes.

Every process runs some of the work once, on the same GPU; Triton keeps what it compiles on the disk, where the process
that measures finds it. What goes wrong here is said, and found again where it is checked.
"""

from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from time import monotonic
from typing import NamedTuple

import torch

from fastnas_kernels.tensors import accumulator
from measuring import correctness
from measuring.cells import CONTENDERS, PHASES, Cell, Phase, Scale, arguments_of, cells, step, whole
from measuring.correctness import LEAST, Subject, evaluate, first_line
from measuring.device import FAULTS, Device
from measuring.supernets import Training, build, passes, trainings
from measuring.writing import Section


class Task(NamedTuple):
    """A piece of work that needs kernels."""

    name: str
    run: Callable[[torch.device], object]


def tasks(scale: Scale) -> list[Task]:
    """Everything that is checked or timed and runs kernels, once."""
    checked, small = correctness.subjects(scale), correctness.small_subjects(scale)
    found = [Task(f"{s.name} {dtype}", partial(_check, s, dtype)) for s in checked for dtype in LEAST]
    found += [Task(f"{s.name} slopes", partial(_check, s, torch.float64)) for s in small]
    for phase in PHASES:
        found += [Task(f"{c.name} {dtype}", partial(_cell, c, dtype, phase)) for c in cells(scale) for dtype in LEAST]
        found += [Task(training.name, partial(_training, training, phase)) for training in trainings(scale)]
    return found


def _check(subject: Subject, dtype: torch.dtype, device: torch.device) -> None:
    exact = accumulator(dtype)
    drawn = subject.arguments(0)
    evaluate(subject, [x.to(device, dtype if i < subject.num_stored else exact) for i, x in enumerate(drawn)], "triton")


def _cell(cell: Cell, dtype: torch.dtype, phase: Phase, device: torch.device) -> None:
    whole(*step(CONTENDERS["fused"], arguments_of(cell, dtype, device), cell.plan, phase))()


def _training(training: Training, phase: Phase, device: torch.device) -> None:
    forward, backward = passes(build(training, device), "triton", phase)
    backward(forward())


def run_task(device: str, scale: Scale, number: int) -> str:
    """Run one of the tasks; returns what went wrong, or nothing."""
    task = tasks(scale)[number]
    try:
        if device != "cpu":
            torch.cuda.set_device(torch.device(device))
        task.run(torch.device(device))
    except FAULTS as fault:
        return f"{task.name}: {first_line(fault)}"
    return ""


def processes(workers: int) -> Executor:
    """A pool of processes that share nothing with this one: a GPU does not survive a fork."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def warm(
    device: Device, scale: Scale, workers: int, seconds: float, pool: Callable[[int], Executor] | None = None
) -> Section:
    """Run all tasks in ``workers`` processes, or in ``pool``, for at most about ``seconds``; on a CPU, where nothing is
    compiled, only in a ``pool`` that is given."""
    title = "Was everything compiled in advance?"
    if device.torch_device.type == "cpu" and pool is None:
        return Section(title, notes=("Nothing to compile: Triton's interpreter runs the kernels.",))
    started, numbers = monotonic(), range(len(tasks(scale)))
    with (pool or processes)(workers) as executor:
        futures = [executor.submit(run_task, str(device.torch_device), scale, number) for number in numbers]
        done, _ = wait(futures, timeout=seconds)
        executor.shutdown(cancel_futures=True)  # those that run come to their end: they would disturb what is timed
    faults = []
    for future in done:
        try:
            faults.append(future.result())
        except FAULTS as fault:  # the process died
            faults.append(first_line(fault))
    faults = sorted({fault for fault in faults if fault})
    took = monotonic() - started
    notes = [f"{len(done)} of {len(futures)} pieces of work ran in {took:.0f} s, in {workers} processes."]
    records = [{"seconds": took, "workers": workers, "done": len(done), "of": len(futures), "faults": faults}]
    return Section(title, notes=(*notes, *faults), records=records)
