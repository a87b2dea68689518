"""Recipes as their papers and their published code have them."""

from dataclasses import replace

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from fastnas.bilevel.hypergradient import Unrolled, UnrolledByDifferences
from fastnas.data import load_data
from fastnas.engine import search
from fastnas.engine.coefficients import relax
from fastnas.engine.run import build_stage, make_state
from fastnas.engine.step import apply_gradients, search_step
from fastnas.mechanisms.draw import gumbel_selected_with_scalars
from fastnas.methods import darts, dso_nas, method_by_name, nasp, robust_darts, single_darts, smooth_darts_rs, snas
from fastnas.methods.library import darts_nasbench201, gdas_nasbench201
from fastnas.spaces.cell_space import NASBENCH201
from fastnas.supernet.mix import Mix
from fastnas.training.config import SearchConfig
from tests.engine.points import SPACE, make_batches, make_run

DIGITS = load_data("digits")


@pytest.mark.parametrize("name", ["robust_darts", "robust_darts_ada", "robust_darts_l2", "robust_darts_dp"])
def test_the_robust_family_has_the_second_order_of_the_published_code(name):
    assert method_by_name(name).hypergradient == Unrolled()
    assert method_by_name(name, by_differences=True).hypergradient == UnrolledByDifferences()
    if name == "robust_darts":
        assert robust_darts(as_published_code=True).hypergradient == UnrolledByDifferences()


def test_nasp_begins_at_one_half_exactly_as_published_and_without_ties_elsewhere_and_snas_drops_edges():
    config = SearchConfig(channels=4, cells=1, batch_size=8, device="cpu")
    for method, exact in ((nasp(published_for=NASBENCH201), True), (nasp(), False)):
        supernet = build_stage(NASBENCH201, method, DIGITS, config, 0)
        (alpha,) = make_state(supernet, method, config, torch.device("cpu")).alpha.values()
        assert bool((alpha == 0.5).all()) == exact
        assert bool(((alpha - 0.5).abs() < 0.01).all())
        assert exact or len(alpha.argmax(-1).unique()) > 1
    run = make_run(snas())
    assert (run.method.drop_path(run.at), run.method.drop_path(run.progress(5))) == (0.3, 0.3)


def test_the_benchmark_moves_the_weights_first_and_clips_them_with_alpha():
    assert darts_nasbench201().update_schedule.weights_first
    method = gdas_nasbench201()
    assert (method.tau(make_run(method).progress(5)), method.draw) == (pytest.approx(0.1), gumbel_selected_with_scalars)
    assert method.clip_with_alpha
    with pytest.raises(ValueError, match=r"clip_with_alpha does not work with .*joint"):
        replace(snas(), clip_with_alpha=True)


def test_a_norm_that_includes_alpha_shortens_the_step_of_the_weights():
    weight_batch, search_batch = make_batches()
    for method in (darts_nasbench201(), replace(darts_nasbench201(), clip_with_alpha=False)):
        run = make_run(method, grad_clip=0.01)
        w = {name: p.detach().clone() for name, p in run.state.w.items()}
        gradients = reference_gradients(run, weight_batch)
        parts = gradients if method.clip_with_alpha else {n: g for n, g in gradients.items() if n in w}
        norm = torch.cat([g.flatten() for g in parts.values()]).norm()
        group = run.state.weight_optimizer.param_groups[0]
        search_step(run, weight_batch, search_batch)
        for name, before in w.items():
            step = gradients[name] * 0.01 / (norm + 1e-6) + group["weight_decay"] * before
            torch.testing.assert_close(run.state.w[name], before - group["lr"] * step, rtol=1e-9, atol=1e-12)


