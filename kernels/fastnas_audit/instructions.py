"""What the instructions of a kernel are for, and how often each stretch of them is passed.

The compiler notes the line of the source that each instruction stems from. The jump that closes a loop stems from its
``for``, so the number of passes is what that line's ``range`` says. What is there for one size or one dilation of a
filter alone stands in an ``if kernel == ...`` or ``if dilation == ...``.
"""

import ast
import linecache
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import permutations
from typing import NamedTuple

KINDS = ("multiply-add", "matrix", "other floating point", "integer and address", "memory", "control")
HALF_RATE = "half rate"
"""Those, of whatever kind, that a multiprocessor starts half as many of a cycle as multiply-adds."""
_PATTERN = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);", re.MULTILINE)
_PLACE = re.compile(r'^\s*//## File "([^"]+)", line (\d+)|^\s+/\*([0-9a-f]{4,})\*/', re.MULTILINE)
_CONDITION = re.compile(r"(kernel|dilation) == \d+")
_RANGE = re.compile(r"\s*for \w+ in (?:tl\.)?range\((.*)\):")
_MEMORY = re.compile(r"(U?LDC|LD|LDG|LDS|LDSM|LDL|LDGSTS|LDGDEPBAR|ST|STG|STS|STL|ATOM|ATOMG|ATOMS|RED|REDG|U?LDCU)")
_CONTROL = re.compile(
    r"(BRA|BRX|BSSY|BSYNC|BREAK|EXIT|BAR|WARPSYNC|WARPGROUP|NOP|CALL|RET|DEPBAR|YIELD|MEMBAR|ERRBAR|CCTL|FENCE)"
)
_MATRIX = re.compile(r"([HIDBQO]|HG|IG|BG|QG)MMA|UTC\w*MMA")
_OTHER_UNITS = re.compile(r"U\w+|S2R|CS2R|SHFL|R2UR|POPC|VOTE\w*")  # uniform, special and cross-lane ones
_COMPARISONS = re.compile(r"FMNMX|FSETP|FSEL|FSET|HMNMX2|HSETP2")


class Instruction(NamedTuple):
    """One instruction: where it stands, its name without suffixes, and where it jumps, ``None`` if it does not."""

    address: int
    name: str
    target: int | None


class Stretch(NamedTuple):
    """The instructions of each kind that stand in the same loops and under the same conditions.

    ``nest`` has what the ``range`` of each loop says, from the outermost to the innermost, in the words of the source;
    empty outside of all loops. Where the compiler has unrolled a loop, ``unrolled=4`` is added, and ``rest=4`` to the
    loop that takes what is left over. ``conditions`` are on the size or the dilation of a filter, each with whether it
    must hold.
    """

    nest: tuple[str, ...]
    conditions: tuple[tuple[str, bool], ...]
    mix: Mapping[str, int]


Place = tuple[str, int]
"""A file and a line in it."""


def instructions(code: str) -> list[Instruction]:
    """The instructions in the text that ``cuobjdump -sass`` writes, in their order."""
    found = []
    for address, operation, rest in _PATTERN.findall(code):
        name = operation.split(".")[0]
        jump = re.search(r"0x([0-9a-f]+)", rest) if name == "BRA" else None
        found.append(Instruction(int(address, 16), name, int(jump[1], 16) if jump else None))
    return found


def places(text: str) -> dict[int, tuple[Place, ...]]:
    """The places that each instruction stems from, by its address, in what ``nvdisasm -gi`` writes: that in the
    innermost function, then where that was inlined, and so on."""
    found: dict[int, tuple[Place, ...]] = {}
    group: tuple[Place, ...] = ()
    fresh = True
    for file, line, address in _PLACE.findall(text):
        if address:
            found[int(address, 16)], fresh = group, True
        else:
            group, fresh = ((file, int(line)),) if fresh else (*group, (file, int(line))), False
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


