"""One self-contained page about a run, finished or not."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from fastnas.files import read_json, write_atomically
from fastnas.report.curves import (
    count_warm_up,
    draw_edge_mix,
    draw_eigenvalue,
    draw_mix,
    draw_retraining,
    draw_search,
    find_kept_rows,
)
from fastnas.report.draw import draw_cell, svg
from fastnas.run_files import (
    HALVING,
    SEARCHED,
    Comparison,
    DataDescription,
    Ending,
    RungRecord,
    SearchEpoch,
    Settings,
    TrainingEpoch,
    read_epochs,
    read_file,
    read_records,
)
from fastnas.spaces.formats import genotype_from_json, genotype_to_text, parse_genotype, space_from_json
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.registry import space_by_name
from fastnas.spaces.space import Space
from fastnas.tasks import SCORES, Score, read_score
from fastnas.user_code import names_code
from fastnas_kernels.check import complaint, invalid

MOST_COLUMNS = 20  # classes of a table of confusions


def write_report(run: Path) -> Path:
    """Write ``report.html`` from the files of a run folder.

    Args:
        run: The folder. Whatever it does not hold yet is said to be missing on the page.

    Returns:
        The path of the page.
    """
    if not (run / "config.json").is_file():
        remedy = "Name a folder that fastnas search has made."
        raise FileNotFoundError(complaint("report", "run must be a run folder", f"{run}, without config.json", remedy))
    settings: Any = read_file(run / "config.json", Settings)
    own = space_from_json(read_json(run / "space.json")) if (run / "space.json").exists() else None
    space = own or space_by_name(settings["space"])
    records: Any = read_epochs(run / "metrics.jsonl", SearchEpoch)
    _check_shapes(run / "metrics.jsonl", records, space)
    comparison = read_file(run / "comparison.json", Comparison)
    networks: Any = [] if comparison is None else comparison["networks"]
    data: Any = read_file(run / "data.json", DataDescription) or {}
    genotype = _genotype(run, records, own)
    trained: Any = read_epochs(run / "retrain" / SEARCHED / "metrics.jsonl", TrainingEpoch)
    environment = Environment(
        loader=PackageLoader("fastnas.report", "."), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    page = environment.get_template("page.html").render(
        name=run.resolve().name,
        subject=[settings.get("method", "?"), space.name, settings.get("data", "?")],
        accuracies=list_accuracies(networks),
        verdict=write_verdict(networks),
        sampling=write_sampling_error(networks, data.get("test_images")),
        notes=data.get("notes", []),
        epochs=(len(records), records[-1]["epochs"] if records else "?"),
        cells=list(_cells(genotype, space)),
        genotype=genotype_to_text(genotype) if genotype else None,
        is_final=(run / "genotype.json").exists(),
        commands=suggest_commands(run, settings) if (run / "genotype.json").exists() else [],
        curves=_inline(draw_search(records)) if records else None,
        warm_up=count_warm_up(records),
        eigenvalue=_eigenvalue(run, records),
        searches=1 + len(list((run / "restarts").glob("*"))),
        mixes=list(_mixes(records, space, genotype)),
        rungs=list(_rungs(run)),
        networks=networks,
        balanced=any(network.get("test_balanced_accuracy") is not None for network in networks),
        score=_found_and_random(networks)[0],
        shown=[read_score(network, "test")[1] for network in networks],
        retraining=_describe_retraining(run),
        confusion=tabulate_confusions(trained, data.get("classes", [])),
        data=list(flatten({key: value for key, value in data.items() if key not in ("notes", "classes")})),
        settings=list(flatten({key: value for key, value in settings.items() if key != "versions"})),
        facts=list_facts(settings, data),
    )
    path = run / "report.html"
    write_atomically(path, lambda file: file.write(page.encode("utf-8", "backslashreplace")))
    return path


def _check_shapes(path: Path, records: Sequence[Mapping[str, Any]], space: Space) -> None:
    """Raise unless the coefficients in ``records`` are those of ``space``."""
    for number, record in enumerate(records, 1):
        for cell_type in space.cell_types:
            expected = list(map(len, space.alive(cell_type)))
            rows, edges = record["mix"].get(cell_type, []), record["edge_mix"].get(cell_type)
            fits = list(map(len, rows)) == expected and cell_type in record["entropy"]
            if not fits or (edges is not None and len(edges) != len(expected)):
                rule = f"line {number} of {path} must hold the coefficients of {space.name}"
                raise invalid("report", rule, f"other ones of the {cell_type} cells")


def list_facts(settings: Mapping[str, Any], data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """When, where and on what a run was made, as names and texts."""
    made = {name: str(value) for name, value in settings.get("versions", {}).items()}
    device = made.pop("gpu", made.pop("machine", None))
    shape = data.get("resolution")
    known = {
        "started": made.pop("started", None),
        "device": device,
        "commit": made.pop("commit", None),
        "resolution": None if shape is None else " × ".join(map(str, shape)),
        "augmentation": data.get("augment"),
        "training images": data.get("train_images"),
        "test images": data.get("test_images"),
        "versions": ", ".join(f"{name} {value}" for name, value in made.items()) or None,
    }
    return [(name, str(value)) for name, value in known.items() if value is not None]


def suggest_commands(run: Path, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What one may want to do with a finished run, and the commands that do it, for a shell."""
    folder, space = shlex.quote(str(run)), settings.get("space", "")
    own = f" --space {shlex.quote(space)}" if names_code(space) else ""
    own += " --trust" if names_code(settings.get("method", "")) else ""
    seed = settings.get("config", {}).get("seed", 0)
    # The recipe says how the images are read and what the task is
    larger = f"--recipe {folder}/config.json{own} --channels 36 --epochs 100"
    commands = [
        ("train it larger", f"fastnas retrain {folder}/genotype.json {larger}"),
        ("search again, the same", f"fastnas search --recipe {folder}/config.json"),
        ("search again, another seed", f"fastnas search --recipe {folder}/config.json --seed {seed + 1}"),
    ]
    if (run / "retrain" / SEARCHED / "model").is_dir():
        commands += [
            ("classify images", f"fastnas predict {folder} IMAGE ..."),
            ("export the model", f"fastnas export {folder} --to onnx"),
            ("share the run", f"fastnas pack {folder}"),
        ]
    return commands


