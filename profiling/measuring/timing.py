"""How long cells and whole steps take in each way to evaluate them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from measuring.ceilings import copy_rate
from measuring.cells import (
    CONTENDERS,
    PHASES,
    Arguments,
    Cell,
    Contender,
    Phase,
    Scale,
    arguments_of,
    cells,
    edge_by_edge,
    step,
    whole,
)
from measuring.correctness import first_line, relative_errors
from measuring.counting import moved_bytes
from measuring.device import FAULTS, Device, medians
from measuring.supernets import build, passes, trainings
from measuring.writing import Section

BASE = "edge by edge"
"""The published code's way, channels last."""
PLANAR = "edge by edge, NCHW"
EAGER = (BASE, PLANAR)
CAPTURED = (*EAGER, "fused")
"""What is also measured as a graph, without the cost of launching."""
COMPILED = f"{BASE}, compiled"
SMALL = 2**14
"""Pixels of a cell, over all images, up to which it is measured with a cold cache as well."""
DTYPES = (torch.float32, torch.bfloat16)
Runs = Mapping[str, Callable[[], list[Tensor]]]


class Prepared(NamedTuple):
    """Contenders that ran, what each gave, and what the others raised."""

    ready: dict[str, Callable[[], list[Tensor]]]
    results: dict[str, list[Tensor]]
    faults: dict[str, str]


def prepared(device: Device, runs: Runs, captured: Sequence[str] = ()) -> Prepared:
    """Try each of ``runs`` once, and as graphs those that are to be ``captured``."""
    found = Prepared({}, {}, {})

    def attempt(name: str, make: Callable[[], Callable[[], list[Tensor]]]) -> None:
        try:
            run = make()
            found.results[name] = run()
            found.ready[name] = run
        except FAULTS as fault:
            found.faults[name] = first_line(fault)

    for name, run in runs.items():
        attempt(name, lambda run=run: run)
    for name in captured:
        if name in found.ready:
            attempt(f"{name}, graph", lambda name=name: device.captured(found.ready[name]))
    return found


def compared(
    device: Device, runs: Runs, base: Sequence[str], repeats: int, captured: Sequence[str] = (), cold: bool = False
) -> list[dict[str, Any]]:
    """Seconds of each, its ratio to the fastest of ``base``, as graphs or not, and how far its results are from the
    first's."""
    ready, results, faults = prepared(device, runs, captured)
    seconds = medians(device, ready, repeats, cold)
    records: list[dict[str, Any]] = [{"how": name, "seconds": seconds[name]} for name in ready]
    fastest = min((seconds[name] for name in ready if name.removesuffix(", graph") in base), default=None)
    for record in records:
        if base[0] in ready:
            record["difference"] = max(relative_errors(results[record["how"]], results[base[0]]))
        if fastest is not None:
            record["ratio"] = record["seconds"] / fastest
    return records + [{"how": name, "fault": fault} for name, fault in faults.items()]


def cell_traffic(contender: str, cell: Cell, dtype: torch.dtype, phase: Phase) -> int | None:
    """Bytes that a contender moves by the count of its operations; the kernels' own launches are not among these."""
    if contender == PLANAR or CONTENDERS[contender].backend == "triton":
        return None
    arguments = arguments_of(cell, dtype, torch.device("meta"))
    return moved_bytes(whole(*step(CONTENDERS[contender], arguments, cell.plan, phase)))


def planar(arguments: Arguments) -> Arguments:
    """The same with channels as planes."""
    states = tuple(x.contiguous() for x in arguments.states)
    return arguments._replace(states=states, dy=arguments.dy.contiguous())


def measure_cells(device: Device, scale: Scale, repeats: int, has_time: Callable[[], bool]) -> Section:
    """Every cell, dtype and phase by every contender."""
    copied = copy_rate(device, scale, repeats)
    records: list[dict[str, Any]] = []
    skipped = []
    for cell in cells(scale):
        for dtype in DTYPES:
            for phase in PHASES:
                if not has_time():
                    skipped.append(f"{cell.name} {_name(dtype)} {phase}")
                    continue
                arguments = arguments_of(cell, dtype, device.torch_device)
                runs = {name: whole(*step(c, arguments, cell.plan, phase)) for name, c in CONTENDERS.items()}
                runs[PLANAR] = whole(*step(CONTENDERS[BASE], planar(arguments), cell.plan, phase))
                small = cell.images * cell.side**2 <= SMALL and device.torch_device.type != "cpu"
                for cold in (False, True) if small else (False,):
                    name = f"{cell.name}{', cold cache' * cold}"
                    where = {"what": name, "dtype": _name(dtype), "phase": phase}
                    for record in compared(device, runs, EAGER, repeats, CAPTURED, cold):
                        moved = cell_traffic(record["how"].removesuffix(", graph"), cell, dtype, phase)
                        rate = {"bytes": moved} if moved is not None else {}
                        if moved is not None and "seconds" in record:
                            rate["of copy"] = moved / record["seconds"] / copied
                        records.append(where | record | rate)
    notes = (
        "Medians of interleaved runs, forward and backward; gradients of the states are always among them. "
        f"Ratios are to the fastest of {' and '.join(EAGER)}, PyTorch's operations as the published code calls them, "
        "channels last and not, as graphs or not. 'graph' is replayed as a CUDA graph; with a cold cache, other memory "
        "is written before each run. float32 convolutions of cuDNN use what PyTorch allows by default (tf32).",
        "Of copy: bytes that the operations read and write if each touches its arguments once, a second, relative to "
        f"the copy rate measured in this run ({copied / 1e9:.0f} GB/s); caches can bring it above 1. The kernels' own "
        "launches are not counted here, so they have no such number.",
        "Difference: the largest relative difference of a result (nodes, gradients) from the base's; one value that "
        "rounding moves across the corner of a ReLU shows in it.",
        *_skipped(skipped),
    )
    return Section("How long does a cell take?", *_table(records, ("dtype", "phase"), with_rate=True), notes, records)


