"""Runs next to each other, and a run in an archive."""

import csv
import zipfile

import pytest

from fastnas.cli.main import main
from fastnas.files import write_json

REST = {"genotype": {}, "seconds": 1.0}


@pytest.fixture
def runs(tmp_path):
    for number, method in enumerate(("darts", "gdas")):
        run = tmp_path / "runs" / f"r{number}"
        config = {"method": method, "space": "darts", "data": "digits", "config": {"seed": number, "epochs": 3}}
        write_json(run / "config.json", config)
        write_json(run / "genotype.json", {})
        (run / "checkpoint.pt").write_text("large")
        networks = [
            {"name": name, "test_accuracy": 0.5 + 0.1 * place, "num_params": 1000, "multiply_adds": 2000, **REST}
            for place, name in enumerate(("searched", "random_1", "random_2"))
        ]
        if number == 0:
            write_json(run / "comparison.json", {"networks": networks})
    return tmp_path / "runs"


def test_a_folder_of_runs_becomes_a_table_a_csv_file_and_a_page(runs, tmp_path, capsys):
    assert main(["compare", str(runs), "--out", str(tmp_path / "all.csv")]) == 0
    with (tmp_path / "all.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["run"], first["method"], first["config.seed"], first["test accuracy (%)"]) == (
        "r0", "darts", "0", "50.00"
    )  # fmt: skip
    assert (first["random, mean (%)"], second["random, mean (%)"], second["method"]) == ("65.00", "–", "gdas")
    assert "config.epochs" not in first  # they do not differ in it
    assert "<td>gdas</td>" in (tmp_path / "all.html").read_text()
    assert main(["compare", str(tmp_path / "nothing")]) == 1
    assert "folders must hold runs of fastnas search" in capsys.readouterr().err


def test_a_run_is_packed_without_its_checkpoints(runs, tmp_path, capsys):
    assert main(["pack", str(runs / "r0")]) == 0
    names = set(zipfile.ZipFile(runs / "r0.zip").namelist())
    assert {"r0/config.json", "r0/genotype.json", "r0/comparison.json"} <= names
    assert not any("checkpoint" in name for name in names)
    assert sorted(path.name for path in runs.iterdir()) == ["r0", "r0.zip", "r1"]
    assert main(["pack", str(tmp_path)]) == 1
    assert "run must be a run folder" in capsys.readouterr().err


def test_a_dot_in_the_name_of_a_run_is_kept(runs):
    for name in ("lr0.1", "lr0.2"):
        (runs / "r0").rename(runs / name)
        assert main(["pack", str(runs / name)]) == 0
        (runs / name).rename(runs / "r0")
        assert f"{name}/config.json" in zipfile.ZipFile(runs / f"{name}.zip").namelist()


def test_the_table_is_not_written_over_by_its_page(runs, tmp_path, capsys):
    assert main(["compare", str(runs), "--out", str(tmp_path / "all.html")]) == 1
    assert "--out must name the CSV file" in capsys.readouterr().err
    assert not (tmp_path / "all.html").exists()
