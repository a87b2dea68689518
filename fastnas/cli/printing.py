"""What the command line prints of results."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fastnas.data import ImageData
from fastnas.experiment.experiment import Outcome
from fastnas.experiment.series import Validated
from fastnas.run_files import BrokenImage, read_records
from fastnas.selection import load_selection, summarize_selection
from fastnas.spaces.formats import describe_genotype, genotype_to_text
from fastnas.tasks import SCORES
from fastnas.training.result import RetrainResult


def describe_folder(folder: Path, command: str) -> str:
    """What is printed when a run has begun."""
    return f"run folder: {folder}   (to go on after a stop: {command})"


def describe_data(data: ImageData) -> list[str]:
    """What was found out about the images and decided, a line each."""
    return [f"data: {note}" for note in data.notes]


def tabulate_series(validated: Sequence[Validated], best: int) -> Table:
    """What came of several searches, and which one goes on."""
    table = Table("run", title="validated by a short retraining")
    for heading in ("seed", "strength", f"held-out {SCORES[validated[0].score].label}", "", "stopped"):
        table.add_column(heading)
    for number, one in enumerate(validated):
        strength = "–" if one.strength is None else f"{one.strength:g}"
        marks = one.shown, "best" if number == best else "", one.stopped
        table.add_row(str(number), str(one.seed), strength, *marks)
    return table


def print_outcome(outcome: Outcome, console: Console) -> None:
    """The architecture, what is known of it, and how it compares with random ones."""
    if outcome.stopped:
        console.out(f"the search stopped early: {outcome.stopped}")
    chosen = load_selection(outcome.report.parent, outcome.space)
    for line in [] if chosen is None else summarize_selection(chosen):
        console.out(line)
    console.print(describe_genotype(outcome.genotype, outcome.space))
    console.out(genotype_to_text(outcome.genotype))
    if outcome.cost is not None:
        console.out(f"it costs {outcome.cost[0]:,.6g} {outcome.cost[1]}")
    if outcome.table is not None:
        console.out(f"known of this architecture: {outcome.table}")
    if outcome.searched is not None and outcome.searched.start is not None:
        console.out(outcome.searched.start.describe(outcome.searched.score_kind.show))
    if outcome.searched is not None:
        console.print(tabulate_comparison(outcome.searched, outcome.random, outcome.halving))
        line = verdict(outcome.searched, outcome.random, outcome.halving)
        console.out(line)
    for path in sorted(outcome.report.parent.rglob("broken.jsonl")):
        skipped = f"{len(read_records(path, BrokenImage))} images could not be read and were skipped: {path}"
        console.out(skipped)
    console.out(f"report: {outcome.report}")


def tabulate_comparison(
    searched: RetrainResult, random: Sequence[RetrainResult], halving: RetrainResult | None = None
) -> Table:
    """The trained networks, a row each."""
    table = Table("network", title="retrained with the same budget")
    score = searched.score_kind
    classified = searched.test_balanced_accuracy is not None
    for heading in ("parameters", "multiply-adds", f"test {score.label}", *["balanced"] * classified, "seconds"):
        table.add_column(heading, justify="right")
    names = {"searched": searched} | ({} if halving is None else {"random search with halving": halving})
    for name, result in [*names.items(), *((f"random {i}", result) for i, result in enumerate(random, 1))]:
        table.add_row(
            name,
            f"{result.num_params:,}",
            f"{result.multiply_adds:,}",
            score.show(result.score),
            *[f"{100 * (result.test_balanced_accuracy or 0):.2f} %"] * classified,
            f"{result.seconds:.1f}",
        )
    return table


def verdict(searched: RetrainResult, random: Sequence[RetrainResult], halving: RetrainResult | None = None) -> str:
    """Who won, in a line."""
    score = searched.score_kind
    found = f"searched: {score.show(searched.score)}"
    if halving is not None:
        found += f"   random search with halving: {score.show(halving.score)}"
    if not random:
        return found
    scores = [result.score for result in random]
    mean, best = sum(scores) / len(scores), score.best(scores)
    beaten = sum(score.is_better(searched.score, other) for other in scores)
    return (
        f"{found}   random: mean {score.show(mean)}, best {score.show(best)} of {len(random)}   "
        f"(the search beats {beaten} of them)"
    )
