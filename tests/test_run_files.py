"""Files of a run folder: what is broken, changed, lost or repeated is named in one line."""

import json
import os

import pytest

from fastnas.files import CHECKSUM, read_json, write_json
from fastnas.run_files import (
    BudgetFile,
    Comparison,
    DataDescription,
    Ending,
    RungRecord,
    SearchEpoch,
    SelectionFile,
    Settings,
    TrainingEpoch,
    append_record,
    keep_epochs,
    read_epochs,
    read_file,
    read_records,
)

EPOCH = {"epoch": 0, "epochs": 3, "lr": 0.1, "train_loss": 1.0, "train_accuracy": 0.5, "test_loss": None}
EPOCH |= {"test_accuracy": 0.25, "seconds": 1.5}
DEEP = "[" * 100_000


@pytest.fixture
def metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for epoch in range(3):
        append_record(path, {**EPOCH, "epoch": epoch})
    return path


def test_records_come_back_as_they_were_written(metrics):
    assert read_epochs(metrics, TrainingEpoch) == [{**EPOCH, "epoch": epoch} for epoch in range(3)]
    assert keep_epochs(metrics, TrainingEpoch, 2) == read_epochs(metrics, TrainingEpoch)
    append_record(metrics, {**EPOCH, "epoch": 2, "seconds": 9.0})
    assert len(read_epochs(metrics, TrainingEpoch)) == 3


def test_seconds_do_not_count(metrics, tmp_path):
    for epoch in range(3):
        append_record(tmp_path / "other.jsonl", {**EPOCH, "epoch": epoch, "seconds": 100.0})
    sums = [
        [json.loads(line)[CHECKSUM] for line in path.read_text().splitlines()]
        for path in (metrics, tmp_path / "other.jsonl")
    ]
    assert sums[0] == sums[1]
    assert len(set(sums[0])) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[0], lines[1].replace("0.25", "0.75"), lines[2]],
        lambda lines: [lines[0], lines[0], *lines[1:]],
        lambda lines: [lines[0], lines[2]],
        lambda lines: lines[1:],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: [lines[0].replace('"epoch": 0', '"epoch": "no"'), *lines[1:]],
        lambda lines: [lines[0], "7", lines[2]],
        lambda lines: [lines[0], "null", lines[2]],
        lambda lines: [lines[0], DEEP, lines[2]],
        lambda lines: [lines[0], lines[1][:30], lines[2]],
        lambda lines: [lines[0], "", lines[2]],
        lambda lines: [lines[0].replace("0.5", "NaN"), *lines[1:]],
        lambda lines: [lines[0].replace('"lr": 0.1, ', ""), *lines[1:]],
        lambda lines: [lines[0], lines[1].split(', "checksum"')[0] + "}", lines[2]],
    ],
)
def test_records_that_were_changed_lost_or_repeated_are_refused(metrics, change):
    metrics.write_text("\n".join(change(metrics.read_text().splitlines())) + "\n")
    with pytest.raises(ValueError, match=r"^run: line \d+ of .*metrics\.jsonl must ") as caught:
        read_epochs(metrics, TrainingEpoch)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_records_that_lack_at_the_end_are_missed(metrics):
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:1]))
    with pytest.raises(ValueError, match=r"must hold the 3 epochs of the checkpoint beside it, got 1 of them"):
        keep_epochs(metrics, TrainingEpoch, 3)
    metrics.write_text("")
    with pytest.raises(ValueError, match=r"got 0 of them\. Restore the file, or delete .*checkpoint\.pt"):
        keep_epochs(metrics, TrainingEpoch, 1)


def test_a_half_line_never_joins_the_next(metrics):
    metrics.write_text(metrics.read_text()[:-20])
    append_record(metrics, {**EPOCH, "epoch": 2})
    assert [record["epoch"] for record in read_epochs(metrics, TrainingEpoch)] == [0, 1, 2]


def test_records_of_earlier_versions_have_no_checksum_and_get_some_behind_them(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(EPOCH) + "\n")
    append_record(path, {**EPOCH, "epoch": 1})
    assert [record["epoch"] for record in read_epochs(path, TrainingEpoch)] == [0, 1]
    path.write_text(path.read_text().replace("0.25", "0.5"))
    with pytest.raises(ValueError, match=r"line 2 of .* got another checksum"):
        read_epochs(path, TrainingEpoch)


@pytest.mark.parametrize("schema", [BudgetFile, Comparison, DataDescription, Ending, SelectionFile, Settings])
@pytest.mark.parametrize("content", ["7", "[]", '"a"', DEEP, "", '{"a": NaN}', '{"a": 1e9999', "\0", "{"])
def test_files_of_another_shape_are_refused(tmp_path, schema, content):
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"^run: .*file\.json must ") as caught:
        read_file(path, schema)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "content"),
    [
        (BudgetFile, {"search": {"epochs": 0, "warmup_epochs": None, "fractions": None, "evaluation_images": 1}}),
        (BudgetFile, {"ladder": 3}),
        (BudgetFile, {"halving": {"entrants": 0}}),
        (Comparison, {"networks": [{"name": "searched"}]}),
        (Comparison, {}),
        (DataDescription, {"test_images": "many"}),
        (Ending, {"epoch": -1, "reason": ""}),
        (SelectionFile, {"genotype": "", "origin": "", "rungs": [{}]}),
        (Settings, {"method": "darts"}),
        (Settings, {"space": "darts", "config": {"seed": "x"}}),
        (Settings, {"space": "darts", "retrain": []}),
    ],
)
def test_fields_that_lack_or_are_wrong_are_named(tmp_path, schema, content):
    write_json(tmp_path / "file.json", content)
    with pytest.raises(ValueError, match=r"file\.json must be what a run writes, got \w+"):
        read_file(tmp_path / "file.json", schema)
    assert read_file(tmp_path / "none.json", schema) is None


def test_a_checksum_shows_a_change_and_may_be_taken_away(tmp_path):
    path = tmp_path / "stop.json"
    write_json(path, {"epoch": 3, "reason": "sharp"}, checksum=True)
    assert read_json(path) == {"epoch": 3, "reason": "sharp"}
    path.write_text(path.read_text().replace("3,", "2,"))
    with pytest.raises(ValueError, match=r"stop\.json must not have been changed, got other content\. Restore it"):
        read_json(path)
    path.write_text('{"epoch": 2, "reason": "sharp"}')
    assert read_json(path) == {"epoch": 2, "reason": "sharp"}


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "zero.json", "folder.json"):
        with pytest.raises(ValueError, match="must be a file of at most 256 MiB, got no regular file"):
            read_json(tmp_path / name)


def test_the_records_of_a_search_and_a_ladder_have_schemas(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"epoch": 0}\n')
    with pytest.raises(ValueError, match=r"must be what a run writes, got epochs: Field required"):
        read_epochs(tmp_path / "a.jsonl", SearchEpoch)
    with pytest.raises(ValueError, match=r"must be what a run writes, got rung: Field required"):
        read_records(tmp_path / "a.jsonl", RungRecord)
