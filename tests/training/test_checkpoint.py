import errno
import pickle
import random
import warnings
from pathlib import Path

import pytest
import torch

from fastnas.training.checkpoint import (
    FORMAT,
    has_checkpoint,
    load_checkpoint,
    note_threads,
    restoring,
    save_checkpoint,
)

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("hacked"),)


def test_a_state_survives_a_round_trip(tmp_path):
    state = {"w": {"a": torch.randn(3)}, "step": 7, "nested": [{"betas": (0.5, 0.999)}]}
    save_checkpoint(tmp_path / "c.pt", "me", state)
    loaded = load_checkpoint(tmp_path / "c.pt", "me", CPU)
    assert torch.equal(loaded["w"]["a"], state["w"]["a"])
    assert loaded["nested"] == state["nested"]


def test_a_truncated_checkpoint_is_refused_at_any_length(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, "me", {"w": torch.randn(1000)})
    content = path.read_bytes()
    for length in (0, 1, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(
            ValueError, match=r"must be a checkpoint of fastnas, got a truncated or foreign file .*Delete"
        ):
            load_checkpoint(path, "me", CPU)


def test_foreign_files_are_refused_and_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.pt"
    torch.save({"model": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="another program's file"):
        load_checkpoint(path, "me", CPU)
    path.write_text("hello")
    with pytest.raises(ValueError, match="truncated or foreign"):
        load_checkpoint(path, "me", CPU)
    for content in (pickle.dumps(Malicious(), protocol=2), None):
        if content is None:
            torch.save(Malicious(), path)
        else:
            path.write_bytes(content)
        with pytest.raises(ValueError, match="truncated or foreign"):
            load_checkpoint(path, "me", CPU)
    assert not (tmp_path / "hacked").exists()


def test_random_bytes_are_refused_whatever_their_unpickling_runs_into(tmp_path):
    path, rng = tmp_path / "c.pt", random.Random(0)
    opcodes = b"(.0123FIJKLMNPQRSTUVXabcdeghijlopqrstu}]\x80\x02\x8c\n"
    contents = [bytes(rng.choices(range(256), k=rng.randrange(1, 60))) for _ in range(100)]
    contents += [b"\x80\x02" + bytes(rng.choices(opcodes, k=rng.randrange(1, 12))) + b"." for _ in range(300)]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^checkpoint: .*must be a checkpoint of fastnas") as caught:
            load_checkpoint(path, "me", CPU)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [[1], "text", {}, {"format": FORMAT}, {"format": FORMAT, "identity": "me"}], ids=str
)
def test_content_of_another_form_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="another program's file"):
        load_checkpoint(tmp_path / "c.pt", "me", CPU)


def test_a_missing_checkpoint_is_named_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"c\.pt must be a checkpoint of fastnas, got .*FileNotFoundError"):
        load_checkpoint(tmp_path / "c.pt", "me", CPU)


def test_a_checkpoint_whose_writing_fails_leaves_the_one_before(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c.pt", "me", {"step": 1})

    def full_disk(content, file):
        file.write(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "c.pt", "me", {"step": 2})
    assert load_checkpoint(tmp_path / "c.pt", "me", CPU) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    save_checkpoint(tmp_path / "c.pt", "me", {})
    with pytest.raises(ValueError, match=r"got a checkpoint of another configuration \('me', not 'you'\)"):
        load_checkpoint(tmp_path / "c.pt", "you", CPU)


def test_the_one_before_is_kept_and_taken_where_the_last_is_damaged(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for step in (1, 2, 3):
        save_checkpoint(path, "me", {"step": step})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]
    assert load_checkpoint(path, "me", CPU) == {"step": 3}
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(RuntimeWarning, match=r"truncated or foreign .* The one before it, checkpoint.previous.pt, is"):
        assert load_checkpoint(path, "me", CPU) == {"step": 2}
    path.unlink()
    assert has_checkpoint(path)
    with pytest.warns(RuntimeWarning, match="The one before it"):
        assert load_checkpoint(path, "me", CPU) == {"step": 2}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_saved(tmp_path, value):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, "me", {"w": {"a": torch.ones(3)}})
    bad = torch.ones(3)
    bad[1] = value
    message = r"^checkpoint: what is saved must be finite, got 1 tensors that are not, among them w\.b\."
    with pytest.raises(FloatingPointError, match=message):
        save_checkpoint(path, "me", {"w": {"a": torch.ones(3), "b": bad}})
    assert torch.equal(load_checkpoint(path, "me", CPU)["w"]["a"], torch.ones(3))
    assert not (tmp_path / "checkpoint.previous.pt").exists()


def test_a_flipped_bit_is_noticed_wherever_a_tensor_or_number_lies(tmp_path):
    path = tmp_path / "checkpoint.pt"
    state = {"w": {"a": torch.arange(4096, dtype=torch.float32)}, "step": 7}
    save_checkpoint(path, "me", state)
    content, rng = path.read_bytes(), random.Random(0)
    accepted = 0
    for _ in range(200):
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            loaded = load_checkpoint(path, "me", CPU)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017
            continue
        accepted += 1  # in the filling between the parts of the file
        assert torch.equal(loaded["w"]["a"], state["w"]["a"])
        assert loaded["step"] == 7
    assert accepted < 20


@pytest.mark.parametrize("state", [{}, {"w": None}, {"w": {"a": torch.ones(3)}}, {"w": [1]}], ids=str)
def test_a_state_of_another_form_is_one_line(tmp_path, state):
    module = torch.nn.Linear(2, 2)
    message = r"^checkpoint: .*checkpoint\.pt must hold the complete state.*Delete .*"
    with pytest.raises(ValueError, match=message) as caught, restoring(tmp_path / "checkpoint.pt"):
        module.load_state_dict(state["w"])
    assert "\n" not in str(caught.value)


def test_another_number_of_threads_is_told(tmp_path):
    path = tmp_path / "c.pt"
    saved = {"threads": torch.get_num_threads() + 1}
    rule = rf"needs {saved['threads']} threads to end with the same bits, got .*NUM_THREADS={saved['threads']}"
    with pytest.warns(RuntimeWarning, match=rule):
        note_threads(path, saved, CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        note_threads(path, saved, torch.device("cuda"))
        note_threads(path, {"threads": torch.get_num_threads()}, CPU)
        note_threads(path, {}, CPU)
