"""The plumbing of tuning, on a machine where nothing can be tuned."""

import json

import pytest
import torch
import triton
import tune

from fastnas_kernels.mixed_op import launch
from fastnas_kernels.mixed_op.tables import Tiles, shipped_table, tiles_from_json
from measuring import device
from measuring.device import HostDevice

interpreted = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="tries the script on a CPU")
SMALLEST = next(entry for entry in shipped_table() if "target" not in entry)
FOREVER = lambda: True  # noqa: E731


def fake_times(monkeypatch, ratio):
    monkeypatch.setattr(tune, "medians", lambda device, pair, runs: {"old": 1.0, "new": ratio})


@pytest.fixture
def untimed(monkeypatch):
    """A cell that costs nothing and whose results are right."""
    calls = []

    def results():
        calls.append(launch.tiles_for(16, torch.float32))
        return [torch.ones(2)]

    monkeypatch.setattr(tune, "trials", lambda *_: [tune.Trial(results, [torch.ones(2)], 1e-6)])
    return calls


@interpreted
def test_a_dry_run_writes_a_table_that_the_library_reads(tmp_path, monkeypatch):
    fake_times(monkeypatch, 0.5)
    monkeypatch.setattr(tune, "FAMILIES", ("filters",))
    out = tmp_path / "tiles.json"
    before = [dict(entry) for entry in shipped_table()]
    tune.main(tune.Tune(device="cpu", dry=True, channels=(16,), runs=1, out=out))
    new = json.loads(out.read_text())
    assert all(isinstance(tiles_from_json(entry), Tiles) for entry in new if "target" not in entry)
    tuned = [number for number, entry in enumerate(before) if entry["channels"] == 16 and "target" not in entry]
    assert all(new[number]["filters"] != before[number]["filters"] for number in tuned)
    assert all(new[number] == entry for number, entry in enumerate(before) if number not in tuned)
    assert shipped_table() == before
    assert [file.name for file in tmp_path.iterdir()] == ["tiles.json"]


def test_the_table_is_written_as_it_is_shipped():
    text = tune.table_text(shipped_table())
    assert json.loads(text) == shipped_table()
    assert text.splitlines()[1].startswith('  {"channels": 4, ')


def test_every_candidate_that_is_faster_is_taken_and_measured_against_the_last_that_was(monkeypatch, untimed):
    fake_times(monkeypatch, 0.5)
    best = tune.tuned(HostDevice(), SMALLEST, tune.Tune(dry=True), FOREVER)
    assert all(best[family] != SMALLEST[family] for family in tune.FAMILIES)
    others = ("halves", "splits", "windows")
    assert all(best[number] != SMALLEST[number] for number in others)
    assert best | {key: SMALLEST[key] for key in (*tune.FAMILIES, "edges", *others)} == SMALLEST
    assert untimed[-1] == tiles_from_json(best)


@pytest.mark.parametrize("ratio", [0.99, 1.0, 1.5])
def test_what_is_hardly_faster_is_left(monkeypatch, untimed, ratio):
    fake_times(monkeypatch, ratio)
    assert tune.tuned(HostDevice(), SMALLEST, tune.Tune(dry=True), FOREVER) == SMALLEST


def test_a_candidate_with_other_results_is_not_taken_however_fast(monkeypatch, capsys):
    shipped = tiles_from_json(SMALLEST)

    def results():
        return [torch.ones(2) if launch.tiles_for(16, torch.float32) == shipped else torch.tensor([1, 1.01])]

    monkeypatch.setattr(tune, "trials", lambda *_: [tune.Trial(results, [torch.ones(2)], 1e-6)])
    fake_times(monkeypatch, 0.1)
    assert tune.tuned(HostDevice(), SMALLEST, tune.Tune(dry=True), FOREVER) == SMALLEST
    assert "results must be within 1.0e-06 of those of the shipped tiles, got 7.1e-03" in capsys.readouterr().out


def test_a_candidate_that_does_not_compile_is_said_and_passed_over(monkeypatch, capsys):
    shipped = tiles_from_json(SMALLEST)

    def results():
        if launch.tiles_for(16, torch.float32) != shipped:
            raise RuntimeError("out of resources")
        return [torch.ones(2)]

    monkeypatch.setattr(tune, "trials", lambda *_: [tune.Trial(results, [torch.ones(2)], 1e-6)])
    assert tune.tuned(HostDevice(), SMALLEST, tune.Tune(dry=True), FOREVER) == SMALLEST
    assert "RuntimeError: out of resources" in capsys.readouterr().out


def test_when_time_is_over_what_was_found_is_kept(monkeypatch, untimed):
    fake_times(monkeypatch, 0.5)
    answers = iter([True, False])
    best = tune.tuned(HostDevice(), SMALLEST, tune.Tune(dry=True), lambda: next(answers))
    assert [family for family in best if best[family] != SMALLEST[family]] == ["stage"]


@pytest.mark.parametrize("entry", [*map(tune.completed, shipped_table())], ids=lambda entry: str(entry["channels"]))
def test_candidates_fit_their_entry(entry):
    for family in tune.FAMILIES:
        found = tune.candidates(family, entry, dry=False)
        assert len(found) > 3
        assert entry[family] not in found
        assert all(channels <= max(16, entry["channels"]) for _, channels, _ in found)
    several = entry["stage"][1] >= entry["channels"]
    others = [edges for edges in (1, 2, 3, 4) if edges != entry["edges"]]
    assert tune.candidates("edges", entry, dry=False) == (others if several else [])
    windows = entry.get("windows", 1)
    assert tune.candidates("windows", entry, dry=False) == [3 - windows]
    assert tune.candidates("sums", entry, dry=False) == ([] if windows == 1 else [3 - entry.get("sums", windows)])


def test_an_entry_for_a_target_says_what_is_different_there():
    for entry in shipped_table():
        whole = tune.completed(entry)
        assert isinstance(tiles_from_json(whole), Tiles)
        assert whole == entry or "target" in entry
        assert tune.differences(whole) == entry


def test_the_tiles_of_a_trial_end_with_it():
    before = launch.tiles_for
    other = tiles_from_json(SMALLEST | {"splits": 7})
    assert tune.with_tiles(other, lambda: [launch.tiles_for(16, torch.float32)])() == [other]  # type: ignore[list-item]
    assert launch.tiles_for is before


@interpreted
def test_refuses_to_tune_in_the_interpreter():
    with pytest.raises(RuntimeError, match="tune: tiles must be measured on a GPU, got Triton's interpreter"):
        tune.main(tune.Tune(device="cpu"))


@interpreted
@pytest.mark.parametrize("options", [{"channels": (17,)}, {"target": "none"}])
def test_refuses_entries_that_the_table_does_not_have(options):
    with pytest.raises(ValueError, match="an entry must be for these channels"):
        tune.main(tune.Tune(device="cpu", dry=True, **options))


def test_refuses_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="tune: a GPU must be there, got none"):
        tune.main(tune.Tune())


def test_an_entry_is_tuned_in_the_dtypes_that_it_serves():
    served = {(e["channels"], e.get("dtype")): tune.dtypes_of(e) for e in shipped_table()}
    assert served[16, "float32"] == [torch.float32]
    assert served[16, None] == [torch.bfloat16]
    assert served[256, None] == [torch.float32, torch.bfloat16]
