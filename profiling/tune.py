"""Which sizes of programs are fastest on this GPU? Measures and writes a new table of tiles; nothing else ever tunes.

For each entry of the shipped table, one family of kernels after another (stage, pointwise, filters, elementwise, then
halves, edges, splits, windows and sums) is given every candidate while the others keep what is best so far. What counts
is a whole DARTS cell, forward and backward, replayed as a CUDA graph, in float32 and in bfloat16: the geometric mean of
both ratios. A candidate is taken only if its results are as close to those of the shipped tiles as these are to
eager's.

    python profiling/tune.py --minutes 8
    python profiling/tune.py --channels 16 32 --out kernels/fastnas_kernels/mixed_op/tiles.json
    TRITON_INTERPRET=1 python profiling/tune.py --device cpu --dry
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from measuring.absent import stand_in

stand_in()  # before the library is imported, which names packages that nothing here calls

from fastnas.files import write_atomically  # noqa: E402
from fastnas_kernels.check import complaint, invalid  # noqa: E402
from fastnas_kernels.mixed_op import launch  # noqa: E402
from fastnas_kernels.mixed_op.tables import Tiles, shipped_table, tiles_from_json, whole_entry  # noqa: E402
from measuring.cells import CONTENDERS, Cell, arguments_of, darts_plan, step, tiny_plan, whole  # noqa: E402
from measuring.correctness import FACTOR, LEAST, first_line, relative_errors  # noqa: E402
from measuring.device import FAULTS, Device, device_named, exact_float32, interpreter, medians  # noqa: E402
from measuring.options import parsed  # noqa: E402
from measuring.writing import provenance, slug  # noqa: E402

FAMILIES = ("stage", "pointwise", "filters", "elementwise")
SIZES = {4: (64, 32), 8: (64, 32), 16: (64, 32), 32: (64, 32), 64: (64, 8), 128: (64, 8), 256: (64, 4)}
"""Images and side of the cell on which an entry's channels are measured."""
GAIN = 0.98
"""A candidate has to take at most this share of the time of the best so far: less is noise."""
Entry = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Measure tiles and write a table of the form of mixed_op/tiles.json.

    Args:
        device: cuda, cuda:<n>, or cpu together with dry.
        dry: Try everything at its smallest, in Triton's interpreter if there is no GPU; what is written is no tuning.
        channels: Tune only the entries for these; all others stay as they are.
        target: Tune only entries with this target; by default those that name none.
        minutes: After these, what is not tuned yet stays as it is.
        runs: Timed runs of each candidate.
        out: The new table; by default profiling/results/<device>-tiles.json, from where it has to be copied.
    """

    device: str = "cuda"
    dry: bool = False
    channels: tuple[int, ...] = ()
    target: str | None = None
    minutes: float = 8.0
    runs: int = 30
    out: Path | None = None


class Trial(NamedTuple):
    """The cell in one dtype: how to run it, its results with the shipped tiles, and how far off these may be."""

    run: Callable[[], list[Tensor]]
    expected: list[Tensor]
    allowed: float


def candidates(family: str, entry: Entry, dry: bool) -> list[Any]:
    """What may stand under ``family``, beside what does."""
    widest = entry["channels"]
    if family == "edges":
        # Several edges a program only if a tile has all channels
        found: list[Any] = [1, 2, 3, 4] if entry["stage"][1] >= widest else [1]
    elif family == "splits":
        found = [8, 16, 32, 64, 128]
    elif family == "halves":
        found = [[stretches, abreast] for stretches in (16, 32, 64, 128) for abreast in (1, 2, 4)]
    elif family == "windows":
        found = [1, 2]
    elif family == "sums":
        found = [1, 2] if entry.get("windows", 1) > 1 else [1]
    else:
        found = [
            [pixels, channels, warps]
            for pixels in (16, 32, 64, 128, 256)
            for channels in (4, 8, 16, 32, 64, 128)
            for warps in (2, 4, 8)
            if min(16, widest) <= channels <= widest
            and 256 <= pixels * channels <= 4096
            # Less than all channels in the stage would break the edges that share a program
            and (family != "stage" or entry["edges"] == 1 or channels >= widest)
        ]
    others = [value for value in found if value != value_of(entry, family)]
    return others[:1] if dry else others


def value_of(entry: Entry, family: str) -> Any:
    """What stands under ``family``, or serves where nothing does."""
    defaults = {"sums": entry.get("windows", 1), "halves": [entry["stage"][0], 1]}
    return entry.get(family, defaults.get(family, 1))


def completed(entry: Entry) -> Entry:
    """An entry with what it leaves to that for every target."""
    return entry if "target" not in entry else whole_entry(entry["channels"], entry["dtype"], entry["target"])


def differences(entry: Entry) -> Entry:
    """An entry for a target without what it shares with that for every other."""
    if "target" not in entry:
        return entry
    others = whole_entry(entry["channels"], entry["dtype"], "")
    return {key: value for key, value in entry.items() if key in ("channels", "dtype") or others.get(key) != value}


def with_tiles(tiles: Tiles, run: Callable[[], list[Tensor]]) -> Callable[[], list[Tensor]]:
    """``run`` with ``tiles`` instead of those of the table."""

    def call() -> list[Tensor]:
        with patch.object(launch, "tiles_for", lambda *_: tiles):
            return run()

    return call


def dtypes_of(entry: Entry) -> list[torch.dtype]:
    """The dtypes that an entry serves: its own, or those that no other entry of its width is for."""
    if "dtype" in entry:
        return [getattr(torch, entry["dtype"])]
    alike = ("channels", "target")
    taken = {other.get("dtype") for other in shipped_table() if all(other.get(x) == entry.get(x) for x in alike)}
    return [dtype for dtype in (torch.float32, torch.bfloat16) if str(dtype).removeprefix("torch.") not in taken]


def trials(device: Device, entry: Entry, dry: bool) -> list[Trial]:
    """The cell of an entry in the dtypes that it serves, with the results of the shipped tiles."""
    channels = entry["channels"]
    cell = Cell("dry", tiny_plan(), 1, 3) if dry else Cell("", darts_plan(channels), *SIZES.get(channels, (64, 8)))
    found = []
    for dtype in (torch.float32,) if dry else dtypes_of(entry):
        arguments = arguments_of(cell, dtype, device.torch_device)
        fused, eager = (whole(*step(CONTENDERS[name], arguments, cell.plan, "both")) for name in ("fused", "batched"))
        expected = [x.clone() for x in with_tiles(tiles_from_json(dict(entry)), fused)()]
        with exact_float32():
            distance = max(relative_errors(expected, eager()))
        found.append(Trial(fused, expected, max(FACTOR * distance, LEAST[dtype])))
    return found


def ready(device: Device, trial: Trial, entry: Entry) -> Callable[[], list[Tensor]]:
    """The trial with the tiles of ``entry``, as a graph where the device has graphs, and known to be right.

    Raises:
        ValueError: If its results are not those of the shipped tiles.
    """
    run = with_tiles(tiles_from_json(dict(entry)), trial.run)
    distance = max(relative_errors(run(), trial.expected))
    if not distance <= trial.allowed:
        rule = f"results must be within {trial.allowed:.1e} of those of the shipped tiles"
        raise invalid("tune", rule, f"{distance:.1e}")
    return run if device.torch_device.type == "cpu" else device.captured(run)


def tuned(device: Device, shipped: Entry, settings: Tune, has_time: Callable[[], bool]) -> Entry:
    """The best entry that was found, beginning with the shipped one."""
    of_dtypes, best = trials(device, shipped, settings.dry), dict(shipped)
    for family in (*FAMILIES, "halves", "edges", "splits", "windows", "sums"):
        for value in candidates(family, best, settings.dry):
            if not has_time():
                print("  time is over", flush=True)
                return best
            changed = best | {family: value}
            try:
                ratio = 1.0
                for trial in of_dtypes:
                    pair = {"old": ready(device, trial, best), "new": ready(device, trial, changed)}
                    seconds = medians(device, pair, settings.runs)
                    ratio *= seconds["new"] / seconds["old"]
            except FAULTS as fault:
                print(f"  {family} {value}: {first_line(fault)}", flush=True)
                continue
            ratio = ratio if len(of_dtypes) == 1 else sqrt(ratio)
            taken = ratio <= GAIN
            print(
                f"  {family} {value}: {ratio:.3f} of {value_of(best, family)}{', taken' if taken else ''}", flush=True
            )
            best = changed if taken else best
    return best


def table_text(entries: Sequence[Entry]) -> str:
    """The table as it is shipped: an entry a line."""
    return "[\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in entries) + "\n]\n"


def main(settings: Tune) -> None:
    """Tune and write.

    Raises:
        RuntimeError: If there is no GPU to tune for, or Triton interprets, unless ``dry``.
        ValueError: If no entry of the table is asked for.
    """
    device = device_named(settings.device, "tune")
    if device.torch_device.type == "cpu" and not settings.dry:
        remedy = "Take a GPU, or --dry to try the script."
        raise RuntimeError(complaint("tune", "tiles must be measured on a GPU", "Triton's interpreter", remedy))
    ends = monotonic() + 60 * settings.minutes
    chosen = [
        entry.get("target") == settings.target and (not settings.channels or entry["channels"] in settings.channels)
        for entry in shipped_table()
    ]
    if not any(chosen):
        raise invalid("tune", "an entry must be for these channels and this target", settings.channels)
    origin = provenance(device.properties())
    print("\n".join(f"{key}: {value}" for key, value in origin.items()), flush=True)
    out = settings.out or Path(__file__).parent / "results" / f"{slug(origin['name'])}-tiles.json"
    entries: list[Entry] = list(shipped_table())
    for number, entry in enumerate(entries):
        if chosen[number]:
            print(f"{entry['channels']} channels:", flush=True)
            with interpreter():
                found = tuned(device, completed(entry), settings, lambda: monotonic() < ends)
            entries[number] = differences(found)
            text = table_text(entries)
            write_atomically(out, lambda file, text=text: file.write(text.encode()))  # now: what is done is done
    print(f"{out}: {sum(new != old for new, old in zip(entries, shipped_table(), strict=True))} entries changed")


if __name__ == "__main__":
    main(parsed(Tune, sys.argv[1:], __doc__))
