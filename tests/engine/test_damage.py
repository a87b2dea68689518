"""Random damage to the checkpoints of a run that was stopped: a resume ends as it would have, or says one line."""

import random
import shutil
import sys
import warnings

import pytest
import torch

from fastnas.data import load_data
from fastnas.engine import search
from fastnas.methods.library import darts
from fastnas.spaces.registry import space_by_name
from fastnas.training.config import SearchConfig

CONFIG = SearchConfig(channels=4, cells=1, epochs=3, batch_size=32, train_fraction=0.1, warmup_epochs=0, device="cpu")
QUICK = range(4)


class Stopped(Exception):
    pass


def run(folder, stop_after=None):
    def on_epoch(record):
        if record["epoch"] + 1 == stop_after:
            raise Stopped

    return search(space_by_name("nasbench201"), darts(), load_data("digits"), CONFIG, folder=folder, on_epoch=on_epoch)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder that was stopped after its second epoch, and what comes of it undisturbed."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.raises(Stopped):
        run(folder, stop_after=2)
    return folder, run(shutil.copytree(folder, tmp_path_factory.mktemp("whole") / "run"))


def damage(path, rng):
    content = bytearray(path.read_bytes())
    at, length = rng.randrange(len(content)), rng.choice([1, 8, 500])
    kind = rng.choice(["bit", "bytes", "zeros", "cut", "missing part", "empty", "gone"])
    if kind == "gone":
        return path.unlink()
    changes = {
        "bit": lambda: content.__setitem__(at, content[at] ^ (1 << rng.randrange(8))),
        "bytes": lambda: content.__setitem__(slice(at, at + length), rng.randbytes(length)),
        "zeros": lambda: content.__setitem__(slice(at, at + length), bytes(length)),
        "cut": lambda: content.__delitem__(slice(at, None)),
        "missing part": lambda: content.__delitem__(slice(at, at + length)),
        "empty": content.clear,
    }
    changes[kind]()
    return path.write_bytes(content)


@pytest.mark.parametrize("seed", [pytest.param(s, marks=() if s in QUICK else pytest.mark.slow) for s in range(100)])
def test_a_damaged_checkpoint_never_ends_in_another_result(stopped, tmp_path, seed):
    folder, undisturbed = stopped
    rng, copy = random.Random(seed), shutil.copytree(folder, tmp_path / "run")
    files = sorted(copy.glob("checkpoint*.pt"))
    assert len(files) == 2
    for path in rng.choice([files[:1], files[1:], files]):
        damage(path, rng)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the one before the last is taken
            found = run(copy)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert "Delete" in str(error)  # noqa: PT017
        return
    assert found.genotype == undisturbed.genotype
    assert all(torch.equal(alpha, undisturbed.alpha[name]) for name, alpha in found.alpha.items())


def test_weights_that_are_not_finite_leave_the_last_good_checkpoint(stopped, tmp_path, monkeypatch):
    copy = shutil.copytree(stopped[0], tmp_path / "run")
    before = (copy / "checkpoint.pt").read_bytes()
    monkeypatch.setattr("fastnas.training.numerics.Losses.check", lambda *arguments: None)  # nobody looks at the loss
    state = sys.modules["fastnas.engine.run"].SearchState

    def poisoned(self, original=state.state_dict):
        saved = original(self)
        name = next(iter(saved["w"]))
        return saved | {"w": saved["w"] | {name: torch.full_like(saved["w"][name], float("nan"))}}

    monkeypatch.setattr(state, "state_dict", poisoned)
    with pytest.raises(FloatingPointError, match=r"checkpoint: what is saved must be finite, got 1 tensors"):
        run(copy)
    assert (copy / "checkpoint.pt").read_bytes() == before
