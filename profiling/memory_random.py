"""Is the peak of any configuration what was predicted? Configurations are drawn at random, each by its seed.

Predictions run a step on tensors without memory. Measurements run it on real ones and follow every storage, and ask the
operating system in a fresh process. Every configuration is written down once it is measured: a second start goes on.

    python profiling/memory_random.py --out profiling/results/memory-random-cpu.md
"""

import json
import multiprocessing
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
import tyro

from fastnas.files import append_json_line, read_json_lines
from fastnas.memory.scene import CPU
from measuring.memory_cases import compared, random_case, resident
from measuring.writing import Section, provenance


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which configurations to measure.

    Args:
        count: Configurations, of the seeds from zero.
        records: Where each one's numbers are kept, JSON lines.
        minutes: CPU time after which no further one begins.
        out: A Markdown file to write as well.
    """

    count: int = 50
    records: Path = Path("memory-random.jsonl")
    minutes: float = 15.0
    out: Path | None = None


def measure_case(seed: int) -> dict[str, Any]:
    """Bytes of the configuration of ``seed``: predicted, tracked, and seen by the operating system."""
    title, setup = random_case(seed)
    started = perf_counter()
    predicted, measured = compared(setup, CPU)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["measuring.memory_cases"])
    with context.Pool(1) as pool:  # a fresh process: what was freed in this one would hide what is taken
        seen, given = pool.apply(resident, (random_case, seed))
    seconds = perf_counter() - started
    return {
        "seed": seed,
        "title": title,
        "predicted": predicted,
        "measured": measured,
        "predicted_above": predicted - given,
        "resident_above": seen,
        "seconds": round(seconds, 2),
    }


def describe(records: list[dict[str, Any]], count: int) -> Section:
    """The table of the configurations, and what it says in short.

    Args:
        records: What :func:`measure_case` returned.
        count: How many there are to be.
    """
    rows, errors, excesses = [], [], []
    for record in records:
        errors.append(record["predicted"] / record["measured"] - 1)
        excesses.append((record["resident_above"] - record["predicted_above"]) / 1e6)
        sizes = [f"{record[name] / 1e6:.2f}" for name in ("predicted", "measured")]
        rows.append([str(record["seed"]), record["title"], *sizes, f"{errors[-1]:+.4%}", f"{excesses[-1]:+.1f}"])
    sizes = [abs(error) for error in errors]
    below = sum(error < 0 for error in errors)
    notes = [
        f"{len(rows)} configurations of {count}: median error {median(sizes):.4%}, largest {max(sizes):.4%}; {below} "
        f"predictions were too low. MB of the largest phase, weights and all.",
        "What the operating system sees of the same step in a fresh process, resident memory beyond what it had "
        f"before, is {median(excesses):.1f} MB more than predicted in the median ({min(excesses):.1f} to "
        f"{max(excesses):.1f}): "
        f"what operations hold inside, and what allocators keep. A plan for ram leaves 512 MiB and a tenth for that.",
    ]
    columns = ("seed", "configuration", "predicted", "measured", "error", "resident beyond predicted")
    return Section("Is the peak of any configuration what was predicted?", columns, rows, notes, ok=max(sizes) <= 0.01)


def main(options: Options) -> int:
    """Measure what is not measured yet; the exit status says whether all errors are below 1 %."""
    torch.set_num_threads(1)
    known = {record["seed"]: record for record in read_json_lines(options.records)}
    for seed in range(options.count):
        if seed not in known and process_time() < 60 * options.minutes:
            known[seed] = measure_case(seed)
            append_json_line(options.records, known[seed])
            print(json.dumps(known[seed]), flush=True)
    section = describe([known[seed] for seed in sorted(known) if seed < options.count], options.count)
    lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout.splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("Model name")), "unknown")
    about = "\n".join(f"{key}: {value}" for key, value in provenance({"device": processor}).items())
    text = f"{section}\n```\n{about}\n```\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text)
    return 0 if section.ok and len(known) >= options.count else 1


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
