import errno

import pytest

from fastnas.train.files import (
    append_json_line,
    keep_json_lines,
    read_json,
    read_json_lines,
    write_atomically,
    write_json,
)


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
    keep_json_lines(path, lambda record: record["epoch"] < 1)
    assert path.read_text() == '{"epoch": 0}\n'


def test_json_that_is_missing_or_broken_is_named_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json must exist"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="must hold JSON"):
        read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {"a": 1})
    assert read_json(tmp_path / "config.json") == {"a": 1}


def test_what_is_no_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())
