"""What searches of the NAS-Bench-201 space found, by its table: rows of a report, and regret against minutes."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

from fastnas.methods import METHODS

Record = dict[str, Any]


def reported(records: list[Record], protocol: str | None = None) -> dict[tuple[str, float], list[Record]]:
    """The records of the seeds below 100, by protocol and minutes, in the order of their seeds."""
    kept = sorted((one for one in records if one["seed"] < 100), key=lambda one: one["seed"])
    groups: dict[tuple[str, float], list[Record]] = {}
    for one in kept:
        if protocol in (None, one["protocol"]):
            groups.setdefault((one["protocol"], one["minutes"]), []).append(one)
    return dict(sorted(groups.items()))


def print_report(records: list[Record], test: Mapping[str, float]) -> None:
    """A Markdown table by protocol and minutes."""
    best, ranked = max(test.values()), sorted(test.values(), reverse=True)
    print("| protocol | minutes | seeds | test accuracy %, median | of each | regret, median | worst | tau | CPU s |")
    print("| --- " + "| ---: " * 8 + "|")
    for (protocol, minutes), here in reported(records).items():
        found = [test[one["genotype"]] for one in here]
        taus = [one["tau"] for one in here if "tau" in one]
        each = " / ".join(f"{x:.2f} ({1 + sum(y > x for y in ranked):,})" for x in found)
        row = [protocol, f"{minutes:g}", str(len(here)), f"{median(found):.2f}", each]
        row += [f"{best - median(found):.2f}", f"{best - min(found):.2f}", f"{mean(taus):.2f}" if taus else ""]
        row.append(f"{mean(one['cpu_seconds'] for one in here):.0f}")
        print(f"| {' | '.join(row)} |")


def print_bounds(records: list[Record], test: Mapping[str, float], bounds: dict[float, dict[int, float]]) -> None:
    """In how many seeds the default is above the best that halving can find."""
    for minutes, best in bounds.items():
        here = reported(records, "default")["default", minutes]
        each = " / ".join(f"{best[one['seed']]:.2f}" for one in here)
        won = sum(test[one["genotype"]] > best[one["seed"]] for one in here)
        print(f"\n{minutes:g} minutes: the best that halving draws has {each} %; ", end="")
        print(f"the default is above it in {won} of {len(here)} seeds.")


def plot_regret(
    records: list[Record], test: Mapping[str, float], bounds: dict[float, dict[int, float]], path: Path
) -> None:
    """Draw the default's regret against minutes, seed by seed, beside the least that halving can have."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (half a second)

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    minutes = _draw_regret(axes, records, "default", test)
    if bounds:
        least = [max(test.values()) - median(of_seeds.values()) for of_seeds in bounds.values()]
        axes.plot(list(bounds), least, "--", color="tab:gray", label="best that halving draws, median")
    axes.set(xlabel="CPU minutes of a search", ylabel="regret, points of test accuracy", xscale="log", ylim=(0, None))
    axes.set_xticks(minutes, [f"{one:g}" for one in minutes])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path)


def plot_methods(records: list[Record], test: Mapping[str, float], path: Path) -> None:
    """Draw the regret of each method against minutes, a panel each, beside the median of random architectures."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    names = ["default", *sorted({name for name, _ in reported(records)} & set(METHODS))]
    rows = -(-len(names) // 3)
    figure = Figure(figsize=(7, 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, 3, sharex=True, sharey=True).flat
    of_random = max(test.values()) - median(test.values())
    minutes = [2, 5, 10, 20]
    for name, axes in zip(names, panels, strict=False):
        _draw_regret(axes, records, name, test)
        axes.axhline(of_random, linestyle="--", color="tab:gray")
        axes.set_title(name, fontsize=10)
        axes.set(xscale="log", yscale="log", ylim=(0.1, 100))
        axes.set_xticks(minutes, [f"{one:g}" for one in minutes])
        axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axes.minorticks_off()
    for axes in panels:  # those that are left
        axes.axis("off")
    figure.supxlabel("CPU minutes of a search")
    figure.supylabel("regret, points of test accuracy (dashed: the median architecture)")
    figure.savefig(path, dpi=120)


def _draw_regret(axes: Any, records: list[Record], protocol: str, test: Mapping[str, float]) -> list[float]:
    """The regret of each seed as a point, and of their median as a line; returns the minutes."""
    best, groups = max(test.values()), reported(records, protocol)
    regrets = {minutes: [best - test[one["genotype"]] for one in here] for (_, minutes), here in groups.items()}
    for minutes, found in regrets.items():
        axes.plot([minutes] * len(found), found, "o", color="tab:blue", alpha=0.3)
    medians = [median(found) for found in regrets.values()]
    axes.plot(list(regrets), medians, color="tab:blue", label=f"{protocol}, median")
    return list(regrets)
