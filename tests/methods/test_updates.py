"""One step of each method against a short reference of its own, written from the equations of its paper or code.

Where a step draws, the reference takes over what was drawn, and nothing of how the gradient passes through it. All
runs descend on alpha by plain gradient descent at a rate of one, but where the optimiser is what is looked at.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from fastnas.engine.step import search_step
from fastnas.mechanisms.alpha_optimizer import AlphaSettings
from fastnas.mechanisms.draw import GumbelSoftmax
from fastnas.mechanisms.pruning import keep_best
from fastnas.mechanisms.schedules import Constant
from fastnas.methods import METHODS, darts_2nd, nasp, parsec, proxyless_nas, proxyless_nas_r, snas
from fastnas.seeds import stream
from fastnas.supernet.mix import Mix
from tests.engine.points import make_batches, make_run
from tests.methods.references import assert_near, gradients, loss_at, softmax_of, stepped

NAME = "alpha.normal"
WEIGHTS, SEARCH = make_batches()


def halfway(method, **changes):
    """A run in its fourth of six epochs, whose alpha is still that of the beginning."""
    run = make_run(replace(method, drop_path=Constant(0.0), skip_dropout=Constant(0.0)), **changes)
    run.state.step = 3 * run.steps
    return run


def slopes(run, batch, mix_EK, w=None):
    """The gradient of the loss for each coefficient, at ``mix_EK``: what every estimator is made of."""
    leaf = mix_EK.detach().clone().requires_grad_()
    loss = loss_at(run, batch, dict(run.state.w) if w is None else w, {"normal": leaf})
    return torch.autograd.grad(loss, leaf)[0]


def weights_at(run, mix_EK, batch=WEIGHTS):
    """The weights after a step at fixed coefficients; what does not run, or nothing reads, stays where it is."""
    found = gradients(run, batch, lambda a: mix_EK + 0 * a)
    after = stepped(run, found)
    space = run.space
    for name, p in run.state.w.items():
        parts = name.split(".")
        if "edges" in parts:
            row, primitive = parts[parts.index("edges") + 1 :][:2]
            if mix_EK[int(row), space.primitives.index(primitive)] == 0 or not found[name].any():
                after[name] = p.detach().clone()
    return after


def with_alpha(run, alpha_EK):
    return replace(run, state=replace(run.state, alpha={NAME: alpha_EK.detach()}))


def check_step(run, alpha_EK, w):
    """That one step of the library ends where the reference does."""
    search_step(run, WEIGHTS, SEARCH)
    assert_near(run.state.alpha, {NAME: alpha_EK})
    assert_near(run.state.w, w)


def jacobian_times(p_EK, b_EK):
    """``J(p) b`` of a softmax ``p``, row by row."""
    return p_EK * (b_EK - (p_EK * b_EK).sum(-1, keepdim=True))


@pytest.mark.parametrize("name", ["darts", "darts_plus", "p_darts"])
def test_first_order_descends_on_the_softmax_then_on_the_weights(name):
    run = halfway(METHODS[name]())
    a = run.state.alpha[NAME].detach().clone()
    p = softmax_of(a)
    after = a - jacobian_times(p, slopes(run, SEARCH, p))
    check_step(run, after, stepped(run, gradients(with_alpha(run, after), WEIGHTS)))


def test_single_level_moves_both_at_the_same_point():
    run = halfway(METHODS["single_darts"]())
    a = run.state.alpha[NAME].detach().clone()
    p = softmax_of(a)
    after = a - jacobian_times(p, slopes(run, WEIGHTS, p))
    check_step(run, after, stepped(run, gradients(run, WEIGHTS)))


def test_candidates_that_left_a_stage_take_no_part():
    run = halfway(METHODS["p_darts"]())
    a = run.state.alpha[NAME].detach().clone()
    run.state.alive = {"normal": keep_best(softmax_of(a).tolist(), run.state.alive["normal"], 3)}
    alive = torch.tensor(run.state.alive["normal"])
    p = a.exp() * alive / (a.exp() * alive).sum(-1, keepdim=True)
    after = a - jacobian_times(p, slopes(run, SEARCH, p))
    search_step(run, WEIGHTS, SEARCH)
    assert_near(run.state.alpha, {NAME: after})
    assert alive.sum(-1).tolist() == [3] * len(a)


@pytest.mark.parametrize("name", ["darts_2nd", "robust_darts", "robust_darts_ada", "robust_darts_l2"])
def test_second_order_differentiates_through_a_step_of_the_weights(name):
    run = halfway(METHODS[name]())
    group = run.state.weight_optimizer.param_groups[0]
    w = {n: p.detach().requires_grad_() for n, p in run.state.w.items()}
    a = run.state.alpha[NAME].detach().clone().requires_grad_()
    inner = loss_at(run, WEIGHTS, w, {"normal": softmax_of(a)})
    found = torch.autograd.grad(inner, list(w.values()), create_graph=True, allow_unused=True, materialize_grads=True)
    moved = {n: p - group["lr"] * (g + group["weight_decay"] * p) for (n, p), g in zip(w.items(), found, strict=True)}
    outer = loss_at(run, SEARCH, moved, {"normal": softmax_of(a)})
    after = (a - torch.autograd.grad(outer, a)[0]).detach()
    check_step(run, after, stepped(run, gradients(with_alpha(run, after), WEIGHTS)))


@pytest.mark.parametrize(
    "method", [darts_2nd(by_differences=True), METHODS["robust_darts"](as_published_code=True)], ids=lambda m: m.name
)
def test_second_order_as_published_is_a_difference_of_two_gradients(method):
    run = halfway(method)
    group = run.state.weight_optimizer.param_groups[0]
    a = run.state.alpha[NAME].detach().clone()
    p = softmax_of(a)
    g = gradients(run, WEIGHTS)
    w = {n: x.detach() for n, x in run.state.w.items()}
    ahead = {n: x - group["lr"] * (g[n] + group["weight_decay"] * x) for n, x in w.items()}
    at = replace(run, state=replace(run.state, w=ahead))
    outer = gradients(at, SEARCH)
    scale = 0.01 / torch.cat([outer[n].flatten() for n in w]).norm()
    plus, minus = (slopes(run, WEIGHTS, p, {n: x + s * scale * outer[n] for n, x in w.items()}) for s in (1, -1))
    after = a - (outer[NAME] - group["lr"] * jacobian_times(p, plus - minus) / (2 * scale))
    search_step(run, WEIGHTS, SEARCH)
    torch.testing.assert_close(run.state.alpha[NAME].detach(), after, rtol=1e-5, atol=1e-7)


def test_max_w_keeps_the_leader_at_one():
    run = halfway(METHODS["sharp_darts"]())
    a = run.state.alpha[NAME].detach().clone()
    p = softmax_of(a)
    mix = 1 - p.max(-1, keepdim=True).values + p
    b = slopes(run, SEARCH, mix)
    leader = F.one_hot(p.argmax(-1), p.shape[-1]).double()
    of_p = b - leader * b.sum(-1, keepdim=True)  # the leader's own term cancels, and it gets minus the others'
    after = a - jacobian_times(p, of_p)
    q = softmax_of(after)
    check_step(run, after, weights_at(run, 1 - q.max(-1, keepdim=True).values + q))


def onto_simplex(x_EK):
    return x_EK.clamp(0, 1) / x_EK.clamp(0, 1).sum(-1, keepdim=True)


def smoothed(run, radius):
    """Alpha after its step, its softmax, and that with the uniform noise of the weight step."""
    a = run.state.alpha[NAME].detach().clone()
    p = softmax_of(a)
    after = a - jacobian_times(p, slopes(run, SEARCH, p))
    generator = torch.Generator().manual_seed(stream(run.config.seed, "perturbation", run.state.step))
    noise = torch.empty(a.shape).uniform_(-radius, radius, generator=generator)
    return after, softmax_of(after), onto_simplex(softmax_of(after) + noise.double())


def test_smoothing_adds_uniform_noise_to_the_coefficients_of_the_weights():
    run = halfway(METHODS["smooth_darts_rs"]())
    after, _, moved = smoothed(run, 0.03 + 0.27 * 3 / 6)
    check_step(run, after, weights_at(run, moved))


@pytest.mark.parametrize("largest", [0.05, 0.3])
def test_the_adversary_climbs_the_loss_of_the_weights_and_stays_within_the_radius(largest):
    run, radius = halfway(METHODS["smooth_darts_adv"](radius=largest)), 0.03 + (largest - 0.03) * 3 / 6
    after, centre, moved = smoothed(run, radius)
    for _ in range(7):
        step = 2 * radius / 7 * slopes(run, WEIGHTS, moved).sign()
        moved = onto_simplex((moved + step).clamp(centre - radius, centre + radius))
    w = {name: p.detach() for name, p in run.state.w.items()}
    raised = loss_at(run, WEIGHTS, w, {"normal": moved}) > loss_at(run, WEIGHTS, w, {"normal": centre})
    assert raised == (largest < 0.3)  # long steps overshoot here, and the coefficients stay as they were
    check_step(run, after, weights_at(run, moved if raised else centre))


class Dropped(nn.Module):
    """The supernet written out edge by edge: for every image an edge's mixed output is dropped or scaled up."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images, p_EK, masks):
        x = self.net.stem(images)[0]
        for place, (cell,) in enumerate(self.net.stages):
            states, row = [self.net.reductions[place - 1](x) if place else x], 0
            for node in (1, 2):
                edges = []
                for source in range(node):
                    ops = {**dict(cell.shared[source].named_children()), **dict(cell.edges[row].named_children())}
                    names = list(enumerate(self.net.space.primitives))[1:]  # without "none"
                    edges.append(masks[place][row] * sum(p_EK[row, k] * ops[name](states[source]) for k, name in names))
                    row += 1
                states.append(sum(edges))
            x = states[-1]
        return self.net.classifier(self.net.norm(x).relu().mean((2, 3)))


