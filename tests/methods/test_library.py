"""The matrix: every method against what every method must hold. Tiny networks, real digits."""

from dataclasses import replace

import pytest
import torch

from fastnas.engine import search
from fastnas.engine.coefficients import Sampler
from fastnas.engine.record import choose_mix
from fastnas.engine.step import search_step
from fastnas.methods.library import METHODS, nasp, p_darts, proxyless_nas
from fastnas.spaces.cell_space import DARTS, NASBENCH201
from fastnas.training.config import RetrainConfig, SearchConfig, TrainingSetup
from fastnas.training.retrain import retrain
from tests.engine.points import SPACE
from tests.helpers import DIGITS, Killed, make_batches, make_run, quick_method, without_seconds

TINY = SearchConfig(channels=4, cells=1, epochs=2, warmup_epochs=0, batch_size=8, train_fraction=0.03, device="cpu")
STEPS = 2  # an epoch of TINY
RETRAINING = RetrainConfig(channels=4, cells=1, epochs=1, batch_size=32)
# They make the steps of darts, darts_2nd and pc_darts, with other numbers, or another rule to stop
SAME_STEPS = {"darts_plus", "robust_darts", "robust_darts_ada", "robust_darts_l2", "pc_darts_imagenet"}
STEPS_OF = [pytest.param(name, marks=pytest.mark.slow) if name in SAME_STEPS else name for name in METHODS]
ONE_PATH = ["gdas", "parsec", "nasp", "proxyless_nas", "proxyless_nas_r"]


def config_of(name, **changes):
    stages = len(METHODS[name]().stages)  # no fewer epochs than those
    changes = {"channels": 8 if name.startswith("pc_") else 4, "epochs": max(TINY.epochs, stages), **changes}
    return replace(TINY, **changes)


def method_of(name):
    return quick_method(name, draws=3)


@pytest.fixture(scope="module")
def whole_runs():
    """One uninterrupted search a method, made when it is first asked for."""
    made = {}

    def run(name):
        if name not in made:
            made[name] = search(SPACE, method_of(name), DIGITS, config_of(name))
        return made[name]

    return run


@pytest.mark.parametrize("name", METHODS)
def test_a_search_is_finite_and_derives_a_network_that_trains(name, whole_runs):
    result = whole_runs(name)
    assert all(tensor.isfinite().all() for tensor in [*result.alpha.values(), *result.supernet.parameters()])
    SPACE.check(result.genotype)
    trained = retrain(result.genotype, DIGITS, RETRAINING, TrainingSetup(train_fraction=0.05, device="cpu"), own=SPACE)
    assert all(tensor.isfinite().all() for tensor in trained.network.parameters())
    assert 0 <= trained.test_accuracy <= 1
    stays = not METHODS[name]().update_schedule.alpha_moves
    assert result.history[0]["alpha"] != result.history[-1]["alpha"] or result.stopped or stays


@pytest.mark.parametrize("name", METHODS)
def test_a_search_that_is_killed_goes_on_bit_for_bit(name, whole_runs, tmp_path):
    whole = whole_runs(name)

    def kill(done, total):  # in the middle of an epoch, the last one that a stopping rule leaves
        if done == len(whole.history) * STEPS - 1:
            raise Killed

    config = config_of(name, checkpoint_steps=1)
    with pytest.raises(Killed):
        search(SPACE, method_of(name), DIGITS, config, folder=tmp_path, on_step=kill)
    resumed = search(SPACE, method_of(name), DIGITS, config, folder=tmp_path)
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert all(torch.equal(resumed.alpha[key], tensor) for key, tensor in whole.alpha.items())
    assert (resumed.genotype, resumed.stopped) == (whole.genotype, whole.stopped)


