"""A method of the library on a supernet, as a system that can be checked."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from fastnas.bilevel.problem import Tensors
from fastnas.checks.enumeration import make_estimates
from fastnas.checks.method_claims import find_claim, make_coefficients, separate_penalties
from fastnas.checks.point import NetworkOf, Point, limit_draws, make_point
from fastnas.checks.system import Build, Claim, System, Twin
from fastnas.engine.coefficients import living_logits, relax
from fastnas.engine.step import search_step
from fastnas.mechanisms.schedules import Constant
from fastnas.methods.method import Method, Term


def make_build(method: Method, network_of: NetworkOf, images: Tensor, claim: Claim | None = None) -> Build:
    """From a seed to the system of ``method``, with a penalty to look at if it has none."""
    method = limit_draws(method)
    if not method.penalties:
        method = replace(method, penalties=(Term(_rank, Constant(0.5), expected=True),))

    def build(seed: int) -> System:
        point = make_point(method, network_of, images, seed)
        return make_system(point, claim or find_claim(point), _twins(method, network_of, images, claim))

    return build


def _rank(mix: Tensors) -> Tensor:
    """A cost that grows from candidate to candidate."""
    return torch.stack([(x * torch.arange(x.shape[-1]).to(x)).sum() for x in mix.values()]).sum()


def make_system(point: Point, claim: Claim, twins: tuple[Twin, ...]) -> System:
    """The parts of a point under the names that the oracle knows."""
    run, method = point.run, point.run.method
    state, separate = run.state, separate_penalties(method)
    rest = tuple(term for term in method.penalties if term not in separate)
    problem = point.with_method(replace(method, penalties=rest)).problem

    def penalty(alpha: Tensors, draw: int) -> Tensor:
        relaxed = relax(method, run.space, alpha, state.alive, run.tau).candidates
        drawn = point.drawn(alpha, draw).mix.candidates
        terms = [t.weight(run.at) * t.penalty(relaxed if t.expected else drawn) for t in separate]
        terms += [t.weight(run.at) * t.penalty(living_logits(alpha, state.alive)) for t in method.alpha_penalties]
        return torch.stack(terms).sum()

    def alpha_step() -> None:
        with _hold(state.weight_optimizer), _keep_buffers_of_alpha(point):
            search_step(run, point.weight_batch, point.search_batch)

    def weight_step() -> None:
        if not method.update_schedule.joint:
            search_step(run, point.weight_batch, None)
            return
        with _hold(state.alpha_optimizer):  # both move at once: look at one
            search_step(run, point.weight_batch, None)

    return System(
        w=state.w,
        alpha=state.alpha,
        outer=problem.outer,
        inner=problem.inner,
        alpha_step=alpha_step,
        weight_step=weight_step,
        alpha_optimizer=state.alpha_optimizer,
        weight_optimizer=state.weight_optimizer,
        claim=claim,
        buffers=dict(state.supernet.named_buffers()),
        penalty=penalty if separate else None,
        coefficients=make_coefficients(point),
        estimates=make_estimates(point),
        twins=twins,
        random=method.draw is not None or any((method.drop_path(run.at), method.skip_dropout(run.at))),
    )


@contextmanager
def _hold(optimizer: torch.optim.Optimizer) -> Generator[None, None, None]:
    """The optimiser's step moves nothing inside the block: to every optimiser, what has no gradient stays."""

    def forget(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        optimizer.zero_grad(set_to_none=True)

    hook = optimizer.register_step_pre_hook(forget)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _keep_buffers_of_alpha(point: Point) -> Generator[None, None, None]:
    """What the weights' part of a step does to buffers is undone inside the block, what alpha's part does stays."""
    buffers, state = dict(point.run.state.supernet.named_buffers()), point.run.state
    kept = {name: x.clone() for name, x in buffers.items()}

    def keep(*_: object) -> None:
        kept.update({name: x.clone() for name, x in buffers.items()})

    def undo(*_: object) -> None:
        for name, x in buffers.items():
            x.copy_(kept[name])

    hooks = state.alpha_optimizer.register_step_post_hook(keep), state.weight_optimizer.register_step_post_hook(undo)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _twins(method: Method, network_of: NetworkOf, images: Tensor, claim: Claim | None) -> tuple[Twin, ...]:
    if method.perturbation is None:
        return ()
    still = replace(method, radius=Constant(0.0))
    plain = replace(method, perturbation=None)
    name = "a perturbation of radius 0 changes no bit of the weight step"
    return (Twin(name, *(make_build(one, network_of, images, claim) for one in (still, plain))),)
