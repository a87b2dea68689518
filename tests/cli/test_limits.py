"""What is checked before anything runs."""

import json

import pytest

from fastnas.cli.main import main
from fastnas.spaces.known import KNOWN
from fastnas.training.config import RetrainConfig, SearchConfig
from tests.cli.test_main import TINY

CSV = "architecture,test\n{},50\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "--channels", "1000000000"], "SearchConfig: channels must be at most 16384, got 1000000000."),
        (["search", "--cells", "1000000000"], "SearchConfig: cells must be at most 1000"),
        (["search", "--batch-size", str(2**40)], "SearchConfig: batch_size must be at most 1048576"),
        (["search", "--retrain.channels", "1000000000"], "RetrainConfig: channels must be at most 16384"),
        (["search", "--resolution", "100000"], "data: resolution must be at most 4096 pixels, got 100000."),
        (["search", "--ladder.entrants", str(10**12)], "LadderConfig: entrants must be at most"),
        (["search", "--alpha-lr", "inf"], "--alpha-lr takes a finite number, got inf."),
        (["search", "--alpha-lr", "1e38"], "SearchConfig: alpha_lr must be at most 1000000, got 1e+38."),
        (["search", "--runs", "2", "--short-epochs", "0"], "series: short_epochs must be positive, got 0."),
        (["search", "--short-epochs", "0"], "search: --short-epochs needs --runs or --strengths, got 0."),
        (["search", "--runs", "1000000000"], "series: runs must lie between 1 and 10000"),
        (["search", "--random-genotypes", "-1"], "Experiment: random_genotypes must not be negative"),
        (
            ["search", "--select", "perturbation", "--cost.of", "parameters", "--cost.limit", "30000"],
            "Experiment: --select perturbation does not work with --cost.limit, got both.",
        ),
        (["search", "--workers", "1000000"], "SearchConfig: workers must be at most 1024"),
        (["search", "--cost.of", "parameters"], "cost: --cost.of needs --cost.penalty or --cost.limit, got neither."),
        (
            ["search", "--cost.limit", "3"],
            "cost: --cost.penalty and --cost.limit need --cost.of, got --cost.limit 3.0.",
        ),
        (["search", "--cost.target", "2"], "cost: --cost.target needs --cost.penalty, got 2.0"),
        (
            ["search", "--cost.of", "parameters", "--cost.penalty", "linear", "--cost.exponent", "2"],
            "cost: --cost.exponent needs --cost.penalty log or product, got 2.0",
        ),
        (["search", "--budget", "1e400GiB"], "plan: --budget must be a size such as 24GiB"),
        (["plan", "--budget", "1e400GiB"], "plan: --budget must be a size such as 24GiB"),
        (["plan", "--bandwidth", "0"], "plan: --bandwidth must be a positive number, got 0.0."),
        (["plan", "--bandwidth", "nan"], "--bandwidth takes a finite number, got nan."),
        (["plan", "--cores", "0"], "plan: --cores must be a positive number, got 0."),
        (["plan", "--gpus", "0"], "plan: --gpus must be a positive number, got 0."),
        (["retrain", "DARTS_V2", "--channels", "1000000000"], "RetrainConfig: channels must be at most 16384"),
        (["retrain", "DARTS_V2", "--precision", "int8"], "--precision takes one of float32, bfloat16, got 'int8'."),
        (["retrain", "DARTS_V2", "--max-broken", "-1"], "max_broken must not be negative, got -1."),
        (["latency", "--channels", "1000000000"], "NetworkSize: channels must be at most 16384"),
        (["latency", "--resolution", "100000"], "NetworkSize: resolution must lie between 1 and 4096 pixels"),
    ],
)
def test_sizes_that_cannot_exist_are_refused_in_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in (1, 2)
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.startswith("fastnas")
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "table: file must exist, got table.csv."),
        ("a,b\n1,2\n", "table: table.csv must have the columns architecture"),
        (CSV.format("=1+1"), "table: table.csv must be a table of the space nasbench201, got '=1+1' of no known one."),
        (CSV.format(f'"{KNOWN["PDARTS"]}"'), 'must be a table of the space nasbench201, got "Genotype('),
        (CSV.replace("50", "nan").format("|none~0|"), "line 2, must have an accuracy in percent as test, got 'nan'."),
    ],
)
def test_a_table_is_checked_before_the_search(capsys, tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "table.csv").write_text(content)
    assert main(["search", *TINY, "--table", "table.csv", "--run", "run"]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["weight_lr", "alpha_lr", "momentum", "grad_clip", "minutes", "weight_decay"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_from_python_are_finite_numbers(name, value):
    with pytest.raises(ValueError, match=rf"SearchConfig: {name} must "):
        SearchConfig(**{name: value})
    with pytest.raises(ValueError, match="RetrainConfig: lr must be a finite number"):
        RetrainConfig(lr=value)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "-Infinity"])
def test_numbers_of_a_file_are_finite(capsys, tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": {"weight_lr": 1}}).replace("1}", f"{text}}}"))
    assert main(["search", "--recipe", str(path)]) == 1
    assert "config.json must" in capsys.readouterr().err
