"""One step of a search: alpha, the weights, or both at once."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastnas.bilevel.problem import Bilevel, Tensors, detach_all, differentiate
from fastnas.bilevel.spectrum import dominant_eigenvalue
from fastnas.data import Batch, cut_out
from fastnas.engine.coefficients import Drawn, living_logits, masks, relax, with_skips
from fastnas.engine.drawn import resting
from fastnas.engine.regularise import differentiate_alignment, match, without_frozen
from fastnas.engine.run import Run
from fastnas.methods.method import Term
from fastnas.ranks import Ranks
from fastnas.seeds import stream
from fastnas.supernet.mix import Mix
from fastnas.training.numerics import autocast

LossAndHits = Callable[[Tensors, Mix], tuple[Tensor, Tensor]]


def search_step(run: Run, weight_batch: Batch, search_batch: Batch | None) -> None:
    """Move alpha by one step on ``search_batch``, if there is one, and the weights by one step on ``weight_batch``.

    Each half computes and saves for its own variables alone: the weights enter the first detached, and the
    coefficients the second. Where the method asks for it, both move at once on ``weight_batch``.
    """
    with run.statistics():
        move(run, weight_batch, search_batch)
    count_step(run)


def count_step(run: Run) -> None:
    """Note that a step has been made, and look at the losses now and then."""
    run.state.step += 1
    run.state.losses.check_now_and_then("search", run.state.step)


def is_alpha_due(run: Run, search_batch: Batch | None) -> bool:
    """Whether the next step moves alpha."""
    schedule, moves = run.method.update_schedule, run.at.epoch >= run.at.warmup
    if schedule.joint:
        return moves
    its_turn = schedule.alpha_moves and (run.state.step + 1) % schedule.alpha_every == 0
    return search_batch is not None and moves and its_turn


def move(run: Run, weight_batch: Batch, search_batch: Batch | None) -> None:
    """A step without its count: all that happens on the device."""
    schedule, due = run.method.update_schedule, is_alpha_due(run, search_batch)
    if schedule.joint and due:
        _joint_step(run, weight_batch)
        return
    matching = due and run.method.matching is not None
    of_alpha = _differentiate_on(run, search_batch) if matching else None  # type: ignore[arg-type]
    if due and not schedule.weights_first:
        _alpha_step(run, weight_batch, search_batch)  # type: ignore[arg-type]
    _weight_step(run, weight_batch, of_alpha)
    if due and schedule.weights_first:
        _alpha_step(run, weight_batch, search_batch)  # type: ignore[arg-type]


def alpha_problem(run: Run, weight_batch: Batch, search_batch: Batch) -> Bilevel:
    """The bilevel problem of the next step."""
    inner, outer = batch_loss(run, weight_batch), batch_loss(run, search_batch, weigh_hits=True)
    sampler = run.sampler("alpha")
    examples = len(search_batch.labels) * run.ranks.size

    def inner_loss(w: Tensors, alpha: Tensors, draw: int) -> Tensor:
        return inner(w, sampler(alpha, draw).mix)[0] + _sum_terms(run, run.method.weight_penalties, w)

    def outer_loss(w: Tensors, alpha: Tensors, draw: int) -> Tensor:
        mix = sampler(alpha, draw).mix
        return _join_cost(run, outer(w, mix)[0], alpha) + _sum_terms(
            run, _select_penalties(run, expected=False), mix.candidates
        )

    def log_probability(alpha: Tensors, draw: int) -> Tensor:
        value = sampler(alpha, draw).log_probability
        assert value is not None, "asked for only where the method's draw has one"
        return value

    def reward(w: Tensors, alpha: Tensors, draw: int) -> tuple[Tensor, Tensor]:
        mix = sampler(alpha, draw).mix
        loss, hits = outer(w, mix)
        score = run.ranks.mean(run.data.task.score(hits, len(search_batch.labels)).float())
        score = score if run.data.task.score_kind.higher_is_better else -score
        worth = score if run.method.reward is None else run.method.reward(score, mix.candidates)
        return loss, worth - _sum_terms(run, _select_penalties(run, expected=False), mix.candidates)

    state = tuple(run.state.supernet.buffers())  # a supernet of one's own may keep statistics
    return Bilevel(inner_loss, outer_loss, run.inner_step, log_probability, examples, reward, state)


def alpha_gradients(run: Run, weight_batch: Batch, search_batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The outer loss of the next step and what alpha descends along: the method's hypergradient, and the slope of the
    penalties that are taken at alpha or its relaxation."""
    problem = alpha_problem(run, weight_batch, search_batch)
    loss, gradients = run.method.hypergradient(problem, run.state.w, run.state.alpha)
    if _select_penalties(run, expected=True) or run.method.alpha_penalties:
        more = differentiate(_expect_penalties(run, run.state.alpha), run.state.alpha)
        gradients = {name: gradient + more[name] for name, gradient in gradients.items()}
    return loss, gradients