def list_accuracies(networks: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """The numbers that matter most: what the search found, and what chance does.

    Returns:
        Up to four pairs of a caption and a test score, a fraction for an accuracy.
    """
    score, found, random = _found_and_random(networks)
    pairs = [("found by the search", found)] if found is not None else []
    opponent = _found_by_halving(networks)
    if opponent is not None:
        pairs.append(("found by random search with halving in the same time", opponent))
    if random:
        plural = f"{len(random)} random architectures" if len(random) > 1 else "1 random architecture"
        pairs += [(f"mean of {plural}", sum(random) / len(random)), ("best of them", score.best(random))]
    return pairs


def write_verdict(networks: Sequence[Mapping[str, Any]]) -> str | None:
    """Who won, in plain words; ``None`` before there is anything to compare."""
    score, found, random = _found_and_random(networks)
    opponent = _found_by_halving(networks)
    if found is None or (not random and opponent is None):
        return None
    sentences = [] if opponent is None else [_against_halving(score, found, opponent)]
    return " ".join([*sentences, *([_against_chance(score, found, random)] if random else [])])


def _against_halving(score: Score, found: float, opponent: float) -> str:
    name = "random search with halving, which had the same time"
    if found == opponent:
        return f"The search is level with {name}."
    if score.is_better(found, opponent):
        return f"The search beats {name}, by {_points(score, found, opponent)}."
    return f"{name.capitalize()}, wins by {_points(score, opponent, found)}."


def _against_chance(score: Score, found: float, random: Sequence[float]) -> str:
    mean, best = sum(random) / len(random), score.best(random)
    beaten, total = sum(score.is_better(found, other) for other in random), len(random)
    points = partial(_points, score)
    better, worse = ("above", "below") if score.higher_is_better else ("below", "above")
    if beaten == total:
        return f"The search beats every random architecture, the best one by {points(found, best)}."
    if score.is_better(mean, found):
        return (
            f"Random sampling wins: the architecture that was found is {points(mean, found)} {worse} the mean of the "
            f"random ones and {points(best, found)} {worse} the best. It beats {beaten} of {total}."
        )
    behind = f"{points(best, found)} {worse} the best of them"
    distance = behind if score.is_better(best, found) else "level with the best of them"
    return (
        f"The architecture that was found is {points(found, mean)} {better} the mean of the random ones and "
        f"{distance}. It beats {beaten} of {total}."
    )


def write_sampling_error(networks: Sequence[Mapping[str, Any]], test_images: int | None) -> str | None:
    """How far two equally good networks may be apart by chance; ``None`` before there is anything to compare.

    The half width of the interval of 95 % for the difference of two proportions of ``test_images`` each, at the mean
    accuracy; retraining adds noise of its own. ``None``, too, for scores that are no share of the test images.
    """
    score, found, random = _found_and_random(networks)
    if found is None or not random or not test_images or score is not SCORES["accuracy"]:
        return None
    known = [found, *random]
    mean = min(sum(known) / len(known), 1 - 1 / (2 * test_images))  # a perfect score has an error, too
    half = 1.96 * math.sqrt(2 * mean * (1 - mean) / test_images)
    by_chance = "By chance alone, two equally good networks differ by up to"
    halving = _found_by_halving(networks)
    rival = score.best(random) if halving is None else halving
    doubt = (
        " The search and random search differ by less: this run does not tell them apart."
        if abs(found - rival) < half
        else ""
    )
    return f"{by_chance} {_points(score, half, 0)} on {test_images:,} test images (95 %).{doubt}"


def tabulate_confusions(records: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any] | None:
    """The confusions of a finished training, a row a class; ``None`` without them, or for more classes than a table has
    room for."""
    counts = records[-1].get("test_confusion") if records else None
    if not counts or len(counts) > MOST_COLUMNS or {len(row) for row in [counts, *counts]} != {len(classes)}:
        return None
    recalls = [f"{100 * row[i] / sum(row):.1f} %" if sum(row) else "–" for i, row in enumerate(counts)]
    return {"classes": list(classes), "rows": list(zip(classes, counts, recalls, strict=True))}


def _points(score: Score, one: float, other: float) -> str:
    difference = abs(one - other)
    return f"{100 * difference:.2f} points" if score.is_share else f"{difference:.4g}"


def _found_and_random(networks: Sequence[Mapping[str, Any]]) -> tuple[Score, float | None, list[float]]:
    """What networks are compared by, and its values."""
    known = {network["name"]: read_score(network, "test")[1] for network in networks}
    score = read_score(networks[0], "test")[0] if networks else SCORES["accuracy"]
    return score, known.get(SEARCHED), [x for name, x in known.items() if name.startswith("random") and x is not None]


def _found_by_halving(networks: Sequence[Mapping[str, Any]]) -> float | None:
    return next((read_score(network, "test")[1] for network in networks if network["name"] == HALVING), None)


def _rungs(run: Path) -> Iterator[dict[str, Any]]:
    """The heights of the ladder, as far as it was climbed."""
    records = read_records(run / "selection.jsonl", RungRecord)
    for rung in sorted({record["rung"] for record in records}):
        here = [record for record in records if record["rung"] == rung]
        best = min(here, key=lambda record: record["loss"])
        yield {
            "name": f"{rung}" if rung else "0, on the supernet",
            "count": len(here),
            "steps": here[0]["steps"],
            "accuracy": SCORES[best.get("score", "accuracy")].show(best["accuracy"]),
            "origin": best["origin"],
            "seconds": sum(record["seconds"] for record in here),
        }


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings that have a value, as dotted names and texts."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif value is not None:
            yield name, str(value)


def _genotype(run: Path, records: Sequence[Mapping[str, Any]], own: Space | None) -> Genotype | None:
    """The result, or else what the last epoch would have led to."""
    path = run / "genotype.json"
    if path.exists():
        return genotype_from_json(read_json(path), own)
    text = records[-1]["genotype"] if records else ""
    return parse_genotype(text, own) if text else None


def _cells(genotype: Genotype | None, space: Space) -> Iterator[Markup]:
    if genotype is not None:
        for cell_type, cell in genotype.cells.items():
            yield _inline(draw_cell(cell, space, space.title(cell_type)))


def _mixes(
    records: Sequence[Mapping[str, Any]], space: Space, genotype: Genotype | None
) -> Iterator[tuple[str, Markup, Markup | None]]:
    if records:
        for cell_type in space.cell_types:
            kept = {} if genotype is None else find_kept_rows(space, genotype.cells[cell_type])
            has_edges = cell_type in records[0]["edge_mix"]
            edges = _inline(draw_edge_mix(records, space, cell_type, kept)) if has_edges else None
            yield space.title(cell_type), _inline(draw_mix(space, records, cell_type, kept)), edges


def _eigenvalue(run: Path, records: Sequence[Mapping[str, Any]]) -> Markup | None:
    stop = read_file(run / "stop.json", Ending)
    figure = draw_eigenvalue(records, None if stop is None else stop["epoch"])
    return None if figure is None else _inline(figure)


def _describe_retraining(run: Path) -> Markup | None:
    folders = sorted((run / "retrain").glob("*/metrics.jsonl"), key=lambda path: (path.parent.name != SEARCHED, path))
    trainings = {path.parent.name: records for path in folders if (records := read_epochs(path, TrainingEpoch))}
    return _inline(draw_retraining(trainings)) if trainings else None


def _inline(figure: Any) -> Markup:
    return Markup(svg(figure))
