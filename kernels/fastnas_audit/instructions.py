"""What the instructions of a loop are for: a kernel that is limited by issue spends its time in its innermost loops."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

KINDS = ("multiply-add", "matrix", "other floating point", "integer and address", "memory", "control")
_PATTERN = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);", re.MULTILINE)
_MEMORY = re.compile(r"(U?LDC|LD|LDG|LDS|LDSM|LDL|LDGSTS|LDGDEPBAR|ST|STG|STS|STL|ATOM|ATOMG|ATOMS|RED|REDG|U?LDCU)")
_CONTROL = re.compile(
    r"(BRA|BRX|BSSY|BSYNC|BREAK|EXIT|BAR|WARPSYNC|WARPGROUP|NOP|CALL|RET|DEPBAR|YIELD|MEMBAR|ERRBAR|CCTL|FENCE)"
)
_MATRIX = re.compile(r"([HIDBQO]|HG|IG|BG|QG)MMA|UTC\w*MMA")


class Instruction(NamedTuple):
    """One instruction: where it stands, its name without suffixes, and where it jumps, ``None`` if it does not."""

    address: int
    name: str
    target: int | None


def instructions(code: str) -> list[Instruction]:
    """The instructions in the text that ``cuobjdump -sass`` writes, in their order."""
    found = []
    for address, operation, rest in _PATTERN.findall(code):
        name = operation.split(".")[0]
        jump = re.search(r"0x([0-9a-f]+)", rest) if name == "BRA" else None
        found.append(Instruction(int(address, 16), name, int(jump[1], 16) if jump else None))
    return found


def kind_of(name: str) -> str:
    """One of :data:`KINDS`."""
    if name in ("FFMA", "FFMA2", "HFMA2", "DFMA"):
        return "multiply-add"
    if _MATRIX.fullmatch(name):
        return "matrix"
    if _MEMORY.fullmatch(name):
        return "memory"
    if _CONTROL.fullmatch(name):
        return "control"
    return "other floating point" if re.match(r"[FHD](?!LO)|MUFU", name) else "integer and address"


def innermost_loops(code: Iterable[Instruction]) -> list[dict[str, int]]:
    """How many instructions of each kind stand in every loop that holds no other, by their places.

    A loop is what a jump backwards spans. The jump of a kernel's last instruction to itself is none.
    """
    code = list(code)
    spans = [(i.target, i.address) for i in code if i.target is not None and i.target < i.address]
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return [_mix(i.name for i in code if first <= i.address <= last) for first, last in sorted(set(inner))]


def _mix(names: Iterable[str]) -> dict[str, int]:
    counts = Counter(map(kind_of, names))
    return {kind: counts[kind] for kind in KINDS}


def share_of_products(mix: Mapping[str, int]) -> float:
    """The share of a loop's instructions that multiply and add."""
    return (mix["multiply-add"] + mix["matrix"]) / max(sum(mix.values()), 1)
