"""What do the compilers make of every kernel, in every form that the shipped spaces need?

Compiles for GPUs that need not be present and holds the code to its budget. Without --write it only prints. With it,
the worst cases go to results/kernel-assembly-<target>.md and all of them to results/kernel-assembly.json, where cases
that were not compiled this time stay as they were.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # launches are recorded here and compiled in processes of their own

import triton

from fastnas_kernels.audit.assembly import TARGETS
from fastnas_kernels.audit.gate import Verdict, judge
from fastnas_kernels.audit.record import Record, record, summary
from fastnas_kernels.cases import cases_for

RESULTS = Path(__file__).parent / "results"
CHUNK = 64


def main() -> None:
    """Compile, print, and write what was asked for."""
    arguments = parsed()
    broken = 0
    for target in arguments.targets:
        begin = time.perf_counter()
        cases = [case for case in cases_for(target) if arguments.only in case.name]
        verdicts = []
        for first in range(0, len(cases), CHUNK):  # what is done is kept if the rest is cut off
            verdicts += judge(cases[first : first + CHUNK], [target], arguments.processes)
            print(f"{target}: {len(verdicts)} of {len(cases)}", file=sys.stderr, flush=True)
            if arguments.write:
                remember(record(verdicts[first:]))
        spent = f"{time.perf_counter() - begin:.0f} s with {arguments.processes} processes"
        text = page(target, verdicts, spent)
        print(text, flush=True)
        broken += sum(bool(verdict.violations) for verdict in verdicts)
        if arguments.write:
            (RESULTS / f"kernel-assembly-{target}.md").write_text(text)
    sys.exit(bool(broken))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="GPUs to compile for")
    parser.add_argument("--only", default="", help="compile only cases with this in their name, such as `c=16 `")
    parser.add_argument("--processes", type=int, default=2, help="compilers at once")
    parser.add_argument("--write", action="store_true", help="put the tables into profiling/results")
    return parser.parse_args()


def page(target: str, verdicts: list[Verdict], spent: str) -> str:
    """The table of one target with the command that made it."""
    command = " ".join(["python", "profiling/kernel_assembly.py", *sys.argv[1:]])
    about = f"`{command}`, Triton {triton.__version__}, {spent}. No GPU was there and nothing was run."
    return f"# Kernels compiled for {target}\n\n{about}\n\n{summary(verdicts)}"


def remember(found: Record) -> None:
    """Add ``found`` to what is known of all cases."""
    path = RESULTS / "kernel-assembly.json"
    known: Record = json.loads(path.read_text()) if path.exists() else {}
    for name, targets in found.items():
        known[name] = dict(sorted((known.get(name, {}) | targets).items()))
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(known[name])}" for name in sorted(known))
    path.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