def outer_eigenvalue(run: Run, batch: Batch, epoch: int) -> float:
    """The dominant eigenvalue of the Hessian of the loss on ``batch`` with respect to alpha and beta, nothing dropped.

    Without alpha's weight decay, which the published code of RobustDARTS adds to it (1e-3).
    """
    state, loss_on = run.state, batch_loss(run, batch)
    at, w = run.progress(epoch), detach_all(state.w)
    tau, skip = run.method.tau(at), run.method.auxiliary_skip(at)

    def loss(alpha: Tensors) -> Tensor:
        mix = relax(run.method, run.space, alpha, state.alive, tau)
        return loss_on(w, with_skips(run.space, mix, skip))[0]

    seed, kept = stream(run.config.seed, "eigenvalue", epoch), tuple(state.supernet.buffers())
    with run.statistics():
        return dominant_eigenvalue(loss, state.alpha, seed=seed, state=kept)


def _alpha_step(run: Run, weight_batch: Batch, search_batch: Batch) -> None:
    loss, gradients = alpha_gradients(run, weight_batch, search_batch)
    run.state.losses.add_outer(loss)
    _move_alpha(run, gradients, run.sampler("alpha"))


def _move_alpha(run: Run, gradients: Mapping[str, Tensor], sampler: Callable[[Tensors], Drawn]) -> None:
    state = run.state
    before = {name: a.detach().clone() for name, a in state.alpha.items()}
    limits = run.config.alpha_grad_clip, run.method.clip_elements
    apply_gradients(state.alpha_optimizer, state.alpha, gradients, *limits)
    with torch.no_grad():
        reached = sampler(before).reached if run.method.draw is not None else {}
        living, project = masks(state.alive, run.device), run.method.projection
        for name, a in state.alpha.items():
            kind, cell_type = name.split(".", 1)
            if kind == "alpha":
                after = a if project is None else project(before[name], a, reached.get(cell_type))
                alive_EK = living.get(cell_type)
                a.copy_(after if alive_EK is None else torch.where(alive_EK, after, before[name]))


def _differentiate_on(run: Run, batch: Batch) -> dict[str, Tensor]:
    """The gradient of the loss on ``batch`` for all weights."""
    state = run.state
    loss, _ = batch_loss(run, batch)(state.w, run.sampler("weights")(detach_all(state.alpha)).mix)
    return differentiate(loss, state.w)


def _weight_step(run: Run, batch: Batch, of_alpha: Mapping[str, Tensor] | None = None) -> None:
    state, average = run.state, run.method.weight_average
    loss_on = batch_loss(run, batch)
    sampler = run.sampler("weights")

    beside = list(state.alpha.values()) if run.method.clip_with_alpha else []

    def loss_at(draw: int) -> tuple[Tensor, Tensor]:
        mix = sampler(state.alpha if beside else detach_all(state.alpha), draw).mix
        mix = _perturb(run, mix, loss_on)
        return loss_on(state.w, mix)

    if average is None:
        loss, hits = loss_at(0)
        total = loss + _sum_terms(run, run.method.weight_penalties, state.w)
        gradients = torch.autograd.grad(total, [*state.w.values(), *beside], allow_unused=True)
    else:
        with torch.no_grad():
            losses_K, hits_K = (torch.stack(x) for x in zip(*map(loss_at, range(average.draws)), strict=True))
        weights_K = average.weights(losses_K, len(batch.labels) * run.ranks.size)
        loss, hits = (weights_K * losses_K).sum(), _average(hits_K)
        gradients = _accumulate(run, loss_at, weights_K)
    state.losses.add_inner(loss.detach(), hits, len(batch.labels))
    own, others = gradients[: len(state.w)], gradients[len(state.w) :]
    named = dict(zip(state.w, own, strict=True))
    if of_alpha is not None:
        match(run, named, of_alpha)
    if run.method.alignment is not None:
        mix = _perturb(run, sampler(detach_all(state.alpha)).mix, loss_on)
        added = differentiate_alignment(run, mix, lambda w, at: loss_on(w, at)[0])
        named = dict(zip(named, _add(list(named.values()), list(added.values())), strict=True))
    named = without_frozen(run, named)
    with resting(state.weight_optimizer, state.supernet, state.w, named) if sampler.on_device else nullcontext():
        _move_weights(run, named, [g for g in others if g is not None])