def reference_gradients(run, batch):
    """Of the loss at the softmax of alpha, for the weights and for alpha."""
    w = {name: p.detach().requires_grad_() for name, p in run.state.w.items()}
    alpha = {name: a.detach().requires_grad_() for name, a in run.state.alpha.items()}
    mix = Mix({name.removeprefix("alpha."): a.softmax(-1) for name, a in alpha.items()}, {})
    loss = F.cross_entropy(functional_call(run.state.supernet, w, (batch.images, mix)), batch.labels)
    leaves = {**w, **alpha}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def test_three_steps_of_first_order_darts_are_those_of_a_short_reference():
    run, (weight_batch, search_batch) = make_run(darts(), grad_clip=5.0), make_batches()
    w = {name: p.detach().clone() for name, p in run.state.w.items()}
    alpha = {name: a.detach().clone() for name, a in run.state.alpha.items()}
    velocity = {name: torch.zeros_like(p) for name, p in w.items()}
    group = run.state.weight_optimizer.param_groups[0]
    for step in range(3):
        view = replace(run, state=replace(run.state, w=dict(w), alpha=dict(alpha)))
        of_alpha = reference_gradients(view, search_batch)
        alpha = {name: a - of_alpha[name] for name, a in alpha.items()}  # the run descends on alpha by plain SGD of 1
        of_w = reference_gradients(replace(run, state=replace(run.state, w=dict(w), alpha=dict(alpha))), weight_batch)
        norm = torch.cat([of_w[name].flatten() for name in w]).norm()
        scale = (5.0 / (norm + 1e-6)).clamp(max=1)
        for name, p in w.items():
            g = of_w[name] * scale + group["weight_decay"] * p
            velocity[name] = group["momentum"] * velocity[name] + g if step else g
            w[name] = p - group["lr"] * velocity[name]
        search_step(run, weight_batch, search_batch)
    torch.testing.assert_close({n: a.detach() for n, a in run.state.alpha.items()}, alpha, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close({n: p.detach() for n, p in run.state.w.items()}, w, rtol=1e-8, atol=1e-10)


def test_a_step_of_single_darts_takes_both_gradients_at_one_point():
    run, (batch, _) = make_run(single_darts(), grad_clip=0.0), make_batches()
    w = {name: p.detach().clone() for name, p in run.state.w.items()}
    alpha = {name: a.detach().clone() for name, a in run.state.alpha.items()}
    gradients, group = reference_gradients(run, batch), run.state.weight_optimizer.param_groups[0]
    search_step(run, batch, None)
    for name, before in w.items():
        step = gradients[name] + group["weight_decay"] * before
        torch.testing.assert_close(run.state.w[name].detach(), before - group["lr"] * step, rtol=1e-9, atol=1e-12)
    for name, before in alpha.items():
        torch.testing.assert_close(run.state.alpha[name].detach(), before - gradients[name], rtol=1e-9, atol=1e-12)


def test_smoothing_leaves_the_coefficients_of_alpha_alone():
    run, (weight_batch, search_batch) = make_run(smooth_darts_rs()), make_batches()
    expected = {n: a - reference_gradients(run, search_batch)[n] for n, a in run.state.alpha.items()}
    search_step(run, weight_batch, search_batch)
    torch.testing.assert_close({n: a.detach() for n, a in run.state.alpha.items()}, expected, rtol=1e-8, atol=1e-10)
    assert relax(run.method, run.space, run.state.alpha).candidates["normal"].sum(-1).allclose(torch.ones(1).double())


def test_elements_of_gradients_are_clipped_at_two():
    x = torch.nn.Parameter(torch.zeros(3))
    apply_gradients(torch.optim.SGD([x], 1.0), {"x": x}, {"x": torch.tensor([5.0, -7.0, 0.5])}, 0.0, 2.0)
    assert x.tolist() == [-2.0, 2.0, -0.5]
    assert dso_nas().clip_elements == 2.0


def test_dso_nas_prunes_at_the_rate_of_the_weights():
    config = SearchConfig(channels=4, cells=1, epochs=5, batch_size=16, train_fraction=0.1, device="cpu")
    published = replace(config, weight_lr=0.1, alpha_lr=0.1, weight_schedule="constant", nesterov=True, grad_clip=0.0)
    zeros = {}
    for name, settings in (("default", config), ("published", published)):
        found = search(SPACE, replace(dso_nas(gamma=0.1), prune_every=1), DIGITS, settings)
        zeros[name] = sum(int((a == 0).sum()) for a in found.alpha.values())
    assert zeros["published"] > zeros["default"]
