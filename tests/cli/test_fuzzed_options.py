"""Random command lines over all options: each is one line and a failing status, or begins what it says.

``python -m pytest -m slow tests/cli/test_fuzzed_options.py`` tries five hundred; the default suite has some of them.
"""

import importlib
import random
import shlex
from typing import Literal, get_args, get_origin

import pytest

from fastnas.cli.main import VERBS, heading, main
from fastnas.cli.options import default_command, list_options
from fastnas.memory.budget import read_budget
from fastnas.memory.planner import plan
from tests.cli.test_main import TINY

PIECE = 25  # command lines of a test
QUICK = 1  # pieces in the default suite
ODD = ("-1", "0", "1", "2", "0.5", "-0.5", "1e-320", "1e38", "1e400", "nan", "inf", "-inf", str(2**31), str(2**63))
ODD += (
    str(10**30),
    "9" * 5000,
    "",
    " ",
    "x",
    "None",
    "[]",
    "{}",
    "true",
    "1,2",
    "1 2",
    "½",
    "\x1b]0;title\x07",
    "a" * 5000,
)
ODD += (
    "--",
    "-",
    "=",
    "*",
    "\n",
    "a\0b",
    "\udcff",
    "[bold]x[/bold]",
    "a[/b]c",
    "..",
    "/dev/zero",
    "/dev/null",
    "/proc/self/mem",
)
ODD += (
    "nowhere.py:x",
    ":",
    "json:dumps",
    "digits",
    "folder:nowhere",
    "folder:/dev",
    "shards:.",
    "cifar10:none",
    "1e400GiB",
)
ODD += (
    "24",
    "0 GB",
    "-3GiB",
    "nanGiB",
    "12GiB",
    "ram",
    "cuda:99",
    "4090",
    "darts",
    "nasbench201",
    "p_darts",
    "gdas",
    "2",
)
POSITIONAL = {"retrain": "DARTS_V2", "show": "PDARTS", "methods": "*", "report": ".", "compare": ".", "pack": "."}
POSITIONAL |= {"predict": ". x.png", "evaluate": ". --data digits", "export": ".", "profile": "json:dumps"}
BASE = {"search": TINY, "index": ["--data", "digits"], "shards": ["--data", "digits", "--out", "shards"]}
LEFT_OUT = ("--download", "--trust")  # the network; and what runs code on purpose


class Began(BaseException):
    """A command that found nothing wrong with its options."""


def begin(*arguments, **options):
    raise Began


@pytest.fixture
def stopped_at_the_start(monkeypatch, tmp_path):
    """Commands check all that they are told, and stop where work begins."""
    monkeypatch.chdir(tmp_path)

    def begin_plan(*arguments, budget, target, **options):
        read_budget(budget, target)
        raise Began

    for place, name in (
        ("fastnas.experiment.experiment", "search"),
        ("fastnas.experiment.series", "_side_by_side"),
        ("fastnas.cli.retrain", "retrain"),
        ("fastnas.cli.latency", "measure"),
        ("fastnas.cli.check", "check"),
        ("fastnas.cli.shards", "write_shards"),
    ):
        monkeypatch.setattr(importlib.import_module(place), name, begin)
    monkeypatch.setattr(importlib.import_module("fastnas.cli.plan"), plan.__name__, begin_plan)


def draw_values(kind, rng):
    """What an option of this kind might be given by somebody who means it."""
    if get_origin(kind) is Literal:
        return [str(rng.choice(get_args(kind)))]
    if get_origin(kind) is tuple:
        parts = [part for part in get_args(kind) if part is not Ellipsis]
        return [word for part in parts for word in draw_values(part, rng)]
    numbers = {int: ("0", "1", "2", "3", "8", "12", "64", "5000"), float: ("0", "0.01", "0.1", "0.5", "0.9", "1", "3")}
    words = ("darts", "nasbench201", "gdas", "cpu", "digits", "parameters", "4090", "8GiB", "x.json", "DARTS_V2")
    return [] if kind is bool else [rng.choice(numbers.get(kind, words))]


def draw_command(seed):
    """A command line of one to four options with odd values, beside what the command needs."""
    rng = random.Random(seed)
    hostility = rng.choice([0.2, 0.2, 0.5, 0.9])
    verb = rng.choice([*VERBS, *["search"] * 20, *["plan", "retrain"] * 5])
    default = default_command(importlib.import_module(f"fastnas.cli.{verb}"), [])
    options = [o for o in list_options(default, heading) if not o.is_positional and o.flag not in LEFT_OUT]
    words = [verb, *shlex.split(POSITIONAL.get(verb, "")), *BASE.get(verb, [])]
    for option in rng.sample(options, min(len(options), rng.randint(1, 4))):
        if rng.random() < hostility:
            value = rng.choice(ODD)
            words += rng.choice([[f"{option.flag}={value}"], [option.flag, value], [option.flag]])
        else:
            words += [option.flag, *draw_values(option.kind, rng)]
    if rng.random() < 0.03:
        words.append(rng.choice(["--no-such-option", "stray", "--epochs", "-h", "--"]))
    return words


def run(words, capsys):
    """What came of a command line; whatever is wrong with that is said."""
    try:
        status = main(words)
    except Began:
        return
    except BaseException as error:
        pytest.fail(f"{type(error).__name__}: {str(error)[:300]}\n{shlex.join(words)[:2000]!r}")
    printed, said = capsys.readouterr()
    is_fine = status == 0 or (status in (1, 2) and (said.count("\n") == 1 or words[0] in ("plan", "check")))
    is_fine = is_fine and said.replace("\n", "").isprintable() and "\x1b" not in printed and len(said) < 3000
    if not is_fine:
        pytest.fail(f"status {status}, {said[:2000]!r}\n{shlex.join(words)[:2000]!r}")


PIECES = [pytest.param(p, marks=() if p < QUICK else pytest.mark.slow) for p in range(500 // PIECE)]


@pytest.mark.parametrize("piece", PIECES)
def test_a_random_command_line_begins_or_is_refused_in_one_line(piece, stopped_at_the_start, capsys):
    for seed in range(piece * PIECE, (piece + 1) * PIECE):
        run(draw_command(seed), capsys)
