"""Remembers what the compiler made of every case, so that a change for the worse is seen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import triton

from fastnas_audit.assembly import Assembly
from fastnas_audit.gate import Budget, Case, Verdict, violations

REGISTERS = 8  # a thread gets them by the eight; a patch release of a compiler may move one of those
SHARE = 0.03

Record = dict[str, dict[str, dict[str, Any]]]
"""What was seen of each case on each target."""


OLDEST = "3.6."
"""What the versions of the oldest supported Triton begin with."""


def is_oldest() -> bool:
    """Whether the installed Triton is of the oldest supported version."""
    return triton.__version__.startswith(OLDEST)


def record_name(dtypes: Sequence[str] = ()) -> str:
    """Under which name it is kept what the installed Triton makes of the kernels in ``dtypes``: the oldest has a record
    of its own, and so does float64."""
    return "-".join(("kernel-assembly", *["oldest"] * is_oldest(), *dtypes))


def record(verdicts: Iterable[Verdict]) -> Record:
    """The numbers of ``verdicts`` that must not get worse, by the case's name and the target."""
    found: Record = {}
    for verdict in verdicts:
        if verdict.assembly is not None:
            found.setdefault(verdict.case.name, {})[verdict.target] = _seen(verdict.assembly)
    return found


def _seen(assembly: Assembly) -> dict[str, Any]:
    return {
        "registers": assembly.registers,
        "spills": assembly.spills,
        "shared_bytes": assembly.shared_bytes,
        "vector_share": round(assembly.vector_share, 3),
    }


def regressions(verdicts: Iterable[Verdict], before: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Every number of ``verdicts`` that is worse than ``before`` by more than a whim of the compiler, in words."""
    found = []
    for verdict in verdicts:
        where, case = f"{verdict.case.name} on {verdict.target}", before.get(verdict.case.name, {})
        if verdict.assembly is None or verdict.target not in case:
            found.append(f"{where}: {'does not compile' if verdict.assembly is None else 'is not recorded'}")
            continue
        now, then = _seen(verdict.assembly), case[verdict.target]
        worse = {
            "registers": now["registers"] > then["registers"] + REGISTERS,
            "spills": now["spills"] > then["spills"],
            "shared_bytes": now["shared_bytes"] > then["shared_bytes"],
            "vector_share": now["vector_share"] < then["vector_share"] - SHARE,
        }
        found += [f"{where}: {name} {then[name]} became {now[name]}" for name, is_so in worse.items() if is_so]
    return found


def summary(cases: Sequence[Case], target: str, known: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A Markdown table with a row for each kernel, the worst of its cases on ``target``, each number for itself; and
    below it every budget that is broken, and the reasons for those that are loose. All from what is ``known``."""
    head = ["kernel", "cases", "registers", "spills", "shared bytes", "128 bits", "broken"]
    groups: dict[str, list[_Row]] = {}
    for case in cases:
        found = known.get(case.name, {}).get(target)
        seen = None if found is None else Seen(target, **found)
        groups.setdefault(_kernel(case), []).append(_Row(case, seen))
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    rows += [[kernel, *_worst(groups[kernel])] for kernel in sorted(groups)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    of_all = [row for kernel in sorted(groups) for row in groups[kernel]]
    return "\n".join([*table, *_listed("Broken:", _broken(of_all)), *_listed("Exceptions:", _reasons(of_all))]) + "\n"


@dataclass(frozen=True)
class Seen:
    """What a record holds of one case, as far as a budget limits it."""

    target: str
    registers: int
    spills: int
    shared_bytes: int
    vector_share: float

    @property
    def spill_bytes(self) -> int:
        """Memory that is reserved for spills is recorded only by its use."""
        return 0


class _Row(NamedTuple):
    case: Case
    seen: Seen | None

    @property
    def violations(self) -> list[str]:
        if self.seen is None:
            return ["is not recorded"]
        return violations(self.seen, self.case.budget_on(self.seen.target))


def _kernel(case: Case) -> str:
    return case.name.split()[0]


def _worst(group: Sequence[_Row]) -> list[str]:
    codes = [row.seen for row in group if row.seen is not None]
    numbers = [
        max((code.registers for code in codes), default=0),
        max((code.spills for code in codes), default=0),
        max((code.shared_bytes for code in codes), default=0),
        f"{min((code.vector_share for code in codes), default=0):.0%}",
    ]
    return list(map(str, [len(group), *numbers, sum(bool(row.violations) for row in group)]))


def _broken(rows: Sequence[_Row]) -> list[str]:
    return [f"{row.case.name}: {'; '.join(row.violations)}" for row in rows if row.violations]


def _reasons(rows: Sequence[_Row]) -> list[str]:
    """Each exception with its reason once for every kernel that makes use of it."""
    found: dict[str, set[str]] = {}
    for case, seen in rows:
        if seen is not None and violations(seen, Budget()):
            budget = case.budget_on(seen.target)
            for name, reason in budget.reasons.items():
                words = f"{name} {getattr(budget, name)}, because {reason}"
                found.setdefault(words, set()).add(_kernel(case))
    return [f"{', '.join(sorted(kernels))}: {words}" for words, kernels in found.items()]


def _listed(title: str, items: Sequence[str]) -> list[str]:
    return ["", title, "", *(f"- {' '.join(item.split())}" for item in items)] if items else []
