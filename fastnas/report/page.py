"""One self-contained page about a run, finished or not."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from fastnas.report.curves import edge_mix_figure, mix_figure, retrain_figure, search_figure
from fastnas.report.draw import cell_figure, svg
from fastnas.space.cell_space import CellSpace, space_named
from fastnas.space.formats import genotype_from_json, genotype_to_text
from fastnas.space.genotype import Genotype
from fastnas.train.files import read_json, read_json_lines, write_atomically
from fastnas_kernels.check import complaint


def write_report(run: Path) -> Path:
    """Write ``report.html`` from the files of a run folder.

    Args:
        run: The folder. Whatever it does not hold yet is said to be missing on the page.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: If ``run`` is not a run folder.
        ValueError: If one of its files is broken.
    """
    if not (run / "config.json").is_file():
        remedy = "Name a folder that fastnas search has made."
        raise FileNotFoundError(complaint("report", "run must be a run folder", f"{run}, without config.json", remedy))
    settings: Any = read_json(run / "config.json")
    space = space_named(settings["space"])
    records = read_json_lines(run / "metrics.jsonl")
    networks: Any = read_json(run / "comparison.json") if (run / "comparison.json").exists() else {"networks": []}
    environment = Environment(
        loader=PackageLoader("fastnas.report", "."), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    page = environment.get_template("page.html").render(
        name=run.resolve().name,
        headline=headline(networks["networks"]),
        epochs=(len(records), records[-1]["epochs"] if records else None),
        cells=list(_cells(_genotype(run), space)),
        genotype=_text(_genotype(run)),
        curves=_inline(search_figure(records)) if records else None,
        mixes=list(_mixes(records, space)),
        networks=networks["networks"],
        retraining=_retraining(run),
        settings=list(flatten({key: value for key, value in settings.items() if key != "versions"})),
        versions=settings.get("versions", {}),
    )
    path = run / "report.html"
    write_atomically(path, lambda file: file.write(page.encode()))
    return path


def headline(networks: Sequence[Mapping[str, Any]]) -> str | None:
    """The result in a sentence, whoever won; ``None`` before there is one."""
    accuracies = {network["name"]: network["test_accuracy"] for network in networks}
    if "searched" not in accuracies:
        return None
    found = accuracies.pop("searched")
    sentence = f"The architecture that was found classifies {100 * found:.2f} % of the test images rightly."
    if not accuracies:
        return sentence
    values = list(accuracies.values())
    mean, best = sum(values) / len(values), max(values)
    beaten = sum(found > value for value in values)
    verdict = (
        "The search beats all of them."
        if beaten == len(values)
        else "The search beats none of them."
        if beaten == 0
        else f"The search beats {beaten} of them."
    )
    return (
        f"{sentence} {len(values)} random architectures, retrained with the same budget, reach {100 * mean:.2f} % "
        f"on average and {100 * best:.2f} % at best. {verdict}"
    )


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings as dotted names and texts."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            yield name, "–" if value is None else str(value)


def _genotype(run: Path) -> Genotype | None:
    path = run / "genotype.json"
    return genotype_from_json(read_json(path)) if path.exists() else None


def _text(genotype: Genotype | None) -> str | None:
    return genotype_to_text(genotype) if genotype else None


def _cells(genotype: Genotype | None, space: CellSpace) -> Iterator[Markup]:
    if genotype is not None:
        for cell_type, cell in genotype.cells.items():
            yield _inline(cell_figure(cell, space, f"{cell_type} cell"))


def _mixes(records: Sequence[Mapping[str, Any]], space: CellSpace) -> Iterator[tuple[str, Markup, Markup | None]]:
    if records:
        for cell_type in space.cell_types:
            has_edges = cell_type in records[0]["edge_mix"]
            edges = _inline(edge_mix_figure(records, space, cell_type)) if has_edges else None
            yield cell_type, _inline(mix_figure(records, space, cell_type)), edges


def _retraining(run: Path) -> Markup | None:
    folders = sorted((run / "retrain").glob("*/metrics.jsonl"))
    trainings = {path.parent.name: records for path in folders if (records := read_json_lines(path))}
    return _inline(retrain_figure(trainings)) if trainings else None


def _inline(figure: Any) -> Markup:
    return Markup(svg(figure))
