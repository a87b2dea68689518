"""The first three minutes on a GPU: do a few kernels run, write all they should, and repeat their bits?

About ten compiled forms: a cell of one edge, forward and backward, and one of each small family. Everything that a
launch is given to write into holds NaN before. Where ``compute-sanitizer`` is installed, the small cell runs under its
memory check and its race check, in processes of their own. And one question to PyTorch itself: does the backward pass
of its max-pool, on which second derivatives and synchronised statistics rest, repeat its bits?
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from measuring.absent import stand_in

stand_in()

from measuring import correctness  # noqa: E402
from measuring.cells import Scale  # noqa: E402
from measuring.correctness import Subject, compare, first_line  # noqa: E402
from measuring.device import FAULTS, Device, device_named, exact_float32, interpreter  # noqa: E402
from measuring.writing import Section  # noqa: E402

TOOLS = ("memcheck", "racecheck")
SECONDS_A_TOOL = 45


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that is not yet written holds NaN, or -1 where it holds integers."""
    before = {name: getattr(torch, name) for name in ("empty", "empty_strided", "empty_like")}

    def filled(name: str) -> Any:
        def allocate(*shape: Any, **options: Any) -> torch.Tensor:
            memory = before[name](*shape, **options)
            return memory.fill_(float("nan") if memory.is_floating_point() else -1)

        return allocate

    for name in before:
        setattr(torch, name, filled(name))
    try:
        yield
    finally:
        for name, allocate in before.items():
            setattr(torch, name, allocate)


def few() -> list[Subject]:
    """One of each family of kernels, at its smallest."""
    found = correctness.subjects("tiny")
    kinds = ("mixed_cell", "mixed_sum of 3", "merge_channels, shuffled, NHWC", "gumbel_softmax, straight_through")
    return [next(subject for subject in found if subject.name.startswith(kind)) for kind in kinds]


def check(device: Device, scale: Scale, script: Path | None = None) -> Section:
    """The section; ``script`` is what runs under the sanitizer, ``None`` to leave that out."""
    records: list[dict[str, Any]] = []
    for subject in few():
        record: dict[str, Any] = {"what": subject.name}
        try:
            with poisoned(), exact_float32():
                record |= compare(subject, torch.float32, device.torch_device, (0,))
        except FAULTS as fault:
            record |= {"ok": False, "fault": first_line(fault)}
        records.append(record)
        print(f"{subject.name}: {'pass' if record['ok'] else 'FAIL ' + record.get('fault', '')}", flush=True)
    if device.torch_device.type == "cuda" and script is not None:
        records += [_sanitized(tool, script) for tool in TOOLS]
    repeats = max_pool_repeats(device.torch_device)
    rows = [[record["what"], _verdict(record)] for record in records]
    rows.append(["PyTorch's max-pool backward gives the same bits twice", "yes" if repeats else "no"])
    notes = (
        "Outputs hold NaN before a launch; a pass has the bits of a second evaluation and at most twice eager's error.",
    )
    asked: list[dict[str, Any]] = [{"what": "max-pool backward repeats", "answer": repeats}]
    ok = all(record["ok"] is not False for record in records)
    return Section("Do a few kernels run?", ("what", ""), rows, notes, records + asked, ok)


def _verdict(record: dict[str, Any]) -> str:
    if record["ok"] is None:
        return record["note"]
    return "pass" if record["ok"] else f"FAIL {record.get('fault', '')}".strip()


def max_pool_repeats(device: torch.device) -> bool:
    """Whether overlapping windows of a batch give the same gradient three times."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 16, 32, 32, generator=generator).to(device).requires_grad_()
    y = F.max_pool2d(x, 3, 1, 1)
    dy = torch.randn(y.shape, generator=generator).to(device)
    first, *others = (torch.autograd.grad(y, x, dy, retain_graph=True)[0] for _ in range(3))
    return all(torch.equal(first, other) for other in others)


def _sanitized(tool: str, script: Path) -> dict[str, Any]:
    """The small cell under ``compute-sanitizer``; ``ok`` is ``None`` where that says nothing."""
    record: dict[str, Any] = {"what": f"compute-sanitizer, {tool}"}
    program = shutil.which("compute-sanitizer")
    if program is None:
        return record | {"ok": None, "note": "not installed"}
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "measuring.first"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=SECONDS_A_TOOL, cwd=script.parent
        )
    except subprocess.TimeoutExpired:
        return record | {"ok": None, "note": f"not finished after {SECONDS_A_TOOL} s"}
    said = "\n".join(done.stdout.strip().splitlines()[-3:])
    if done.returncode == 9:
        return record | {"ok": False, "fault": said.replace("\n", " ")}
    return record | ({"ok": True} if done.returncode == 0 else {"ok": None, "note": f"it ended with {done.returncode}"})


def main() -> None:
    """Run the small cell once, for a sanitizer to watch."""
    device = device_named("cuda", "first")
    subject = few()[0]
    given = [x.to(device.torch_device, torch.float32) for x in subject.arguments(0)]
    with interpreter():
        correctness.evaluate(subject, given, "triton")
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