@pytest.mark.parametrize("name", STEPS_OF)
def test_every_step_moves_alpha_and_weights_and_leaves_no_gradient_behind(name):
    run = make_run(method_of(name), config_of(name))
    before = {key: a.detach().clone() for key, a in run.state.alpha.items()}
    weights = [p.detach().clone() for p in run.state.w.values()]
    search_step(run, *make_batches())
    moves = run.method.update_schedule.alpha_moves
    assert all(torch.equal(a, before[key]) != moves for key, a in run.state.alpha.items())
    assert any(not torch.equal(*pair) for pair in zip(run.state.w.values(), weights, strict=True))
    assert all(p.grad is None for p in [*run.state.w.values(), *run.state.alpha.values()])
    owned = [p for group in run.state.weight_optimizer.param_groups for p in group["params"]]
    assert not {id(p) for p in owned} & {id(a) for a in run.state.alpha.values()}


@pytest.mark.parametrize("name", STEPS_OF)
def test_every_method_mixes_a_part_of_the_channels_as_well_and_repeats_itself(name):
    method = replace(method_of(name), partial_channels=2, edge_normalisation=True, joint_inputs=False)
    steps = []
    for _ in range(2):
        run = make_run(method, replace(config_of(name), channels=8))
        assert {m.k for m in run.state.supernet.modules() if type(m).__name__ == "SearchCell"} == {2}
        search_step(run, *make_batches())
        steps.append({**run.state.w, **run.state.alpha})
    assert all(tensor.isfinite().all() for tensor in steps[0].values())
    assert all(torch.equal(tensor, steps[1][key]) for key, tensor in steps[0].items())


def test_differences_ask_for_one_gradient_at_a_time(monkeypatch):
    run = make_run(METHODS["darts_2nd"](by_differences=True), config_of("darts_2nd"))
    seen = requires_grad_seen(run, monkeypatch)
    search_step(run, *make_batches())
    # the inner gradient, the outer one for both, two moved ones for alpha, the weights
    assert seen == [(True, False), (True, True), (False, True), (False, True), (True, False)]


def requires_grad_seen(run, monkeypatch):
    """For every forward pass: whether a gradient was asked for the weights, and for the coefficients."""
    seen = []
    forward = type(run.state.supernet).forward

    def watch(self, images, mix):
        asked = torch.is_grad_enabled()
        seen.append(
            (
                asked and self.classifier.weight.requires_grad,
                asked and any(x.requires_grad for x in [*mix.candidates.values(), *mix.edges.values()]),
            )
        )
        return forward(self, images, mix)

    monkeypatch.setattr(type(run.state.supernet), "forward", watch)
    return seen


@pytest.mark.parametrize("name", STEPS_OF)
def test_first_order_phases_ask_for_their_own_gradients_alone(name, monkeypatch):
    method = method_of(name)
    second_order = "2nd" in name or "robust" in name
    run = make_run(method, config_of(name))
    seen = requires_grad_seen(run, monkeypatch)
    search_step(run, *make_batches())
    if method.update_schedule.joint:
        assert seen == [(True, True)]
    elif name == "oles":  # the weights' gradient on the half for alpha comes first
        assert seen == [(True, False), (False, True), (True, False)]
    elif name == "spos":
        assert seen == [(True, False)]
    elif name == "parsec":  # alpha sees losses alone; the weights see each loss first, and then its gradient
        assert seen == [(False, False)] * 6 + [(True, False)] * 3
    elif name == "proxyless_nas_r":  # alpha sees rewards alone
        assert seen == [(True, False)] + [(False, False)] * 3
    elif name == "smooth_darts_adv":
        assert seen == [(False, True), *[(False, True)] * 7, *[(False, False)] * 2, (True, False)]
    elif method.clip_with_alpha:  # the norm that the weights' gradient is clipped by counts alpha's
        assert seen == [(True, True), (False, True)]
    elif second_order:  # the inner gradient, the outer one for both, how the former depends on alpha, and the weights
        assert seen == [(True, False), (True, True), (False, True), (True, False)]
    else:
        alpha_first = [(False, True), (True, False)]
        assert seen == (alpha_first[::-1] if method.update_schedule.weights_first else alpha_first)


