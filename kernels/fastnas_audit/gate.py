"""Holds kernels to a budget of registers, spills, shared memory and narrow accesses, on every target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastnas_audit.assembly import TARGETS, Assembly, Type
from fastnas_audit.elsewhere import Failure, Job, assemblies, reference
from fastnas_kernels.check import invalid


@dataclass(frozen=True)
class Budget:
    """What a kernel may use. A limit looser than the default must come with a written reason.

    Attributes:
        registers: Most registers of a thread. The default lets three programs of 128 threads share a multiprocessor.
        spills: Most accesses to local memory; at the default of none, no local memory may be reserved either.
        shared_bytes: Most shared memory of a program; ``None`` stands for all that the target has.
        vector_share: Least share of accesses to global memory that must be 128 bits wide. The default leaves room for
            statistics, which are few and scalar.
        reasons: For each field that is looser than its default: why it has to be.
    """

    registers: int = 168
    spills: int = 0
    shared_bytes: int | None = None
    vector_share: float = 0.7
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        looser = {
            "registers": self.registers > Budget.registers,
            "spills": self.spills > Budget.spills,
            "vector_share": self.vector_share < Budget.vector_share,
        }
        loose = sorted(name for name, is_so in looser.items() if is_so)
        if sorted(self.reasons) != loose:
            rule = f"reasons must say why for exactly the fields looser than their defaults, {loose}"
            raise invalid("Budget", rule, sorted(self.reasons))
        if not all(self.reasons.values()):
            raise invalid("Budget", "every reason must have words", dict(self.reasons))


@dataclass(frozen=True)
class Case:
    """A kernel as the library launches it; the fields are the arguments of ``compile_for``, and its budget.

    Attributes:
        name: What to call the case in reports.
        kernel: What ``triton.jit`` returned, at the top of a module; interpreted or not.
        signature: Type of each argument known only at run time, for a tuple those of its elements.
        constants: Value of every ``constexpr`` argument.
        num_warps: Warps in a program.
        num_stages: Stages of software pipelining; if ``None``, what Triton takes on the target.
        maxnreg: Registers that a thread may have on NVIDIA, as Triton calls it; if ``None``, the compiler chooses.
        divisible_by_16: Arguments, pointers and integers alike, that are multiples of 16, a tuple if all its elements
            are; all pointers if ``None``.
        budget: What the kernel may use.
        exceptions: The budgets of targets that need another one.
    """

    name: str
    kernel: Any
    signature: Mapping[str, Type]
    constants: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int | None = None
    maxnreg: int | None = None
    divisible_by_16: Sequence[str] | None = None
    budget: Budget = field(default_factory=Budget)
    exceptions: Mapping[str, Budget] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not set(self.exceptions) <= set(TARGETS):
            rule = f"exceptions must be for targets among {', '.join(TARGETS)}"
            raise invalid(f"Case {self.name}", rule, list(self.exceptions))

    def budget_on(self, target: str) -> Budget:
        """The budget that holds on ``target``."""
        return self.exceptions.get(target, self.budget)


@dataclass(frozen=True)
class Verdict:
    """How a case fared on a target: no ``assembly`` if it did not compile, no ``violations`` if all is well."""

    case: Case
    target: str
    assembly: Assembly | None
    violations: tuple[str, ...]


class Limited(Protocol):
    """What a budget limits, as an ``Assembly`` has it."""

    @property
    def target(self) -> str: ...
    @property
    def registers(self) -> int: ...
    @property
    def spills(self) -> int: ...
    @property
    def spill_bytes(self) -> int: ...
    @property
    def shared_bytes(self) -> int: ...
    @property
    def vector_share(self) -> float: ...


def violations(assembly: Limited, budget: Budget) -> list[str]:
    """Every way in which ``assembly`` exceeds ``budget``, in words; empty if it keeps to it."""
    limit = TARGETS[assembly.target].shared_limit
    shared = limit if budget.shared_bytes is None else min(limit, budget.shared_bytes)
    found = []
    if assembly.registers > budget.registers:
        found.append(f"{assembly.registers} registers of at most {budget.registers}")
    if assembly.spills > budget.spills or (budget.spills == 0 and assembly.spill_bytes):
        found.append(f"{assembly.spills} spills ({assembly.spill_bytes} bytes) of at most {budget.spills}")
    if assembly.shared_bytes > shared:
        found.append(f"{assembly.shared_bytes} bytes of shared memory of at most {shared}")
    if assembly.vector_share < budget.vector_share:
        found.append(f"{assembly.vector_share:.0%} of accesses 128 bits wide of at least {budget.vector_share:.0%}")
    return found


def judge(cases: Sequence[Case], targets: Sequence[str] = tuple(TARGETS), processes: int = 2) -> list[Verdict]:
    """Compile every case for every target, in processes of their own, and hold it to its budget.

    Args:
        cases: What to compile.
        targets: Keys of ``TARGETS``.
        processes: How many to compile at once.

    Returns:
        One verdict for each case and target, by case, then target.

    Raises:
        ValueError: if a target is unknown or a kernel does not stand at the top of a module.
        RuntimeError: if a process cannot import the file of a kernel or refuses a case's signature.
    """
    if not set(targets) <= set(TARGETS):
        rule = f"targets must be among {', '.join(TARGETS)}"
        raise invalid("judge", rule, list(targets))
    pairs = [(case, target) for case in cases for target in targets]
    jobs = [
        Job(
            kernel=reference(case.kernel),
            signature=case.signature,
            target=target,
            constants=case.constants,
            num_warps=case.num_warps,
            num_stages=case.num_stages,
            maxnreg=case.maxnreg,
            divisible_by_16=case.divisible_by_16,
        )
        for case, target in pairs
    ]
    results = assemblies(jobs, processes)
    return [_verdict(case, target, result) for (case, target), result in zip(pairs, results, strict=True)]


def _verdict(case: Case, target: str, result: Assembly | Failure) -> Verdict:
    if isinstance(result, Failure):
        return Verdict(case, target, None, (f"does not compile: {result.message}",))
    return Verdict(case, target, result, tuple(violations(result, case.budget_on(target))))


def markdown(verdicts: Sequence[Verdict]) -> str:
    """A Markdown table with a row for each verdict, and below it the reasons for all loosened budgets."""
    head = ["case", "target", "registers", "spills", "shared", "128 bits", "FFMA", "matrix", "barriers", "atomics"]
    rows = [[*head, "instructions", "bytes", "verdict"]]
    rows.append(["---"] * 2 + ["---:"] * (len(rows[0]) - 3) + ["---"])
    rows += [[*_cells(verdict), _cell("; ".join(verdict.violations)) or "ok"] for verdict in verdicts]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, *_footnotes(verdicts)]) + "\n"


def _cells(verdict: Verdict) -> list[str]:
    code = verdict.assembly
    names = [_cell(verdict.case.name), verdict.target]
    if code is None:
        return [*names, *["–"] * 10]
    counts = [code.ffma, code.matrix, code.barriers, code.atomics, code.instructions, code.num_bytes]
    sizes = [code.registers, code.spills, code.shared_bytes]
    return [*names, *map(str, sizes), f"{code.vector_share:.0%}", *map(str, counts)]


def _cell(text: str) -> str:
    """``text`` in one line, with no bar that would end its cell."""
    return " ".join(text.split()).replace("|", r"\|")


def _footnotes(verdicts: Sequence[Verdict]) -> list[str]:
    notes = [
        f"- {verdict.case.name} on {verdict.target}, {name} {getattr(budget, name)}: {reason}"
        for verdict in verdicts
        for budget in [verdict.case.budget_on(verdict.target)]
        for name, reason in budget.reasons.items()
    ]
    return ["", "Exceptions:", "", *notes] if notes else []
