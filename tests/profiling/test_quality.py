"""The measurement of what searches find: budgets, protocols, and what is kept."""

import gzip
from dataclasses import replace
from types import SimpleNamespace

import pytest
import quality

from fastnas.data import load_data
from fastnas.engine.budget import StepTimes
from fastnas.files import read_json_lines, write_json
from fastnas.selection import LadderConfig
from measuring import regret

TABLE = {"0": 60.0, "1": 70.0, "2": 80.0}


class AnyArchitecture(dict):
    """A table that knows a number for whatever is found."""

    def __missing__(self, text):
        return 50 + text.count("nor_conv_3x3")


@pytest.fixture
def options(tmp_path, monkeypatch):
    speeds = tmp_path / "speeds.json"
    step = {"weight": 0.1, "alpha": 0.1, "evaluation": 0.01}
    write_json(speeds, {"training step": 0.2, quality.METHOD: step, "darts": step})
    monkeypatch.setattr(quality, "SEARCH", replace(quality.SEARCH, channels=2, batch_size=8, evaluation_images=16))
    monkeypatch.setattr(quality, "TRAINING", replace(quality.TRAINING, channels=2, batch_size=8))
    monkeypatch.setattr(quality, "RANKED", 4)
    monkeypatch.setattr(quality, "SEARCHES", {})
    monkeypatch.setattr(quality, "read_table", lambda *_: AnyArchitecture(best=90.0))
    monkeypatch.setattr(quality, "LadderConfig", lambda **_: LadderConfig(proposals=4, images=16, steps=4))
    return quality.Quality(
        minutes=(0.1,),
        seeds=(0,),
        data="digits",
        resolution=8,
        results=tmp_path / "results.jsonl",
        speeds=speeds,
    )


@pytest.mark.slow
def test_every_protocol_leaves_a_record_and_none_is_repeated(options, capsys, monkeypatch):
    protocols = (
        "default",
        "one_search",
        "last_epoch",
        "fast_rate",
        "paper_rate",
        "ladder",
        "no_halving",
        "halving",
        "random",
        "darts",
    )
    options = replace(options, protocols=protocols, minutes=(0.2,))
    quality.main(options)
    records = read_json_lines(options.results)
    assert [one["protocol"] for one in records] == list(protocols)
    assert all(one["validation"] == AnyArchitecture()[one["genotype"]] for one in records)
    assert all(-1 <= one["tau"] <= 1 for one in records if "tau" in one)
    monkeypatch.setattr(quality, "run_protocol", lambda *_: pytest.fail("it is there"))
    quality.main(options)
    capsys.readouterr()
    quality.main(replace(options, report=True, plot=options.results.with_suffix(".svg")))
    printed = capsys.readouterr().out
    for protocol in protocols:
        assert f"| {protocol} | 0.2 | 1 |" in printed
    assert options.results.with_suffix(".svg").exists()


def test_a_record_is_kept_and_not_repeated(options, monkeypatch):
    options = replace(options, protocols=("random",))
    quality.main(options)
    (record,) = read_json_lines(options.results)
    assert record["validation"] == AnyArchitecture()[record["genotype"]]
    monkeypatch.setattr(quality, "run_protocol", lambda *_: pytest.fail("it is there"))
    quality.main(options)


def test_a_table_is_read_by_its_columns(tmp_path):
    path = tmp_path / "table.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write(f"architecture,{quality.VALIDATION},{quality.TEST}\na,1.5,2.5\n")
    assert quality.read_table(path, quality.VALIDATION) == {"a": 1.5}
    assert quality.read_table(path, quality.TEST) == {"a": 2.5}


def test_seeds_for_choosing_settings_are_not_reported(options, capsys):
    quality.main(replace(options, protocols=("random",), seeds=(100,)))
    capsys.readouterr()
    quality.main(replace(options, report=True))
    assert "random" not in capsys.readouterr().out