def measure_supernets(device: Device, scale: Scale, repeats: int, has_time: Callable[[], bool]) -> Section:
    """Whole steps of a search by the eager definitions and by the kernels."""
    records: list[dict[str, Any]] = []
    skipped = []
    for training in trainings(scale):
        built = build(training, device.torch_device)
        for phase in PHASES:
            if not has_time():
                skipped.append(f"{training.name} {phase}")
                continue
            runs = {backend: _step(*passes(built, backend, phase)) for backend in ("reference", "triton")}
            where = {"what": training.name, "phase": phase}
            records += [
                where | record for record in compared(device, runs, ("reference",), repeats, ("reference", "triton"))
            ]
    notes = (
        "Medians of interleaved steps without the optimiser, float32, for FASTNAS_BACKEND=reference and triton; the "
        "ratio is to the faster of reference and its graph.",
        *_skipped(skipped),
    )
    return Section("How long does a step of a search take?", *_table(records, ("phase",)), notes, records)


def _step(
    forward: Callable[[], Tensor], backward: Callable[[Tensor], tuple[Tensor | None, ...]]
) -> Callable[[], list[Tensor]]:
    def run() -> list[Tensor]:
        loss = forward()
        return [loss.detach(), *(g for g in backward(loss) if g is not None)]

    return run


def measure_compiled(device: Device, scale: Scale, repeats: int, has_time: Callable[[], bool]) -> Section:
    """The cell edge by edge as ``torch.compile`` compiles it: last, since a cell may take it a minute."""
    records: list[dict[str, Any]] = []
    skipped = []
    for cell in cells(scale):
        if not has_time():
            skipped.append(cell.name)
            continue
        torch._dynamo.reset()
        arguments = arguments_of(cell, torch.float32, device.torch_device)
        contenders = {
            **{name: CONTENDERS[name] for name in (BASE, "fused")},
            COMPILED: Contender(torch.compile(edge_by_edge, dynamic=False, fullgraph=True)),
        }
        runs = {name: whole(*step(c, arguments, cell.plan, "both")) for name, c in contenders.items()}
        where = {"what": cell.name, "dtype": "float32"}
        found = compared(device, runs, (BASE, COMPILED), repeats, tuple(contenders))
        records += [where | record for record in found]
    notes = (
        f"float32, forward and backward; ratios are to the fastest of {BASE} and {COMPILED}, as graphs or not.",
        *_skipped(skipped),
    )
    return Section("What does torch.compile make of it?", *_table(records, ("dtype",)), notes, records)


def _table(
    records: Sequence[Mapping[str, Any]], keys: Sequence[str], with_rate: bool = False
) -> tuple[tuple[str, ...], list[list[str]]]:
    columns = ("what", *keys, "how", "ms", "ratio", "difference", *(("GB", "of copy") if with_rate else ()))
    rows = []
    for record in records:
        rate = []
        if with_rate:
            rate = [f"{record['bytes'] / 1e9:.2f}" if "bytes" in record else "–"]
            rate += [f"{record['of copy']:.2f}" if "of copy" in record else "–"]
        rows.append(
            [
                record["what"],
                *(record[key] for key in keys),
                record["how"],
                f"{1e3 * record['seconds']:.3f}" if "seconds" in record else record["fault"],
                f"{record['ratio']:.2f}" if "ratio" in record else "",
                f"{record['difference']:.0e}" if "difference" in record else "",
                *rate,
            ]
        )
    return columns, rows


def _skipped(names: Sequence[str]) -> tuple[str, ...]:
    return (f"Skipped, since time was over: {'; '.join(names)}.",) if names else ()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
