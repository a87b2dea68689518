"""Memory of a step: predicted without the device, and measured on it."""

import gc
from collections.abc import Callable
from typing import Any

import torch

from fastnas.memory.scene import Moment, Setup, build_scene, list_moments
from fastnas_kernels.check import invalid
from measuring.cells import CONTENDERS, Cell, Scale, arguments_of, cells, step
from measuring.correctness import first_line
from measuring.counting import kept_bytes
from measuring.device import FAULTS, Device, Memory
from measuring.supernets import Training, build, passes, trainings
from measuring.writing import Section

META = torch.device("meta")


def predicted_bytes(cell: Cell, contender: str, dtype: torch.dtype) -> int:
    """What the graph and the nodes of a cell keep, counted on meta tensors."""
    arguments = arguments_of(cell, dtype, META)
    forward, _ = step(CONTENDERS[contender], arguments, cell.plan, "both")
    edges = () if arguments.edge_mix is None else (arguments.edge_mix,)
    return kept_bytes(forward, (*arguments.states, *arguments.weights, arguments.mix, *edges))


def predicted_step_bytes(training: Training, backend: str) -> int:
    """What the graph of a whole step keeps, counted on meta tensors."""
    built = build(training, META)
    forward, _ = passes(built, backend, "both")
    return kept_bytes(forward, (*built.w.values(), *built.alpha.values(), built.images, built.labels))


def measure(device: Device, scale: Scale, has_time: Callable[[], bool]) -> Section:
    """Predicted and measured bytes of every cell and supernet."""
    records: list[dict[str, Any]] = []
    for cell in cells(scale):
        for name, contender in CONTENDERS.items():
            if has_time():
                arguments = arguments_of(cell, torch.float32, device.torch_device)
                predicted = predicted_bytes(cell, name, torch.float32)
                of_step = step(contender, arguments, cell.plan, "both")
                records.append(_measured(device, cell.name, name, predicted, of_step))
    for training in trainings(scale):
        for backend in ("reference", "triton"):
            if has_time():
                predicted = predicted_step_bytes(training, backend)
                of_step = passes(build(training, device.torch_device), backend, "both")
                records.append(_measured(device, training.name, backend, predicted, of_step))

    def megabytes(record: dict[str, Any], key: str) -> str:
        return f"{record[key] / 1e6:.0f}" if key in record else ""

    rows = [
        [
            record["what"],
            record["how"],
            megabytes(record, "predicted"),
            megabytes(record, "held"),
            f"{record['held'] / record['predicted']:.2f}" if "held" in record else record.get("fault", "not counted"),
            megabytes(record, "peak"),
        ]
        for record in records
    ]
    notes = [
        "float32, in MB. Predicted: what the graph and the outputs keep of the forward pass, counted on meta tensors. "
        "Held: what the device had allocated at that moment, beside what was there before. Peak: at most during both "
        "passes.",
    ]
    if not has_time():
        notes.append("Time was over before the end of this table.")
    columns = ("what", "how", "predicted", "held", "held / predicted", "peak")
    return Section("Is memory what was predicted?", columns, rows, notes, records)


def step_peak(device: Device, setup: Setup) -> int:
    """Bytes of the largest phase of a search step as ``device`` counts them, weights, gradients and all.

    A step before it makes what is made once: libraries' workspaces and kernels' tables are none of it.
    """
    return max(_peak_at(device, setup, moment) for moment in list_moments(setup))


def _peak_at(device: Device, setup: Setup, moment: Moment) -> int:
    for phase in build_scene(setup, moment, device.torch_device).phases().values():
        phase()
    gc.collect()
    scenes = []
    given = _counted(device, lambda: scenes.append(build_scene(setup, moment, device.torch_device)))
    phases = scenes[0].phases().values()
    return given.held + max(_counted(device, phase).peak for phase in phases)


def _counted(device: Device, run: Callable[[], object]) -> Memory:
    found = device.memory(run, lambda _: None)
    if found is None:
        raise invalid("memory", "a device must count its memory", device.torch_device)
    return found


def _measured(device: Device, what: str, how: str, predicted: int, of_step: tuple) -> dict[str, Any]:
    record: dict[str, Any] = {"what": what, "how": how, "predicted": predicted}
    forward, backward = of_step
    try:
        backward(forward())  # workspaces and tables are made once
        found = device.memory(forward, backward)
    except FAULTS as fault:
        return record | {"fault": first_line(fault)}
    return record if found is None else record | found._asdict()