@pytest.mark.parametrize("name", ONE_PATH)
@pytest.mark.parametrize("space", [NASBENCH201, DARTS], ids=lambda space: space.name)
def test_one_path_methods_run_one_candidate_an_edge_and_idle_ones_get_no_gradient(name, space, monkeypatch):
    method = method_of(name)
    config = config_of(name, cells=1 if space is NASBENCH201 else 3, weight_decay=0.1)
    run = make_run(method, config, space)
    search_step(run, *make_batches())  # momentum buffers exist for what ran
    draws = method.weight_average.draws if method.weight_average else 1
    sampler = run.sampler("weights")
    chosen = set()
    for draw in range(draws):
        mix = sampler(run.state.alpha, draw).mix
        for cell_type, columns in mix.alive.items():
            if method.joint_inputs and space is DARTS:  # two inputs of a node are read
                assert [sum(len(columns[row]) for row in space.rows(target)) for target in space.targets] == [2] * 4
            else:
                assert all(len(row) == 1 for row in columns)
            assert (mix.candidates[cell_type] != 0).sum(-1).tolist() == [len(row) for row in columns]
            chosen |= {(cell_type, row, space.primitives[k]) for row, ks in enumerate(columns) for k in ks}
    weights = {key: p.detach().clone() for key, p in run.state.w.items()}
    only_weights = replace(
        run, method=replace(method, update_schedule=replace(method.update_schedule, alpha_every=10**6))
    )
    search_step(only_weights, *make_batches())
    types = run.state.supernet.types if space is DARTS else None
    for key, p in run.state.w.items():
        if ".edges." not in key:
            continue
        parts = key.split(".")
        place = parts.index("edges")
        cell_type = "normal" if types is None else types[int(parts[1])]
        idle = (cell_type, int(parts[place + 1]), parts[place + 2]) not in chosen
        # weight decay and momentum would move it, too
        assert not idle or torch.equal(p, weights[key]), key


def executed(run, batches):
    """Candidates that run in each forward pass of a step."""
    counts, cells = [], [m for m in run.state.supernet.modules() if type(m).__name__ == "SearchCell"]
    for cell in cells:
        for group in (*cell.edges, *cell.shared):
            for candidate in group.children():
                candidate.register_forward_hook(lambda *_: counts.append(1))
    search_step(run, *batches)
    return len(counts), len(cells)


@pytest.mark.parametrize("name", ["gdas", "parsec", "nasp", "proxyless_nas", "proxyless_nas_r", "darts"])
def test_candidates_executed_in_a_step_are_counted(name):
    run = make_run(method_of(name), config_of(name))
    ran, cells = executed(run, make_batches())
    edges, candidates = len(NASBENCH201.edges), len(NASBENCH201.primitives) - 1
    if name == "darts":  # a skip and a pool have no parameters: each runs once for a state that edges leave
        assert ran == 2 * cells * (2 * edges + 2 * (NASBENCH201.num_nodes + NASBENCH201.num_inputs - 1))
    elif name == "nasp":  # all for alpha, as darts; then one path
        everything = 2 * edges + 2 * (NASBENCH201.num_nodes + NASBENCH201.num_inputs - 1)
        # alpha begins at equal values, of which the first is the leader: `none`, which does not run
        assert cells * everything <= ran <= cells * (everything + edges)
    else:  # one path for the weights, in each draw once for its loss and once for its gradient; one, or two, for alpha
        paths = {"gdas": 2, "proxyless_nas": 3, "proxyless_nas_r": 1 + 3, "parsec": 2 * 3 + 3}[name]
        assert 0 < ran <= paths * cells * edges
        assert paths > 4 or ran < 2 * cells * edges * candidates