def test_drop_path_drops_an_edge_for_an_image_and_scales_the_others():
    run, rate = make_run(replace(METHODS["darts"](), drop_path=Constant(0.3))), 0.3

    def found(batch, phase, alpha):
        seed = stream(stream(run.config.seed, f"coefficients of {phase}", run.state.step), "noise")
        drawn = [torch.Generator().manual_seed(stream(seed, "normal", place)) for place in (1, 2, 3)]
        masks = [
            [torch.empty(8, 1, 1, 1).bernoulli_(1 - rate, generator=g).double() / (1 - rate) for _ in alpha]
            for g in drawn
        ]
        w = {f"net.{name}": p.detach().requires_grad_() for name, p in run.state.w.items()}
        alpha = alpha.detach().requires_grad_()
        logits = functional_call(Dropped(run.state.supernet), w, (batch.images, softmax_of(alpha), masks))
        leaves = [*w.values(), alpha]
        grads = torch.autograd.grad(F.cross_entropy(logits, batch.labels), leaves, materialize_grads=True)
        return dict(zip([*run.state.w, NAME], grads, strict=True))

    a = run.state.alpha[NAME].detach().clone()
    after = a - found(SEARCH, "alpha", a)[NAME]
    check_step(run, after, stepped(run, found(WEIGHTS, "weights", after)))


