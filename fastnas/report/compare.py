"""Runs next to each other: a row a run, as a table, a CSV file and a page."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from fastnas.errors import invalid
from fastnas.files import write_atomically
from fastnas.report.page import flatten
from fastnas.run_files import HALVING, SEARCHED, Comparison, Settings, read_file
from fastnas.tasks import SCORES, read_score

Row = dict[str, str]
_PAGE = """<!doctype html><meta charset="utf-8"><title>fastnas: runs compared</title>
<style>body{font:15px system-ui;margin:2em}table{border-collapse:collapse}td,th{padding:.3em .8em;text-align:left;
border-bottom:1px solid #ddd}</style><h1>Runs compared</h1><table><tr>{% for name in rows[0] %}<th>{{ name }}</th>
{% endfor %}</tr>{% for row in rows %}<tr>{% for value in row.values() %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table>
"""


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The run folders among ``folders`` and right inside of them."""
    found: list[Path] = []
    for folder in folders:
        inside = sorted(path.parent for path in folder.glob("*/config.json"))
        found += [folder] if (folder / "config.json").is_file() else inside
    if not found:
        raise invalid("compare", "folders must hold runs of fastnas search", ", ".join(map(str, folders)) or "none")
    return found


def compare_runs(runs: Sequence[Path]) -> list[Row]:
    """A row a run: what was searched, the settings in which the runs differ, and the accuracies in percent.

    Args:
        runs: Run folders, finished or not; what one does not hold is ``–``.
    """
    settings = [_settings(run) for run in runs]
    names = dict.fromkeys(name for one in settings for name in one)
    first = ("method", "space", "data")
    differ = [n for n in names if n not in first and len({one.get(n) for one in settings}) > 1]
    rows = [
        {"run": run.resolve().name} | {name: one.get(name, "–") for name in (*first, *differ)} | _results(run)
        for run, one in zip(runs, settings, strict=True)
    ]
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "–") for name in columns} for row in rows]  # runs of other tasks have other scores


def write_comparison(rows: Sequence[Row], csv_file: Path, page: Path) -> None:
    """Write ``rows`` as a CSV file and as a page."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(csv_file, lambda file: file.write(text.getvalue().encode("utf-8", "backslashreplace")))
    html = Environment(autoescape=True).from_string(_PAGE).render(rows=rows)
    write_atomically(page, lambda file: file.write(html.encode("utf-8", "backslashreplace")))


def _settings(run: Path) -> Mapping[str, str]:
    content: Any = read_file(run / "config.json", Settings)
    return dict(flatten({key: value for key, value in content.items() if key != "versions"}))


def _results(run: Path) -> Row:
    content = read_file(run / "comparison.json", Comparison)
    networks = {network["name"]: network for network in ([] if content is None else content["networks"])}
    searched = networks.pop(SEARCHED, None)
    halving = networks.pop(HALVING, None)
    found = None if searched is None else read_score(searched, "test")
    random = [value for network in networks.values() if (value := read_score(network, "test")[1]) is not None]
    score = SCORES["accuracy"] if found is None else found[0]
    opponent = None if halving is None else read_score(halving, "test")[1]
    digits = ".2f" if score.is_share else ".4g"
    return {
        f"test {score.title}": f"{score.factor * found[1]:{digits}}" if found and found[1] is not None else "–",
        f"random search with halving{' (%)' if score.is_share else ''}": "–"
        if opponent is None
        else f"{score.factor * opponent:{digits}}",
        f"random, mean{' (%)' if score.is_share else ''}": f"{score.factor * sum(random) / len(random):{digits}}"
        if random
        else "–",
        "parameters": str(searched["num_params"]) if searched else "–",
        "multiply-adds": str(searched["multiply_adds"]) if searched else "–",
    }