def test_a_report_lists_seeds_in_their_order(capsys):
    record = {"protocol": "random", "minutes": 5.0, "cpu_seconds": 1.0}
    regret.print_report([{**record, "seed": seed, "genotype": str(seed)} for seed in (2, 0, 1)], TABLE)
    assert "| 60.00 (3) / 70.00 (2) / 80.00 (1) |" in capsys.readouterr().out


def test_an_unknown_protocol_is_refused(options):
    with pytest.raises(
        ValueError,
        match="protocols must be default, one_search, last_epoch, fast_rate, paper_rate, ladder, no_halving, uniform, "
        "halving, random or",
    ):
        quality.main(replace(options, protocols=("chance",)))


def test_the_opponent_fills_its_time():
    ladder = quality.most_entrants(300, LadderConfig(), 0.03)
    assert ladder.total_steps * 0.03 <= 300 < replace(ladder, entrants=ladder.entrants + 1).total_steps * 0.03


def test_images_are_averaged_down():
    data, whole = quality.in_memory("digits", 4), load_data("digits")
    assert data.train.image(0).shape == (1, 4, 4)
    assert float(data.train.image(0).float().mean()) == pytest.approx(float(whole.train.image(0).float().mean()), abs=1)


@pytest.mark.slow
def test_speeds_are_measured_once(tmp_path):
    data = quality.in_memory("digits", 8)
    first = quality.times_of("darts", data, tmp_path / "speeds.json")
    assert isinstance(first, StepTimes)
    assert quality.times_of("darts", data, tmp_path / "speeds.json") == first


def test_the_default_is_compared_with_the_best_that_halving_can_draw(capsys):
    entrants = quality.most_entrants(60, quality.LadderConfig(images=1024), 0.03).entrants
    drawn = [quality.genotype_to_text(one) for one in quality.draw_entrants(entrants, 0)]
    assert len(set(drawn)) == entrants
    table = {text: 60.0 + number for number, text in enumerate(drawn)} | {"found": 50.0, "better": 99.0}
    for found, won in (("found", 0), ("better", 1)):
        record = {"protocol": "default", "minutes": 1.0, "seed": 0, "genotype": found}
        bounds = quality.find_bounds([record], table, 0.03)
        assert bounds == {1.0: {0: 59.0 + entrants}}
        regret.print_bounds([record], table, bounds)
        assert f"has {59.0 + entrants:.2f} %; the default is above it in {won} of 1 seeds." in capsys.readouterr().out


def test_budgets_share_the_searches_that_they_have_in_common(options, monkeypatch):
    searched = []
    monkeypatch.setattr(quality, "fit_searches", lambda times, method, data, config: round(config.minutes / 5))
    monkeypatch.setattr(quality, "fit_minutes", lambda times, method, data, config: config)
    found = SimpleNamespace(history=[])
    monkeypatch.setattr(quality, "search", lambda *scene: searched.append(scene[-1].seed) or found)
    monkeypatch.setattr(quality, "derive_from_average", lambda *_: quality.random_genotype(quality.NASBENCH201, 0))
    monkeypatch.setattr(quality, "_of_search", lambda *_: {})
    quality.main(replace(options, protocols=("default",), minutes=(10.0, 5.0, 20.0)))
    apart = quality.SEEDS_APART
    assert searched == [0, apart, 0, 2 * apart, 3 * apart]  # one search alone has another rate of alpha
    assert not any("reused_seconds" in one for one in read_json_lines(options.results))


def test_each_method_has_its_picture_beside_the_others(tmp_path):
    record = {"protocol": "darts", "seed": 0, "genotype": "0", "cpu_seconds": 1.0}
    path = tmp_path / "methods.svg"
    regret.plot_methods([{**record, "minutes": minutes} for minutes in (2.0, 5.0)], TABLE, path)
    drawn = path.read_text()
    assert drawn.count("<!-- darts -->") == drawn.count("<!-- default -->") == 1