def _average(statistics_K: Tensor) -> Tensor:
    """Of several draws, in the type of one."""
    mean = statistics_K.float().mean(0)
    return mean if statistics_K.is_floating_point() else mean.round().to(statistics_K.dtype)


def _move_weights(run: Run, gradients: Mapping[str, Tensor | None], others: Sequence[Tensor] = ()) -> None:
    """A step of the weights; ``others`` are gradients that count for the norm and move nothing."""
    optimizer, limit = run.state.weight_optimizer, run.method.clip_elements
    apply_gradients(optimizer, run.state.w, gradients, run.config.grad_clip, limit, others)


def _accumulate(run: Run, loss_at: Callable[[int], tuple[Tensor, Tensor]], weights_K: Tensor) -> list[Tensor | None]:
    """The weighted sum of the gradients of all draws, one graph alive at a time."""
    variables = list(run.state.w.values())
    total: list[Tensor | None] = [None] * len(variables)
    for draw, weight in enumerate(weights_K.unbind()):
        # without a name of their own, so that those of one draw are gone when the next one runs
        total = _add(total, torch.autograd.grad(loss_at(draw)[0] * weight, variables, allow_unused=True))
    if run.method.weight_penalties:
        penalty = differentiate(_sum_terms(run, run.method.weight_penalties, run.state.w), run.state.w)
        total = _add(total, tuple(penalty.values()))
    return total


