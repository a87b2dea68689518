"""What are the instructions of the innermost loops for?

Compiles the forms that a cell launches for a GPU that need not be present, and splits the instructions of each
innermost loop by their kind. A loop over the taps of a filter is one such, a loop over the branches of a node another.
Nothing is run and nothing is multiplied by trip counts: the table says what one pass issues, not how often.

    python profiling/kernel_instructions.py
    python profiling/kernel_instructions.py --only stage depthwise_weights --target sm_80 --write
"""

import argparse
import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # launches are recorded here and compiled in processes of their own

import triton

from fastnas_audit.assembly import TARGETS, Assembly
from fastnas_audit.cell_cases import cases
from fastnas_audit.elsewhere import Job, assemblies, reference
from fastnas_audit.gate import Case
from fastnas_audit.instructions import KINDS, share_of_products

RESULTS = Path(__file__).parent / "results"


def chosen(channels: int, only: list[str]) -> list[Case]:
    """The forms of cells whose candidates see ``channels``, at stride 1."""
    return [
        case
        for case in cases("cuda")
        if case.constants["C"] == channels
        and case.constants.get("STRIDE", 1) == 1
        and any(case.name.startswith(words) for words in only)
    ]


def table(found: list[tuple[Case, Assembly]]) -> str:
    """A row for the largest innermost loop of each form that has one."""
    rows = [["form", "loops", "registers", "instructions", *KINDS, "products"]]
    rows.append(["---"] + ["---:"] * (len(rows[0]) - 1))
    for case, code in found:
        if code.loops:
            mix = max(code.loops, key=lambda loop: sum(loop.values()))
            numbers = [len(code.loops), code.registers, sum(mix.values()), *(mix[kind] for kind in KINDS)]
            rows.append([case.name, *map(str, numbers), f"{share_of_products(mix):.0%}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def main() -> None:
    """Compile, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=[t for t in TARGETS if t.startswith("sm")], default="sm_90")
    parser.add_argument("--channels", type=int, default=16, help="that the candidates see")
    parser.add_argument("--only", nargs="+", default=[""], help="kernels whose names begin so")
    parser.add_argument("--processes", type=int, default=2, help="compilers at once")
    parser.add_argument("--write", action="store_true", help="put the table into profiling/results")
    settings = parser.parse_args()
    forms = chosen(settings.channels, settings.only)
    jobs = [
        Job(
            reference(c.kernel), c.signature, settings.target, c.constants, c.num_warps, c.num_stages, c.maxnreg,
            c.divisible_by_16,
        )
        for c in forms
    ]  # fmt: skip
    found = [
        (c, a) for c, a in zip(forms, assemblies(jobs, settings.processes), strict=True) if isinstance(a, Assembly)
    ]
    command = " ".join(["python", "profiling/kernel_instructions.py", *sys.argv[1:]])
    about = f"`{command}`, Triton {triton.__version__}. No GPU was there and nothing was run."
    text = f"# Innermost loops on {settings.target}, {settings.channels} channels\n\n{about}\n\n{table(found)}"
    print(text)
    if settings.write:
        (RESULTS / f"kernel-instructions-{settings.target}.md").write_text(text)


if __name__ == "__main__":
    main()