def test_asap_divides_the_logits_by_a_falling_temperature():
    run = halfway(METHODS["asap"]())
    tau = 1.6 * 0.95 ** (3 * 50 / 6)
    a = run.state.alpha[NAME].detach().clone()
    p = softmax_of(a / tau)
    after = a - jacobian_times(p, slopes(run, SEARCH, p)) / tau
    check_step(run, after, weights_at(run, softmax_of(after / tau)))


def test_snas_moves_both_on_one_soft_sample():
    run = halfway(snas())
    tau = 1 - (1 - 0.03) * 4 / 6
    a = run.state.alpha[NAME].detach().clone()
    z = run.sampler("alpha")(run.state.alpha).mix.candidates["normal"].detach()
    after = a - jacobian_times(z, slopes(run, WEIGHTS, z)) / tau
    w = stepped(run, gradients(run, WEIGHTS, lambda x: z + 0 * x))
    check_step(run, after, w)


@pytest.mark.parametrize("name", ["gdas", "gdas_nasbench201"])
def test_gdas_runs_one_candidate_and_differentiates_its_soft_sample(name):
    method = replace(METHODS[name](), clip_with_alpha=False)
    run = halfway(method)
    tau = 10 + (method.tau(run.progress(5)) - 10) * 3 / 5
    a = run.state.alpha[NAME].detach().clone()
    w = weights_at(run, run.sampler("weights")(run.state.alpha).mix.candidates["normal"].detach())
    later = replace(run, state=replace(run.state, w=w))
    mix = run.sampler("alpha")(run.state.alpha).mix
    hard = mix.candidates["normal"].detach()
    soft = replace(run.sampler("alpha"), method=replace(method, draw=GumbelSoftmax()))(run.state.alpha).mix
    soft = soft.candidates["normal"].detach()
    b = slopes(later, SEARCH, hard, w) * hard  # of the selected coefficient alone
    if name == "gdas_nasbench201":  # the others count as if their output were one everywhere
        offset = torch.zeros(len(a), dtype=torch.float64, requires_grad=True)
        at = Mix({"normal": hard}, {}, offsets={"normal": offset})
        loss = F.cross_entropy(functional_call(run.state.supernet, w, (SEARCH.images, at)), SEARCH.labels)
        b = b + torch.autograd.grad(loss, offset)[0][:, None] * (1 - hard)
    check_step(run, a - jacobian_times(soft, b) / tau, w)


def test_nasp_takes_the_gradient_at_the_discretised_point_and_clips_to_the_box():
    run = halfway(nasp())

    def discrete(x):
        return x * F.one_hot(x.abs().argmax(-1), x.shape[-1])

    a = run.state.alpha[NAME].detach().clone()
    after = (a - slopes(run, SEARCH, discrete(a))).clamp(0, 1)
    check_step(run, after, weights_at(run, discrete(after)))


