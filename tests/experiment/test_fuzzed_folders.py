"""Random damage to every file of a run folder: a resume ends as it would have, or says in one line what is wrong.

``python -m pytest -m slow tests/experiment/test_fuzzed_folders.py`` does five hundred damages; the default suite some.
"""

import json
import random
import shutil

import pytest

from fastnas.cli.main import main
from fastnas.files import CHECKSUM
from tests.cli.test_main import TINY, trace
from tests.engine.test_damage import damage

PIECE = 5  # damages of a test
QUICK = 1  # pieces in the default suite
ODD = (None, "x", "", -1, 0, 1, 2.5, 1e308, 10**30, [], {}, [[]], True, "\x1b[2J", "\ud800", "a" * 3000, {"a": 1})
REWRITTEN = (".lock", "report.html", "events.out", "comparison.json", "genotype.json", "alpha.pt", "metrics.jsonl")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run with a ladder, and the same run as it was before its retraining."""
    whole = tmp_path_factory.mktemp("whole") / "run"
    assert main(["search", *TINY, "--epochs", "2", "--select", "ladder", "--run", str(whole)]) == 0
    half = shutil.copytree(whole, tmp_path_factory.mktemp("half") / "run")
    shutil.rmtree(half / "retrain")
    for name in ("comparison.json", "genotype.json", "selection.json", "report.html"):
        (half / name).unlink()
    return whole, half


def list_places(content, place=()):
    """Every place in decoded JSON, as the keys that lead there."""
    yield place
    children = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, child in children:
        yield from list_places(child, (*place, key))


def change_field(content, rng):
    """Decoded JSON with one value that is another, gone or doubled."""
    *way, last = rng.choice([place for place in list_places(content) if place] or [(None,)])
    if last is None:
        return rng.choice(ODD)
    inside = content
    for key in way:
        inside = inside[key]
    kind = rng.choice(["odd", "odd", "near", "gone", "doubled"])
    if kind == "gone":
        del inside[last]
    elif kind == "doubled" and isinstance(inside, list):
        inside.insert(last, inside[last])
    elif kind == "near" and isinstance(inside[last], int | float) and not isinstance(inside[last], bool):
        inside[last] = inside[last] * rng.choice([0.5, 1.5, -1]) + rng.choice([0, 1])
    else:
        inside[last] = rng.choice(ODD)
    return content


def damage_text(path, rng):
    """Damage the fields or lines of a JSON file; returns whether its checksum, if it has one, can tell."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number, kind = (
        rng.randrange(len(lines)),
        rng.choice(["field"] * 6 + ["deep", "line gone", "line doubled", "swapped"]),
    )
    tells = True
    if kind == "field":
        content = json.loads(lines[number])
        if rng.random() < 0.2 and CHECKSUM in content:
            del content[CHECKSUM]
            tells = False
        lines[number] = json.dumps(change_field(content, rng))
    elif kind == "deep":
        lines[number] = "[" * 100_000
    elif kind == "line gone":
        del lines[number]
    elif kind == "line doubled":
        lines.insert(number, lines[number])
    else:
        lines.sort(key=lambda line: rng.random())
    path.write_text("".join(f"{line}\n" for line in lines))
    return tells


def try_commands(run, whole, capsys, tells):
    """Go on with a damaged run and look at it; returns what went wrong, or nothing."""
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for words in (["search", "--resume"], ["report"], ["compare"], ["evaluate", "--data", "digits"]):
        try:
            status = main([words[0], *words[1:], str(run)])
        except BaseException as error:
            return f"{words[0]}: {type(error).__name__}: {str(error)[:300]}"
        said = capsys.readouterr().err
        told = [line for line in said.splitlines() if not line.startswith("fastnas: note:")]
        if status not in (0, 1) or len(told) != status or len(said) > 4000:
            return f"{words[0]}: status {status}, {said[:600]!r}"
        if words[0] == "search":
            if status == 0 and tells and trace(run) != trace(whole):
                return "search: another result"
            lost = [p for p, content in before.items() if not p.exists() or p.read_bytes() != content]
            lost = [p.name for p in lost if not p.name.startswith(REWRITTEN)]
            if status == 1 and lost:
                return f"search: {lost} are not what they were, {said[:200]!r}"
    return ""


PIECES = [pytest.param(p, marks=() if p < QUICK else pytest.mark.slow) for p in range(500 // PIECE)]


def fuzz(seed, runs, folder, capsys):
    rng = random.Random(seed)
    run = shutil.copytree(runs[0] if rng.random() < 0.8 else runs[1], folder / str(seed))
    files = sorted(
        p for p in run.rglob("*") if p.is_file() and not p.name.startswith(("events.out", "report", ".lock"))
    )
    path, tells = rng.choice(files), True
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.7:
        tells = damage_text(path, rng)
    else:
        damage(path, rng)
    wrong = try_commands(run, runs[0], capsys, tells)
    shutil.rmtree(run)
    return f"seed {seed}, {path.relative_to(run)}: {wrong}" if wrong else ""


def test_without_damage_both_runs_end_as_the_first_did(runs, tmp_path, capsys):
    for number, folder in enumerate(runs):
        run = shutil.copytree(folder, tmp_path / str(number))
        assert main(["search", "--resume", str(run)]) == 0
        assert trace(run) == trace(runs[0])
        assert main(["evaluate", str(run), "--data", "digits"]) == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("piece", PIECES)
def test_a_damaged_run_ends_as_it_would_have_or_says_what_is_wrong(piece, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [fuzz(seed, runs, tmp_path, capsys) for seed in range(piece * PIECE, (piece + 1) * PIECE)]
    assert not any(found), "\n".join(filter(None, found))
