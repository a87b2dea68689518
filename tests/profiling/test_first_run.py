"""The comparison of the first run with random search."""

from dataclasses import replace

import first_run

from fastnas.experiment.recipes import RECIPES
from fastnas.files import read_json_lines


def test_each_seed_is_compared_once_and_the_table_says_who_won(tmp_path, monkeypatch, capsys):
    digits = RECIPES["digits"]
    sizes = {"channels": 2, "epochs": 1, "batch_size": 16, "train_fraction": 0.05}
    config = replace(digits.config, **sizes)
    tiny = replace(digits, config=config, retrain=replace(digits.retrain, channels=2, epochs=1))
    monkeypatch.setattr(first_run, "RECIPES", {"digits": tiny})
    options = first_run.FirstRun(seeds=(3,), entrants=2, results=tmp_path / "results.jsonl")
    first_run.main(options)
    (record,) = read_json_lines(options.results)
    assert record["seed"] == 3
    assert record["genotype"] != record["opponent"]
    assert min(record["search_cpu"], record["halving_cpu"]) > 0
    monkeypatch.setattr(first_run, "compare", None)
    capsys.readouterr()
    first_run.main(options)
    won = int(record["searched"] > record["halving"])
    assert f"The search wins {won} of 1." in capsys.readouterr().out
