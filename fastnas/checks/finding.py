"""What a check found, and how it is printed."""

from dataclasses import dataclass
from enum import Enum
from math import isnan

from rich.table import Table
from rich.text import Text


class Verdict(Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "FAILED"
    SKIPPED = "skipped"
    NOTED = "note"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The answer to one question.

    Args:
        name: The question, as a sentence that should be true.
        verdict: Whether it is.
        error: What was measured, dimensionless unless ``origin`` says otherwise; not a number where nothing was.
        bound: The largest ``error`` that passes.
        origin: Where the bound comes from.
        meaning: What was seen.
        remedy: What to change; empty unless it failed.
    """

    name: str
    verdict: Verdict
    error: float = float("nan")
    bound: float = float("nan")
    origin: str = ""
    meaning: str = ""
    remedy: str = ""


def compare(name: str, error: float, bound: float, origin: str, meaning: str, remedy: str) -> Finding:
    """A finding that passes if ``error`` is at most ``bound``, which not a number never is."""
    passed = error <= bound
    verdict = Verdict.PASSED if passed else Verdict.FAILED
    return Finding(
        name=name,
        verdict=verdict,
        error=error,
        bound=bound,
        origin=origin,
        meaning=meaning,
        remedy="" if passed else remedy,
    )


def note(name: str, error: float, meaning: str) -> Finding:
    """What is good to know and no fault."""
    return Finding(name=name, verdict=Verdict.NOTED, error=error, meaning=meaning)


def skip(name: str, why: str) -> Finding:
    """A question that could not be asked."""
    return Finding(name=name, verdict=Verdict.SKIPPED, meaning=why)


@dataclass(frozen=True)
class Report:
    """All findings of one check.

    Args:
        title: What was checked.
        findings: In the order in which they were made.
    """

    title: str
    findings: tuple[Finding, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.verdict is Verdict.FAILED)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def __str__(self) -> str:
        lines = [f"{f.verdict.value:8} {f.name} ({f.meaning})" for f in self.findings]
        remedies = [f"{f.name}: {f.remedy}" for f in self.failures]
        return "\n".join([self.title, *lines, *remedies])

    def table(self) -> Table:
        """For a terminal: what was seen, what to do about it, and where the bounds come from."""
        origins = dict.fromkeys(f.origin for f in self.findings if f.origin)
        caption = "Bounds: " + "; ".join(origins) + "."
        table = Table("", "what should hold", title=Text(self.title), caption=caption, caption_justify="left")
        for heading in ("error", "bound"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("what was seen")
        colours = {Verdict.PASSED: "green", Verdict.FAILED: "bold red", Verdict.SKIPPED: "dim", Verdict.NOTED: "yellow"}
        for f in self.findings:
            numbers = tuple("" if isnan(value) else f"{value:.1e}" for value in (f.error, f.bound))
            seen = Text(" ".join(part for part in (f.meaning, f.remedy) if part))
            table.add_row(Text(f.verdict.value, style=colours[f.verdict]), Text(f.name), *numbers, seen)
        return table
