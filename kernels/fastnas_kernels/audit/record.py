"""Remembers what the compiler made of every case, so that a change for the worse is seen."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastnas_kernels.audit.assembly import Assembly
from fastnas_kernels.audit.gate import Budget, Verdict, violations

REGISTERS = 8  # a thread gets them by the eight; a patch release of a compiler may move one of those
SHARE = 0.03

Record = dict[str, dict[str, dict[str, Any]]]
"""What was seen of each case on each target."""


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


def summary(verdicts: Sequence[Verdict]) -> str:
    """A Markdown table with a row for each kernel and target, the worst of its cases, each number for itself; and below
    it every budget that is broken, and the reasons for those that are loose."""
    head = ["kernel", "target", "cases", "registers", "spills", "shared bytes", "128 bits", "instructions", "broken"]
    rows = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((_kernel(verdict), verdict.target), []).append(verdict)
    rows += [[*names, *_worst(groups[names])] for names in sorted(groups)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    return (
        "\n".join([*table, *_listed("Broken:", _broken(verdicts)), *_listed("Exceptions:", _reasons(verdicts))]) + "\n"
    )


def _kernel(verdict: Verdict) -> str:
    return verdict.case.name.split()[0]


def _worst(group: Sequence[Verdict]) -> list[str]:
    codes = [verdict.assembly for verdict in group if verdict.assembly is not None]
    numbers = [
        max((code.registers for code in codes), default=0),
        max((code.spills for code in codes), default=0),
        max((code.shared_bytes for code in codes), default=0),
        f"{min((code.vector_share for code in codes), default=0):.0%}",
        max((code.instructions for code in codes), default=0),
    ]
    return list(map(str, [len(group), *numbers, sum(bool(verdict.violations) for verdict in group)]))


def _broken(verdicts: Sequence[Verdict]) -> list[str]:
    return [f"{v.case.name} on {v.target}: {'; '.join(v.violations)}" for v in verdicts if v.violations]


def _reasons(verdicts: Sequence[Verdict]) -> list[str]:
    """Each exception with its reason once for every kernel that makes use of it."""
    found: dict[str, set[str]] = {}
    for verdict in verdicts:
        budget = verdict.case.budget_on(verdict.target)
        if verdict.assembly is not None and violations(verdict.assembly, Budget()):
            for name, reason in budget.reasons.items():
                words = f"{name} {getattr(budget, name)}, because {reason}"
                found.setdefault(words, set()).add(_kernel(verdict))
    return [f"{', '.join(sorted(kernels))}: {words}" for words, kernels in found.items()]


def _listed(title: str, items: Sequence[str]) -> list[str]:
    return ["", title, "", *(f"- {' '.join(item.split())}" for item in items)] if items else []
