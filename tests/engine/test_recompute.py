"""What is evaluated again in the backward pass changes no bit of a step, whatever the method."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastnas.engine.loop import search
from fastnas.engine.step import alpha_gradients, outer_eigenvalue, search_step
from fastnas.methods.library import METHODS, darts, darts_2nd, p_darts, robust_darts_dp
from fastnas.spaces.cell_space import DARTS, NASBENCH201, S4, SHARPDARTS
from fastnas.spaces.chain_space import PROXYLESS
from fastnas.supernet.supernets import DartsSupernet
from fastnas.training.config import SearchConfig
from tests.engine.points import SPACE
from tests.helpers import DIGITS, make_batches, make_run, quick_method

TINY = SearchConfig(channels=4, cells=1, epochs=3, warmup_epochs=0, batch_size=8, device="cpu")
WORDS = [("edges",), ("cell",), ("cell", "joined", "edges", "none")]
FEW_WORDS = [*(pytest.param(words, marks=pytest.mark.slow) for words in WORDS[:2]), WORDS[2]]
"""The last has all of them; the others stand among the slow tests where much runs."""


def start(method, space, words=("none",), **changes):
    config = replace(TINY, channels=8 if method.partial_channels > 1 else 4, recompute=words, **changes)
    config = replace(config, cells={NASBENCH201: 1, SPACE: 1, PROXYLESS: 2}.get(space, 3))
    return make_run(method, config, space, steps=2)


def after_steps(method, space, words, steps=2, **changes):
    """Every number of the state after some steps."""
    run = start(method, space, words, **changes)
    for _ in range(steps):
        search_step(run, *make_batches())
    momenta = [slot for of_p in run.state.weight_optimizer.state.values() for slot in of_p.values()]
    return [*run.state.w.values(), *run.state.alpha.values(), *momenta, *run.state.losses.inner]


def assert_same(mine, theirs):
    assert len(mine) == len(theirs)
    for m, t in zip(mine, theirs, strict=True):
        assert (m is None and t is None) or torch.equal(m, t)


SAME_STEPS = {"darts_plus", "robust_darts", "robust_darts_ada", "robust_darts_l2"}
"""Another rule to stop, or another weight decay, makes no other step than those of darts and of darts_2nd."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SAME_STEPS else name for name in METHODS]
)
def test_no_method_takes_another_step(name):
    method = quick_method(name)
    expected = after_steps(method, SPACE, ("none",))
    assert_same(after_steps(method, SPACE, ("edges", "cell", "joined", "edges")), expected)


@pytest.mark.parametrize("words", FEW_WORDS)
@pytest.mark.parametrize("space", [DARTS, S4, SHARPDARTS, PROXYLESS], ids=lambda space: space.name)
def test_no_space_gives_another_step(space, words):
    assert_same(after_steps(darts(), space, words, 1), after_steps(darts(), space, ("none",), 1))


@pytest.mark.parametrize("words", FEW_WORDS)
@pytest.mark.parametrize("name", ["gdas", "pc_darts", "darts_2nd"])
def test_samples_partial_channels_and_second_order_are_the_same_in_cells(name, words):
    method = quick_method(name)
    assert_same(after_steps(method, DARTS, words, 1), after_steps(method, DARTS, ("none",), 1))


@pytest.mark.parametrize("words", FEW_WORDS)
@pytest.mark.parametrize("space", [DARTS, NASBENCH201, PROXYLESS], ids=lambda space: space.name)
def test_the_same_paths_are_dropped(space, words):
    method = {DARTS: p_darts(), NASBENCH201: robust_darts_dp()}.get(space, darts())
    method = replace(method, drop_path=lambda at: 0.3)
    expected = after_steps(method, space, ("none",), 1)
    assert_same(after_steps(method, space, words, 1), expected)
    undisturbed = after_steps(replace(method, drop_path=lambda at: 0.0), space, ("none",), 1)
    assert not all(torch.equal(a, b) for a, b in zip(expected, undisturbed, strict=True))


def test_autocast_casts_the_same_way_again():
    expected = after_steps(darts(), DARTS, ("none",), 1, precision="bfloat16")
    for words in WORDS:
        assert_same(after_steps(darts(), DARTS, words, 1, precision="bfloat16"), expected)


def test_the_hessian_of_alpha_has_the_same_eigenvalue():
    batch = make_batches()[0]
    found = {outer_eigenvalue(start(darts(), SPACE, words), batch, 0) for words in [("none",), *WORDS]}
    assert len(found) == 1


class Convolutions(TorchDispatchMode):
    """Counts convolutions, and the gradients of their filters."""

    def __init__(self):
        super().__init__()
        self.forward = self.filters = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.forward += function is torch.ops.aten.convolution.default
        self.filters += function is torch.ops.aten.convolution_backward.default and arguments[-1][1]
        return function(*arguments, **(options or {}))


def test_nothing_is_computed_for_weights_in_an_alpha_step_and_each_part_once_more():
    counts = []
    for words in (("none",), ("edges",), ("cell",)):
        with Convolutions() as counted:
            alpha_gradients(start(darts(), DARTS, words), *make_batches())
        counts.append((counted.forward, counted.filters))
    assert [filters for _, filters in counts] == [0, 0, 0]
    once = counts[0][0]
    # at most: the last convolutions of a part need not run again where nobody asks for what they feed
    assert all(once < twice <= 2 * once for twice, _ in counts[1:])


def test_second_order_asks_for_every_part_once():
    once, twice = (Convolutions() for _ in range(2))
    for words, counted in ((("none",), once), (("cell",), twice)):
        with counted:
            alpha_gradients(start(darts_2nd(), NASBENCH201, words), *make_batches())
    assert once.filters == twice.filters


def test_a_search_goes_on_under_another_plan(tmp_path):
    config = replace(TINY, epochs=2, train_fraction=0.05)
    whole = search(SPACE, darts(), DIGITS, config)

    class Stopped(Exception):
        pass

    def stop(record):
        raise Stopped

    with pytest.raises(Stopped):
        search(SPACE, darts(), DIGITS, config, folder=tmp_path, on_epoch=stop)
    resumed = search(SPACE, darts(), DIGITS, replace(config, recompute=("edges",)), folder=tmp_path)
    assert all(torch.equal(resumed.alpha[name], whole.alpha[name]) for name in whole.alpha)


def test_a_supernet_of_ones_own_keeps_its_own_plan():
    own = DartsSupernet(10, channels=4, cells=3, image_channels=1, recompute=("cell",))
    with pytest.raises(ValueError, match="recompute must be none with a supernet of your own"):
        search(own, darts(), DIGITS, replace(TINY, recompute=("edges",)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), r"SearchConfig: recompute must not be empty, got nothing"),
        (("edge",), r"recompute must hold none, edges, cell, joined only, got 'edge'"),
        (("joined",), r"recompute must not begin with joined"),
    ],
)
def test_words_that_mean_nothing_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        SearchConfig(recompute=words)
