"""What do the compilers make of every kernel, in every form that the shipped spaces need?

Compiles for GPUs that need not be present and holds the code to its budget. Without --write it only prints. With it,
all cases go to results/kernel-assembly.json, where those that were not compiled this time stay as they were, and the
worst of each kernel to results/kernel-assembly-<target>.md. What the oldest supported Triton makes of them goes to
results/kernel-assembly-oldest.*, and what is made of the cells in float64 to results/kernel-assembly-float64.*.

    python profiling/kernel_assembly.py --targets sm_90 --dtypes float64 --write

With another Triton than the installed one, from a folder of its own:

    pip install --no-deps --target FOLDER triton==3.6.0
    PYTHONPATH=FOLDER python profiling/kernel_assembly.py --targets sm_90 --write
"""

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # launches are recorded here and compiled in processes of their own

import torch
import triton

from fastnas_audit.assembly import TARGETS
from fastnas_audit.cases import cases_for
from fastnas_audit.gate import judge
from fastnas_audit.record import Record, record, record_name, summary

RESULTS = Path(__file__).parent / "results"
CHUNK = 64
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def main() -> None:
    """Compile, print, and write what was asked for."""
    arguments = parsed()
    name, broken = record_name(arguments.dtypes), 0
    for target in arguments.targets:
        begin = time.perf_counter()
        of_target = cases_for(target, [DTYPES[name] for name in arguments.dtypes])
        cases = [case for case in of_target if any(words in case.name for words in arguments.only)]
        verdicts, found = [], known(name) if arguments.write else {}
        for first in range(0, len(cases), CHUNK):  # what is done is kept if the rest is cut off
            verdicts += judge(cases[first : first + CHUNK], [target], arguments.processes)
            print(f"{target}: {len(verdicts)} of {len(cases)}", file=sys.stderr, flush=True)
            for case, targets in record(verdicts[first:]).items():
                found[case] = dict(sorted((found.get(case, {}) | targets).items()))
            if arguments.write:
                remember(name, found, arguments.dtypes)
        spent = f"{len(cases)} of {len(of_target)} cases in {time.perf_counter() - begin:.0f} s"
        shown = summary(of_target if arguments.write else cases, target, found)
        text = page(target, f"{spent} with {arguments.processes} processes", shown)
        print(text, flush=True)
        for verdict in verdicts:
            if verdict.violations:
                broken += 1
                print(f"{verdict.case.name} on {target}: {'; '.join(verdict.violations)}", file=sys.stderr)
        if arguments.write:
            (RESULTS / f"{name}-{target}.md").write_text(text)
    sys.exit(bool(broken))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="GPUs to compile for")
    only = "compile only cases with one of these in their name, such as `c=16 `"
    parser.add_argument("--only", nargs="+", default=[""], help=only)
    parser.add_argument("--processes", type=int, default=2, help="compilers at once")
    exact = "compile the cells' kernels in these; without it, all kernels in float32 and bfloat16, as recorded"
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=[], help=exact)
    parser.add_argument("--write", action="store_true", help="put the tables into profiling/results")
    arguments = parser.parse_args()
    if arguments.write and arguments.dtypes not in ([], ["float64"]):
        parser.error("--write records float32 and bfloat16, or float64: leave out --dtypes, or --write")
    others = sorted(recorded_with(record_name(arguments.dtypes), arguments.targets) - {triton.__version__})
    if arguments.write and others and arguments.only != [""]:
        rule = f"--write with --only needs the Triton of the record, {', '.join(others)}"
        parser.error(f"{rule}, got {triton.__version__}: leave out --only to record everything anew, or --write")
    return arguments


def recorded_with(name: str, targets: Sequence[str]) -> set[str]:
    """The versions of Triton that made the pages of ``targets``."""
    pages = [RESULTS / f"{name}-{target}.md" for target in targets]
    return {found for path in pages if path.exists() for found in re.findall(r"Triton ([\d.]+),", path.read_text())}


def page(target: str, spent: str, table: str) -> str:
    """The table of one target with the command that made it; where it was made in parts, with the latest of them."""
    command = shlex.join(["python", "profiling/kernel_assembly.py", *sys.argv[1:]])
    parts = "Compiled in parts, each with an `--only` of its own; the latest: " if "--only" in sys.argv else ""
    about = f"{parts}`{command}`, Triton {triton.__version__}, {spent}. No GPU was there and nothing was run."
    return f"# Kernels compiled for {target}\n\n{about}\n\n{table}"


def known(name: str) -> Record:
    """What was seen of all cases so far."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def remember(name: str, found: Record, dtypes: Sequence[str]) -> None:
    """Keep what was seen of the cases that there are."""
    of = [DTYPES[dtype] for dtype in dtypes]
    cases = {target: {case.name for case in cases_for(target, of)} for target in TARGETS}
    kept = {name: {t: seen for t, seen in targets.items() if name in cases[t]} for name, targets in found.items()}
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(kept[case])}" for case in sorted(kept) if kept[case])
    (RESULTS / f"{name}.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