def is_half_rate(name: str) -> bool:
    """Whether a multiprocessor has half as many units for it as for multiply-adds: integers, logic, comparisons."""
    if kind_of(name) == "integer and address":
        return not _OTHER_UNITS.fullmatch(name)
    return _COMPARISONS.fullmatch(name) is not None


def stretches(code: Iterable[Instruction], of: Mapping[int, tuple[Place, ...]]) -> list[Stretch]:
    """The instructions of ``code`` by the loops in which they stand; ``of`` has the places of each in the source.

    A loop is what a jump backwards spans. The jump of a kernel's last instruction to itself is none.

    Raises:
        ValueError: If a jump backwards stems from another line than that of a ``for``.
    """
    code = list(code)
    spans = {(i.target, i.address) for i in code if i.target is not None and i.target < i.address}
    ordered = sorted(spans, key=lambda span: span[0] - span[1])  # the longest, which is outermost, first
    names = [_range_at(of.get(last, (("", 0),))[0]) for _, last in ordered]
    names = [name + flag for name, flag in zip(names, _unrolled(ordered, names, code, of), strict=True)]
    found: dict[tuple, Counter[str]] = {}
    for i in code:
        around = tuple(k for k, (first, last) in enumerate(ordered) if first <= i.address <= last)
        mix = found.setdefault((around, _conditions_at(of.get(i.address, ()))), Counter())
        mix[kind_of(i.name)] += 1
        mix[HALF_RATE] += is_half_rate(i.name)
    return [
        Stretch(tuple(names[k] for k in around), conditions, dict(mix)) for (around, conditions), mix in found.items()
    ]


def _unrolled(
    ordered: Sequence[tuple[int, int]], names: Sequence[str], code: Sequence[Instruction],
    of: Mapping[int, tuple[Place, ...]],
) -> list[str]:  # fmt: skip
    """What to say of each loop that has another's accesses to memory several times, and of that other, which takes the
    trips that are left over. (The two ways through a loop for two sizes of filters stem from different lines.)"""
    accesses = [
        Counter(of.get(i.address, ()) for i in code if first <= i.address <= last and kind_of(i.name) == "memory")
        for first, last in ordered
    ]
    flags = [""] * len(ordered)
    for a, b in permutations(range(len(ordered)), 2):
        apart = ordered[a][1] < ordered[b][0] or ordered[b][1] < ordered[a][0]
        factors = {accesses[a][place] / number for place, number in accesses[b].items()}
        if apart and names[a] == names[b] and accesses[a].keys() == accesses[b].keys() and len(factors) == 1:
            factor = factors.pop()
            if factor > 1 and factor.is_integer():
                flags[a], flags[b] = f", unrolled={factor:g}", f", rest={factor:g}"
    return flags


def _range_at(place: Place) -> str:
    match = _RANGE.match(linecache.getline(*place))
    if match is None:
        raise ValueError(f"stretches: a jump backwards must stem from a `for` over a range, got {place[0]}:{place[1]}")
    return match[1]


def _conditions_at(chain: Iterable[Place]) -> tuple[tuple[str, bool], ...]:
    return tuple(sorted({condition for file, line in chain for condition in _conditions_in(file).get(line, ())}))


@cache
def _conditions_in(file: str) -> Mapping[int, tuple[tuple[str, bool], ...]]:
    """The conditions on a filter that hold in each line of a file."""
    found: dict[int, tuple[tuple[str, bool], ...]] = {}
    text = "".join(linecache.getlines(file))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.If) and _CONDITION.fullmatch(test := ast.unparse(node.test)):
            for holds, body in ((True, node.body), (False, node.orelse)):
                for line in range(body[0].lineno, (body[-1].end_lineno or 0) + 1) if body else ():
                    found[line] = (*found.get(line, ()), (test, holds))
    return found


def share_of_products(mix: Mapping[str, float]) -> float:
    """The share of instructions that multiply and add."""
    return (mix.get("multiply-add", 0) + mix.get("matrix", 0)) / max(sum(mix.get(kind, 0) for kind in KINDS), 1)