def test_a_weight_step_of_nasp_runs_the_eight_best_candidates_of_a_cell_and_no_others():
    method = nasp(published_for=DARTS)
    run = make_run(method, config_of("nasp", cells=3), DARTS)
    mix = run.sampler("weights")(run.state.alpha).mix
    for cell_type in DARTS.cell_types:
        assert [sum(len(mix.alive[cell_type][row]) for row in DARTS.rows(node)) for node in DARTS.targets] == [2] * 4
    chosen = [DARTS.primitives[k] for cell_type in DARTS.cell_types for row in mix.alive[cell_type] for k in row]
    counts, cells = [], [m for m in run.state.supernet.modules() if type(m).__name__ == "SearchCell"]
    for cell in cells:
        for candidate in (c for group in (*cell.edges, *cell.shared) for c in group.children()):
            candidate.register_forward_hook(lambda *_: counts.append(1))
    search_step(run, make_batches()[0], None)
    assert len(counts) <= 8 * len(cells)
    assert len(chosen) == 16


def test_rates_of_zero_and_an_evaluation_drop_nothing():
    run = make_run(p_darts(skip_dropout=(0.0,)), config_of("p_darts"))
    assert run.sampler("weights")(run.state.alpha).mix.noise is None
    run = make_run(p_darts(skip_dropout=(0.7,)), config_of("p_darts"))
    assert run.sampler("weights")(run.state.alpha).mix.noise is not None
    assert choose_mix(run, 0).noise is None


@pytest.mark.parametrize("method", [METHODS["gdas"](), proxyless_nas(), proxyless_nas(two_paths=False)])
def test_a_hard_choice_computes_exactly_the_chosen_network(method):
    run = make_run(method, config_of("gdas"))
    mix = run.sampler("alpha")(run.state.alpha).mix
    images = make_batches()[0].images
    sampled = run.state.supernet(images, mix)
    everything = run.state.supernet(images, mix._replace(alive={}))
    torch.testing.assert_close(sampled, everything, rtol=1e-6, atol=1e-6)  # zeros are added in another order
    plain = mix._replace(candidates={key: (x.detach() > 0).float() for key, x in mix.candidates.items()})
    assert torch.equal(sampled, run.state.supernet(images, plain))
    columns = {key: tuple((int(k),) for k in x.argmax(-1)) for key, x in plain.candidates.items()}
    alone = run.state.supernet(images, plain._replace(alive=columns))
    torch.testing.assert_close(sampled, alone, rtol=1e-6, atol=1e-6)  # the other path adds zeros


def test_a_sampler_gives_the_same_again_and_something_else_for_another_draw():
    method = method_of("parsec")
    run = make_run(method, config_of("parsec"))
    sampler = Sampler(method, NASBENCH201, run.state.alive, 1.0, seed=3)
    first, again, other = (sampler(run.state.alpha, i).mix.candidates["normal"] for i in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_all_draws_of_an_architecture_depend_on_the_step_and_the_phase():
    run = make_run(method_of("gdas"), config_of("gdas"))
    for_alpha, for_weights = (run.sampler(phase)(run.state.alpha).mix.alive for phase in ("alpha", "weights"))
    run.state.step += 1
    later = run.sampler("alpha")(run.state.alpha).mix.alive
    assert len({str(x) for x in (for_alpha, for_weights, later)}) == 3


def saved_bytes(run):
    """Bytes that the weight step keeps for its backward pass, each tensor counted once, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in run.state.w.values()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        search_step(run, make_batches()[0], None)
    return sum(num_bytes for num_bytes, _ in kept.values())


@pytest.mark.parametrize("name", ONE_PATH)
def test_one_path_holds_the_bytes_of_one_candidate_an_edge(name, monkeypatch):
    monkeypatch.setenv("FASTNAS_BACKEND", "reference")  # the fused cells keep no candidate's output in any method
    config = config_of("darts", cells=3)
    whole = saved_bytes(make_run(method_of("darts"), config, DARTS))
    method = method_of(name)
    draws = method.weight_average.draws if method.weight_average else 1  # one after another
    path = saved_bytes(make_run(method, config, DARTS)) / draws
    assert path < whole / 3  # seven candidates an edge, next to a stem and the inputs of cells that all methods hold
