import errno
import os

import pytest

from fastnas.files import (
    TEMPORARY,
    append_json_line,
    read_json,
    read_json_lines,
    remove_leftovers,
    write_atomically,
    write_json,
)
from fastnas.run_files import keep_epochs


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "state"
    path.write_text("old")

    def write(file):
        file.write(b"half of the new")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for epoch in range(3):
        append_json_line(path, {"epoch": epoch})
    path.write_text(path.read_text()[:-4])
    assert read_json_lines(path) == [{"epoch": 0}, {"epoch": 1}]


def test_files_are_made_with_their_folder_and_can_be_read_by_others(tmp_path):
    path = tmp_path / "a" / "b" / "state.json"
    write_json(path, [1])
    assert read_json(path) == [1]
    assert path.stat().st_mode & 0o777 == 0o644


def test_dropping_lines_keeps_the_old_file_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    append_json_line(path, {"epoch": 0, "epochs": 1})

    def full_disk(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        keep_epochs(path, dict, 0)
    assert read_json_lines(path) == [{"epoch": 0, "epochs": 1}]


def test_a_file_of_lines_that_is_missing_has_none(tmp_path):
    assert read_json_lines(tmp_path / "metrics.jsonl") == []


def test_json_that_is_missing_or_broken_is_named_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json must exist"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="must hold JSON"):
        read_json(tmp_path / "config.json")
    for content in (b"\xff\xfe", b"[" * 100_000, b"1" * 5000):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"^run: .*config\.json must hold JSON, got .*"):
            read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {"a": 1})
    assert read_json(tmp_path / "config.json") == {"a": 1}


def test_what_is_no_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_temporary_files_of_a_killed_run_are_removed(tmp_path):
    leftovers = [tmp_path / f".state.abc{TEMPORARY}", tmp_path / "retrain" / f".metrics.jsonl.x{TEMPORARY}"]
    for path in leftovers:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    (tmp_path / "state").write_text("whole")
    write_atomically(tmp_path / "state", lambda file: file.write(b"new"))
    assert leftovers[0].exists()  # somebody may be writing it
    os.utime(leftovers[0], (0, 0))
    write_atomically(tmp_path / "state", lambda file: file.write(b"new"))
    assert not leftovers[0].exists()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["retrain", "state"]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EROFS, "Name a folder on a disk that can be written"),
        (errno.ENOSPC, "free some space and go on with --resume"),
        (errno.EACCES, "Name a folder that you may write to"),
    ],
)
@pytest.mark.parametrize("write", [lambda path: write_json(path, 1), lambda path: append_json_line(path, {})])
def test_what_cannot_be_written_is_named_with_what_to_do(tmp_path, monkeypatch, code, remedy, write):
    def refuse(*arguments, **options):
        raise OSError(code, os.strerror(code), "/some/.temporary.x1234")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr(type(tmp_path), "open", refuse)
    with pytest.raises(OSError, match=rf"^disk: .*metrics\.jsonl must be written, got .*{remedy}") as caught:
        write(tmp_path / "run" / "metrics.jsonl")
    assert caught.value.errno == code
    assert "temporary" not in str(caught.value)


def test_a_full_disk_that_a_writer_hides_behind_an_error_of_its_own_is_named(tmp_path):
    def write(file):
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            raise RuntimeError("unexpected pos 184000 vs 183888")  # as PyTorch's archive does when it is closed

    with pytest.raises(OSError, match=r"^disk: .*state must be written, got No space left.*free some space"):
        write_atomically(tmp_path / "state", write)
    assert list(tmp_path.iterdir()) == []
