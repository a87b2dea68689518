"""Two processes of four images each against one with all eight."""

import socket

import pytest
import torch

from fastnas.ranks import ALONE
from tests.engine.one_of_several import main, steps_of
from tests.forks import Fork

# One of each kind: first and second order, a perturbation by a gradient, a joint step, and all kinds of draws
NAMES = ["darts", "darts_2nd", "smooth_darts_adv", "gdas", "parsec", "dso_nas", "proxyless_nas", "proxyless_nas_r"]
NAMES += ["pc_darts", "snas"]
NOISY = ("snas",)  # drops paths of single images, other ones in each process


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found."""
    out, port = tmp_path_factory.mktemp("together"), free_port()
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    folders = [tmp_path_factory.mktemp(rank) for rank in "01"]
    started = [Fork(main, out, *NAMES, folder=f, RANK=rank, **variables) for rank, f in zip("01", folders, strict=True)]
    ends = [process.ended() for process in started]
    assert [status for status, *_ in ends] == [0, 0], ends
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone():
    return steps_of(NAMES, ALONE, False)


def leaves(tree, path=""):
    for name, value in tree.items():
        yield from leaves(value, f"{path}/{name}") if isinstance(value, dict) else [(f"{path}/{name}", value)]


@pytest.mark.parametrize(("statistics", "name"), [*(("together", name) for name in NAMES), ("apart", "darts")])
def test_all_processes_hold_the_same_bits(found, statistics, name):
    first, second = (dict(leaves(of_rank[statistics][name])) for of_rank in found)
    assert [path for path in first if not torch.equal(first[path], second[path])] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOISY])
def test_with_common_statistics_two_processes_compute_what_one_does(found, alone, name):
    ours, theirs = dict(leaves(found[0]["together"][name])), dict(leaves(alone[name]))
    for path, value in theirs.items():  # sums in another order, amplified by normalisation and Lanczos's ten products
        torch.testing.assert_close(ours[path].detach(), value.detach(), rtol=1e-6, atol=1e-9, msg=path)


def test_with_statistics_of_their_own_they_compute_something_else(found, alone):
    ours, theirs = (tree["darts"]["hypergradient"] for tree in (found[0]["apart"], alone))
    assert not torch.allclose(ours["alpha.normal"], theirs["alpha.normal"], rtol=1e-3)


def test_processes_with_different_settings_say_where_they_differ(found):
    line = "ranks: the configuration must be the same in every process, got ', \"epochs\": 3}' and ', \"epochs\": 4}'"
    assert all(of_rank["complaint"].startswith(line) for of_rank in found)


def test_a_step_of_alpha_sends_the_gradient_of_alpha_and_a_loss_and_nothing_else(found):
    sent = found[0]["sent"]
    assert sorted(sent["alpha"]) == [1, 15]  # three edges of five candidates
    assert sum(sent["weights"]) > 1000