def test_dso_nas_thresholds_its_scalings_softly():
    run, rate, gamma, momentum = halfway(METHODS["dso_nas"](gamma=0.5), grad_clip=0.0), 0.1, 0.5, 0.9
    settings = AlphaSettings(rate, momentum=momentum)
    run.state.alpha_optimizer = run.method.alpha_optimizer(list(run.state.alpha.values()), settings)
    a = run.state.alpha[NAME].detach().clone()
    found = {n: g.clamp(-2, 2) for n, g in gradients(run, WEIGHTS, lambda x: x).items()}
    w = stepped(run, found)
    z = a - rate * slopes(run, SEARCH, a, w).clamp(-2, 2)
    z = z.sign() * (z.abs() - rate * gamma).clamp(min=0)
    check_step(run, (z + momentum * (z - a)).clamp(min=0), w)


def test_proxyless_moves_the_pair_that_ran_and_keeps_its_probability():
    run = halfway(replace(proxyless_nas(), update_schedule=replace(proxyless_nas().update_schedule, alpha_every=1)))
    a = run.state.alpha[NAME].detach().clone()
    w = weights_at(run, run.sampler("weights")(run.state.alpha).mix.candidates["normal"].detach())
    drawn = run.sampler("alpha")(run.state.alpha)
    pair, gates = drawn.reached["normal"], drawn.mix.candidates["normal"].detach()
    q = a.exp() * pair / (a.exp() * pair).sum(-1, keepdim=True)
    moved = a - jacobian_times(q, slopes(run, SEARCH, gates, w) * pair)
    offset = ((moved.exp() * pair).sum(-1) / (a.exp() * pair).sum(-1)).log()
    check_step(run, torch.where(pair, moved - offset[:, None], a), w)
    kept, before = softmax_of(run.state.alpha[NAME].detach()), softmax_of(a)
    torch.testing.assert_close(kept[~pair], before[~pair])


def test_reinforce_moves_towards_what_was_worth_more_than_the_others():
    method = proxyless_nas_r(draws=3)
    run = halfway(replace(method, update_schedule=replace(method.update_schedule, alpha_every=1)))
    a = run.state.alpha[NAME].detach().clone()
    w = weights_at(run, run.sampler("weights")(run.state.alpha).mix.candidates["normal"].detach())
    sampler = run.sampler("alpha")
    paths = [sampler(run.state.alpha, i).mix.candidates["normal"].detach() for i in range(3)]
    logits = [functional_call(run.state.supernet, w, (SEARCH.images, Mix({"normal": one}, {}))) for one in paths]
    worth = [float((x.argmax(1) == SEARCH.labels).double().mean()) for x in logits]
    p = softmax_of(a)
    pulls = [(r - (sum(worth) - r) / 2) / 3 * (one - p) for r, one in zip(worth, paths, strict=True)]
    check_step(run, a + sum(pulls), w)


def test_parsec_weighs_its_samples_by_their_likelihood():
    run = halfway(replace(parsec(draws=3), joint_inputs=False))
    a = run.state.alpha[NAME].detach().clone()

    def sampled(phase, w):
        paths = [run.sampler(phase)(run.state.alpha, i).mix.candidates["normal"].detach() for i in range(3)]
        batch = SEARCH if phase == "alpha" else WEIGHTS
        losses = torch.stack([loss_at(run, batch, w, {"normal": one}) for one in paths])
        return paths, (-losses).exp() / (-losses).exp().sum()

    paths, omega = sampled("alpha", {n: p.detach() for n, p in run.state.w.items()})
    p = softmax_of(a)
    after = a + sum(weight * (one - p) for weight, one in zip(omega, paths, strict=True)).detach()
    search_step(run, WEIGHTS, SEARCH)
    assert_near(run.state.alpha, {NAME: after})


def test_pc_darts_weighs_edges_by_a_softmax_at_each_node():
    run = halfway(METHODS["pc_darts"]())
    alpha = {n: x.detach().clone().requires_grad_() for n, x in run.state.alpha.items()}

    def loss(batch, w, alpha):
        beta = alpha["beta.normal"]
        edges = torch.cat([beta[:1].exp() / beta[:1].exp().sum(), beta[1:].exp() / beta[1:].exp().sum()])
        mix = Mix({"normal": softmax_of(alpha[NAME])}, {"normal": edges})
        return F.cross_entropy(functional_call(run.state.supernet, w, (batch.images, mix)), batch.labels)

    w = {n: p.detach().requires_grad_() for n, p in run.state.w.items()}
    found = torch.autograd.grad(loss(SEARCH, w, alpha), list(alpha.values()))
    after = {n: (x - g).detach() for (n, x), g in zip(alpha.items(), found, strict=True)}
    of_w = torch.autograd.grad(loss(WEIGHTS, w, after), list(w.values()), allow_unused=True, materialize_grads=True)
    moved = stepped(run, dict(zip(w, of_w, strict=True)))
    search_step(run, WEIGHTS, SEARCH)
    assert_near(run.state.alpha, after)
    assert_near(run.state.w, moved)
