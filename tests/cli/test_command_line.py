"""What the command line says of options, and what it does with files that come from others."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.table import Table
from rich.text import Text

import fastnas
from fastnas.cli.compare import arrange
from fastnas.cli.main import VERBS, heading, main, overview, parse
from fastnas.cli.options import list_options
from fastnas.cli.recipe import shrink
from fastnas.cli.search import FIRST, Search
from fastnas.data import DataConfig
from fastnas.experiment.folder import LOCK, open_run
from fastnas.experiment.parts import prepare
from fastnas.experiment.progress import SafeConsole
from fastnas.experiment.recipes import RECIPES
from fastnas.experiment.settings import experiment_to_json, load_experiment
from fastnas.files import write_json

TINY = ["--space", "nasbench201", "--method", "darts", "--channels", "4", "--cells", "1", "--epochs", "1"]
TINY += ["--warmup-epochs", "0", "--batch-size", "32", "--train-fraction", "0.1", "--device", "cpu"]
TINY += ["--recipe", "digits_darts", "--random-genotypes", "0", "--no-retrain-searched", "--select", "argmax"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["serch"], "fastnas: there is no command 'serch'. Did you mean search?"),
        (["search", "--epoch", "3"], "fastnas search: there is no option --epoch. Did you mean --epochs?"),
        (["search", "--epochs", "many"], "fastnas search: --epochs takes a whole number, got 'many'."),
        (["search", "--epochs"], "fastnas search: --epochs takes a whole number, got nothing."),
        (["search", "--epochs="], "fastnas search: --epochs takes a whole number, got ''."),
        (["search", "--precision", "int8"], "fastnas search: --precision takes one of float32, bfloat16, got 'int8'."),
        (["search", "--fractions", "0.1"], "fastnas search: --fractions takes 2 values, each a number, got '0.1'."),
        (["search", "--alpha-lr", "inf"], "fastnas search: --alpha-lr takes a finite number, got inf."),
        (["search", "--alpha_lr=nan"], "fastnas search: --alpha-lr takes a finite number, got nan."),
        (["retrain", "PDARTS", "--precision", "bf16"], "fastnas retrain: --precision takes one of float32, bfloat16, "),
        (["retrain"], "fastnas retrain: it needs GENOTYPE. "),
        (["index"], "fastnas index: it needs --data TEXT. "),
        (["search", "extra"], "fastnas search: extra belongs to no option. "),
        (["search", "--\x1b]0;title\x07"], r"fastnas search: there is no option --\x1b]0;title\x07. "),
    ],
)
def test_a_bad_option_is_one_line_with_its_name(arguments, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(line)
    assert errors.count("\n") == 1
    assert "tyro" not in errors
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_command_without_importing_torch():
    program = "import sys; from fastnas.cli.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == overview() + "\n"
    for verb in VERBS:
        assert re.search(rf"^  {verb} +\w.*\.$", done.stdout, re.MULTILINE)


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastnas {fastnas.__version__}\n"


def test_help_shows_ten_options_first_and_all_when_asked(capsys):
    assert main(["search", "--help"]) == 0
    short = capsys.readouterr().out
    assert all(flag in short for flag in FIRST)
    assert "--alpha-beta1" not in short
    assert "fastnas search --help-all shows all" in short
    assert main(["search", "--help-all"]) == 0
    everything = capsys.readouterr().out
    for option in list_options(Search(), heading):
        assert option.flag in everything
        assert option.help, f"{option.flag} says nothing"
    for title in ("run", "search", "data", "training", "weights", "alpha", "retraining", "costs", "selection"):
        assert f"\n{title}\n" in everything


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert f"usage: fastnas {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_shrinks_to_one_whose_parts_fit(name):
    small = shrink(RECIPES[name])
    prepare(replace(small, config=replace(small.config, device="cpu")))
    assert parse(["search", "--recipe", name, "--smoke"]).experiment == small


@pytest.mark.parametrize("field", ["method", "space"])
def test_a_config_of_somebody_else_runs_no_code(field, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()")
    settings = experiment_to_json(RECIPES["digits"]) | {field: "evil.py:anything"}
    run = tmp_path / "run"
    run.mkdir(parents=True)
    for file in (tmp_path / "c.json", run / "config.json"):
        file.write_text(json.dumps(settings))
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "series.json").write_text(json.dumps({"experiment": {field: "evil.py:anything"}}))
    for arguments in (
        ["search", "--recipe", "c.json"],
        ["plan", "--recipe", "c.json"],
        ["retrain", "PDARTS", "--recipe", "c.json"],
        ["search", "--resume", "run"],
        ["search", "--resume", "series"],
    ):
        assert main(arguments) == 1
        errors = capsys.readouterr().err
        assert f"must not name code to run as its {field}, got 'evil.py:anything'" in errors
        assert "--trust" in errors
        assert errors.count("\n") == 1
    main(["report", "run"])
    assert not (tmp_path / "ran").exists()
    assert load_experiment(tmp_path / "c.json", trust=True) == replace(RECIPES["digits"], **{field: "evil.py:anything"})
    command = parse(["search", "--recipe", "c.json", f"--{field}", "darts"])
    assert getattr(command.experiment, field) == "darts"
    assert not (tmp_path / "ran").exists()


def test_a_method_of_a_file_goes_the_whole_way_and_its_resume_says_trust(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_file.py").write_text("from fastnas.methods import darts as mine\n")
    assert main(["search", *TINY, "--method", "my_file.py:mine", "--run", "run [/b] x"]) == 0
    shown = capsys.readouterr().out
    assert "fastnas search --resume 'run [/b] x' --trust" in shown
    assert main(["search", "--resume", "run [/b] x", "--trust"]) == 0
    assert main(["report", "run [/b] x"]) == 0
    assert "report: run [/b] x/report.html" in capsys.readouterr().out


def test_two_processes_do_not_share_a_run_folder(tmp_path, capsys):
    run = tmp_path / "run"
    program = (
        "import sys, pathlib\nfrom fastnas.experiment.folder import open_run\n"
        "with open_run(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"must not be in use by another process, got process {holder.pid} on "):
            open_run(run).__enter__()
        assert (run / LOCK).exists()
        holder.kill()
        holder.wait()
    assert (run / LOCK).exists()  # stale: the kernel knows that nobody holds it
    with open_run(run):
        assert json.loads((run / LOCK).read_text())["pid"] == os.getpid()
    assert not (run / LOCK).exists()


def test_what_a_kill_leaves_is_removed_once_the_folder_is_held(tmp_path):
    leftovers = [tmp_path / ".checkpoint.pt.x1.part", tmp_path / "retrain" / "searched" / ".metrics.jsonl.y2.part"]
    for path in leftovers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    (tmp_path / "notes.part").write_text("mine")
    with open_run(tmp_path):
        assert not any(path.exists() for path in leftovers)
    assert (tmp_path / "notes.part").read_text() == "mine"


def test_a_start_that_fails_leaves_no_folder_and_offers_no_resume(tmp_path, capsys):
    for wrong in (["--table", str(tmp_path / "none.csv")], ["--channels", "10", "--method", "pc_darts"]):
        assert main(["search", *TINY, *wrong, "--run", str(tmp_path / "a" / "run")]) == 1
        shown = capsys.readouterr()
        assert "resume" not in shown.out
        assert not (tmp_path / "a").exists()
    assert main(["retrain", "PDARTS", "--auxiliary", "0.4", "--run", str(tmp_path / "r")]) == 1
    assert not (tmp_path / "r").exists()


def test_short_epochs_need_a_series(tmp_path, capsys):
    for arguments in (["--short-epochs", "3"], ["--runs", "2", "--short-epochs", "0"]):
        assert main(["search", *TINY, *arguments, "--run", str(tmp_path / "run")]) == 1
        assert "short" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


NAMES = ["caf\udce9", "\x1b]0;title\x07", "\x1b[2J", "a[/b]c", "[bold]x"]


@pytest.mark.parametrize("name", NAMES)
def test_foreign_names_are_shown_escaped_and_do_nothing(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / name
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"method": name, "space": "darts", "data": name}))
    (run / "data.json").write_text(json.dumps({"notes": [name], "classes": [name]}))
    for words in (["report", str(run)], ["compare", str(run)], ["pack", str(run)]):
        assert main(words) == 0
    printed, said = capsys.readouterr()
    assert printed.replace("\n", "").isprintable()
    assert said == ""
    if name.startswith("["):
        assert name in printed  # no markup
    table = Table(name)
    table.add_row(Text(name))
    SafeConsole().print(table)
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert name.encode("unicode_escape", "surrogatepass").decode()[:3] in printed


def complete(line, tmp_path, capsys):
    """What bash offers behind ``line``."""
    assert main(["--completion"]) == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    words = f"COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))"
    script = f'. {tmp_path}/completion; {words}; _fastnas; echo "${{COMPREPLY[@]}}"'
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_shell_completes_commands_and_options(tmp_path, capsys):
    assert complete("fastnas ret", tmp_path, capsys) == ["retrain"]
    assert "--weight-lr" in complete("fastnas search --weight", tmp_path, capsys)
    assert complete("fastnas export --dyn", tmp_path, capsys)[0] == "--dynamic-batch"


def test_a_retraining_by_the_recipe_of_a_run_reads_its_images_as_the_search_did(tmp_path):
    experiment = replace(
        RECIPES["digits"],
        images=DataConfig(task="regression", resolution=(16, 24), image_channels=1),
        config=replace(RECIPES["digits"].config, seed=7, class_weights="balanced", train_fraction=0.5),
        retrain=replace(RECIPES["digits"].retrain, init_from="supernet"),
    )
    write_json(tmp_path / "config.json", experiment_to_json(experiment))
    found = parse(["retrain", "PDARTS", "--recipe", str(tmp_path / "config.json")])
    assert (found.images.task, found.images.resolution, found.images.image_channels) == ("regression", (16, 24), 1)
    assert (found.setup.seed, found.setup.class_weights, found.setup.train_fraction) == (7, "balanced", 1.0)
    assert found.config.init_from is None


def test_a_smoke_test_takes_a_folder_of_a_hundred_images():
    search, training = parse(["search", "--smoke"]).experiment, parse(["retrain", "PDARTS", "--smoke"])
    assert 100 * search.config.train_fraction / 2 >= search.config.batch_size
    assert 100 * training.setup.train_fraction >= training.config.batch_size


def test_few_runs_stand_side_by_side_and_many_below_each_other():
    runs = [{"run": name, "method": "darts", "accuracy": "97"} for name in "abc"]
    assert [column.header.plain for column in arrange(runs[:2]).columns] == ["run", "a", "b"]
    assert [column.header.plain for column in arrange(runs).columns] == ["run", "method", "accuracy"]
    assert arrange(runs[:1]).row_count == 2
