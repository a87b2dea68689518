import pickle
from pathlib import Path

import pytest
import torch

from fastnas.train.checkpoint import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


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
    for content in (pickle.dumps(Malicious()), None):
        if content is None:
            torch.save(Malicious(), path)
        else:
            path.write_bytes(content)
        with pytest.raises(ValueError, match="truncated or foreign"):
            load_checkpoint(path, "me", CPU)
    assert not (tmp_path / "hacked").exists()


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    save_checkpoint(tmp_path / "c.pt", "me", {})
    with pytest.raises(ValueError, match="got a checkpoint of another configuration"):
        load_checkpoint(tmp_path / "c.pt", "you", CPU)