def _add(olds: Sequence[Tensor | None], news: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Of gradients, some of which are not there."""
    return [old if new is None else new if old is None else old + new for old, new in zip(olds, news, strict=True)]


def _joint_step(run: Run, batch: Batch) -> None:
    state, method = run.state, run.method
    sampler = run.sampler("alpha")
    mix = sampler(state.alpha).mix
    loss, hits = batch_loss(run, batch)(state.w, mix)
    sampled = _sum_terms(run, _select_penalties(run, expected=False), mix.candidates)
    of_weights = _sum_terms(run, method.weight_penalties, state.w)
    total = _join_cost(run, loss, state.alpha) + sampled + _expect_penalties(run, state.alpha) + of_weights
    variables = {**state.w, **state.alpha}
    grads = torch.autograd.grad(total, list(variables.values()), allow_unused=True)
    gradients = dict(zip(variables, grads, strict=True))
    state.losses.add_inner(loss.detach(), hits, len(batch.labels))
    _move_weights(run, {name: gradients[name] for name in state.w})
    _move_alpha(run, {name: gradients[name] for name in state.alpha}, sampler)


def _perturb(run: Run, mix: Mix, loss_on: LossAndHits) -> Mix:
    method, state = run.method, run.state
    if method.perturbation is None:
        return mix
    w = detach_all(state.w)
    seed = stream(run.config.seed, "perturbation", state.step)
    candidates = method.perturbation(
        mix.candidates,
        masks(state.alive, run.device),
        lambda moved: loss_on(w, mix._replace(candidates=moved))[0],
        method.radius(run.at),
        seed,
    )
    return mix._replace(candidates=candidates)


def batch_loss(run: Run, batch: Batch, *, weigh_hits: bool = False) -> LossAndHits:
    """The mean loss and the statistics of the task's score, for classes the number of rightly classified images, from
    weights and coefficients.

    Beside other processes the mean is over the images of all, and so are its gradients; the number is of this one's.
    Classes with weights in the loss have them in the number if ``weigh_hits``: rewards are made of it.
    """
    images, labels = (x.to(run.device, non_blocking=True) for x in (batch.images, batch.labels))
    task = run.data.task

    def loss(w: Tensors, mix: Mix) -> tuple[Tensor, Tensor]:
        w, mix = _share(run.ranks, w, mix)
        net = run.state.supernet
        with autocast(run.device, run.config.precision):
            if w is run.state.w:  # to put a thousand weights where they are takes a tenth of the time of a small step
                logits = net(images, mix)
            else:
                logits = functional_call(net, dict(w), (images, mix), tie_weights=run.has_tied_weights)
        value = run.ranks.mean(task.loss(logits, labels, run.class_weights))
        if weigh_hits and run.class_weights is not None:
            return value, ((logits.argmax(1) == labels) * run.class_weights[labels]).sum()
        return value, task.statistics(logits.detach(), labels)

    return loss


def _share(ranks: Ranks, w: Tensors, mix: Mix) -> tuple[Tensors, Mix]:
    """What every process holds equally, such that gradients of all of it are averaged in one transfer."""
    if ranks.size == 1:
        return w, mix
    parts = {"w": w, "candidates": mix.candidates, "edges": mix.edges, "offsets": mix.offsets}
    flat = ranks.share({f"{part}/{name}": x for part, tensors in parts.items() for name, x in tensors.items()})
    w, *of_mix = ({name: flat[f"{part}/{name}"] for name in tensors} for part, tensors in parts.items())
    return w, mix._replace(**dict(zip(("candidates", "edges", "offsets"), of_mix, strict=True)))


def _join_cost(run: Run, loss: Tensor, alpha: Tensors) -> Tensor:
    """The loss and the cost of the architecture, as the method joins them."""
    objective = run.method.objective
    if objective is None:
        return loss
    return objective(loss, relax(run.method, run.space, alpha, run.state.alive, run.tau).candidates)


def _select_penalties(run: Run, *, expected: bool) -> tuple[Term, ...]:
    return tuple(term for term in run.method.penalties if term.expected == expected)


def _expect_penalties(run: Run, alpha: Tensors) -> Tensor:
    """The penalties that are taken at alpha and at its relaxation, whatever was drawn."""
    of_logits = _sum_terms(run, run.method.alpha_penalties, living_logits(alpha, run.state.alive))
    if not _select_penalties(run, expected=True):
        return of_logits
    mix = relax(run.method, run.space, alpha, run.state.alive, run.tau)
    return of_logits + _sum_terms(run, _select_penalties(run, expected=True), mix.candidates)


def _sum_terms(run: Run, terms: tuple[Term, ...], variables: Tensors) -> Tensor:
    """The sum of the terms of a loss; a plain zero where there are none."""
    return sum((term.weight(run.at) * term.penalty(variables) for term in terms), torch.zeros((), device=run.device))


def apply_gradients(
    optimizer: torch.optim.Optimizer,
    variables: Mapping[str, nn.Parameter],
    gradients: Mapping[str, Tensor | None],
    clip: float,
    clip_elements: float = 0.0,
    others: Sequence[Tensor] = (),
) -> None:
    """One optimiser step; variables without a gradient stay put, without decay or momentum, and none is left.

    Args:
        optimizer: Owns the variables.
        variables: What moves.
        gradients: By the names of the variables.
        clip: Largest 2-norm of all gradients together; 0 for no limit.
        clip_elements: Largest magnitude of an element; 0 for no limit.
        others: Gradients that count for the norm as well.
    """
    for name, variable in variables.items():
        variable.grad = gradients[name]
    if clip_elements > 0:
        nn.utils.clip_grad_value_(variables.values(), clip_elements)
    if clip > 0 and others:
        grads = [g for g in gradients.values() if g is not None]
        norm = nn.utils.get_total_norm([*grads, *others])
        nn.utils.clip_grads_with_norm_(variables.values(), clip, norm)
    elif clip > 0:
        nn.utils.clip_grad_norm_(variables.values(), clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def cut_squares(run: Run, phase: str, batch: Batch) -> Batch:
    """A batch of the next step with the squares that the method blanks in it."""
    probability = run.method.cutout(run.at)
    if probability == 0:
        return batch
    own = (run.ranks.index,) if run.ranks.index else ()
    seed = stream(run.config.seed, f"cutout of {phase}", run.state.step, *own)
    return batch._replace(images=cut_out(batch.images, min(run.data.resolution) // 2, probability, seed))
