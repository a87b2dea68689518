"""What every method claims, each claim a function of a bench."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from fastnas.bilevel.hypergradient import ImportanceWeighted, first_order
from fastnas.bilevel.problem import Bilevel, SgdStep, Tensors, gradients_of
from fastnas.check.bench import Bench, Outcome, agree, agree_along, changed, copies, slopes
from fastnas.mechanisms.penalty import loss_alone
from fastnas.method import Method
from fastnas.search import Run, alpha_gradients, relax, search_step
from fastnas.space.sampling import random_genotype

DRAWS = 32  # steps over which a random method must have reached every logit
SEARCHED = 500  # steps looked at for a draw in general position
SMOOTH_TOLERANCE = 1e-3  # the published difference of DARTS, whose step is 0.01, on a smooth problem


def outcomes(bench: Bench) -> Iterator[tuple[str, Outcome]]:
    method = bench.method
    yield "alpha is no parameter of the supernet", _alpha_is_apart(bench)
    yield "the same loss twice is the same number, and no buffer moves", _loss_is_pure(bench)
    yield "a step repeated from the same state is the same step", _step_repeats(bench)
    yield "every edge and candidate gets a gradient", _everything_is_reached(bench.without_penalties())
    if isinstance(method.hypergradient, ImportanceWeighted):
        yield "alpha's gradient is the weighted score of the draws", _score_is_right(bench, method.hypergradient)
    else:
        yield "the hypergradient is the slope of its objective", _hypergradient_is_exact(method, bench.seed)
        yield "coefficients get the slope of the loss", _mix_has_slope(bench.without_penalties())
    yield "weights get the slope of the loss", _weights_have_slope(bench)
    if method.penalties or method.objective is not loss_alone:
        yield "penalties have the slope that they show", _penalties_have_slope(bench)
        yield "the slope of the penalties reaches alpha", _penalties_reach_alpha(bench)
    if not method.protocol.joint:
        yield "the alpha step leaves weights alone", _alpha_step_is_clean(bench)
        yield "the weight step leaves alpha alone", _weight_step_is_clean(bench)
    yield "alpha moves down its gradient", _alpha_descends(bench)
    yield "what is off has coefficient zero, and what has not is on", _off_means_zero(bench)
    yield "a decided mix derives to its own architecture", _derivation_agrees(bench)


def _alpha_is_apart(bench: Bench) -> Outcome:
    run = bench.run()
    space = run.space
    shape = (len(space.edges), len(space.primitives))
    inside = [name for name, p in run.state.w.items() if tuple(p.shape) == shape]
    return not inside, f"parameters of alpha's shape: {', '.join(inside)}" if inside else ""


def _loss_is_pure(bench: Bench) -> Outcome:
    run = bench.run()
    buffers = copies(dict(run.state.supernet.named_buffers()))
    problem = bench.problem(run)
    first, second = (problem.outer(run.state.w, run.state.alpha, 0) for _ in range(2))
    moved = changed(dict(run.state.supernet.named_buffers()), buffers)
    return torch.equal(first, second) and not moved, f"losses {first:.6f}, {second:.6f}; moved: {moved[:3]}"


def _step_repeats(bench: Bench) -> Outcome:
    states = []
    for _ in range(2):
        run = bench.run()
        search_step(run, *bench.batches)
        states.append({**run.state.w, **run.state.alpha})
    different = changed(states[0], states[1])
    return not different, f"different: {', '.join(different[:3])}" if different else ""


def _everything_is_reached(bench: Bench) -> Outcome:
    run = bench.run()
    total = {name: torch.zeros_like(a) for name, a in run.state.alpha.items()}
    for step in range(DRAWS if bench.method.draw is not None else 1):
        run.state.step = step
        total = {name: total[name] + g.detach().abs() for name, g in bench.gradients(run).items()}
    columns = [k for k, primitive in enumerate(run.space.primitives) if primitive != "none"]
    missing = []
    choices = [len(run.space.rows(edge.target)) for edge in run.space.edges]
    ranked = [row for row, count in enumerate(choices) if count > 1]  # an edge without rivals has coefficient one
    for name, sizes in total.items():
        of_interest = sizes[:, columns] if sizes.ndim == 2 else sizes[ranked]
        count = int((of_interest == 0).sum())
        missing += [f"{count} of {of_interest.numel()} in {name}"] if count else []
    return not missing, "; ".join(missing)


def _smooth_problem(seed: int) -> tuple[Bilevel, dict[str, Tensor], dict[str, Tensor]]:
    """A problem without kinks, whose weights have momentum."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, target = normal(6, 4), normal(6)
    w = {"u": (normal(4, 3) / 2).requires_grad_(), "v": normal(3).requires_grad_()}
    alpha = {"alpha.normal": normal(2, 3).requires_grad_()}

    def loss(shift: float) -> Callable[[Tensors, Tensors, int], Tensor]:
        def value(w: Tensors, alpha: Tensors, draw: int) -> Tensor:
            first, second = alpha["alpha.normal"].softmax(-1).unbind()
            hidden = torch.tanh(x @ w["u"]) * first + torch.sin(x @ w["u"]) * second
            return ((hidden @ w["v"] - target - shift) ** 2).mean()

        return value

    buffers = {name: normal(*p.shape) for name, p in w.items()}
    return Bilevel(loss(0.0), loss(0.5), SgdStep(0.1, 0.9, 0.01, False, buffers)), w, alpha


def _hypergradient_is_exact(method: Method, seed: int) -> Outcome:
    problem, w, alpha = _smooth_problem(seed)

    def after_step(alpha: Tensors) -> Tensor:
        gradients = gradients_of(problem.inner(w, alpha, 0), w)
        return problem.outer(problem.inner_step(w, gradients), alpha, 0)

    def as_it_is(alpha: Tensors) -> Tensor:
        return problem.outer(w, alpha, 0)

    objective = as_it_is if method.hypergradient is first_order else after_step
    _, gradients = method.hypergradient(problem, w, alpha)
    return agree(gradients, slopes(objective, alpha), SMOOTH_TOLERANCE)


def _mix_has_slope(bench: Bench) -> Outcome:
    """First order: the slope of the loss in the coefficients, through the derivative of the coefficients in alpha."""
    run = bench.run()
    problem, alpha, w = bench.problem(run), run.state.alpha, run.state.w
    _, gradients = first_order(problem, w, alpha)
    if bench.method.draw is None or not bench.method.draw.turns_off:
        return agree_along(gradients, lambda at: problem.outer(w, at, 0), alpha, bench.seed)
    run.state.step = _step_without_none(run)
    problem = bench.problem(run)
    _, gradients = first_order(problem, w, alpha)
    drawn = run.sampler("alpha")(alpha).mix
    batch = bench.batches[1]

    def loss(candidates: Tensors) -> Tensor:
        whole = drawn._replace(candidates=candidates, alive={})
        return F.cross_entropy(run.state.supernet(batch.images, whole), batch.labels)

    point = {name: x.detach().requires_grad_() for name, x in drawn.candidates.items()}
    of_mix = gradients_of(loss(point), point)
    inner = torch.stack([(drawn.candidates[name] * slope).sum() for name, slope in of_mix.items()]).sum()
    through, detail = agree(gradients, gradients_of(inner, alpha))
    sloped, more = agree_along(of_mix, loss, point, bench.seed)
    return through and sloped, f"{detail}; {more}"


def _step_without_none(run: Run) -> int:
    """A step that draws a network without ``none``: a state that is zero stands on the kink of a ReLU."""
    none = [primitive == "none" for primitive in run.space.primitives]
    for step in range(SEARCHED):
        run.state.step = step
        candidates = run.sampler("alpha")(run.state.alpha).mix.candidates.values()
        if not any(bool((mix_EK[:, none] != 0).any()) for mix_EK in candidates):
            return step
    return 0


def _score_is_right(bench: Bench, estimator: ImportanceWeighted) -> Outcome:
    run = bench.run()
    problem, sampler, alpha = bench.problem(run), run.sampler("alpha"), run.state.alpha
    draws = range(estimator.draws)
    losses = torch.stack([problem.outer(run.state.w, alpha, draw).detach() for draw in draws])
    scale = problem.outer_size / (problem.outer_size if estimator.temperature is None else estimator.temperature)
    weights = (-scale * losses).softmax(0) if estimator.self_normalised else (-scale * losses).exp() / len(losses)
    expected = {name: torch.zeros_like(a) for name, a in alpha.items()}
    for draw in draws:
        for name, mix_EK in sampler(alpha, draw).mix.candidates.items():
            score_EK = mix_EK.detach() - alpha[f"alpha.{name}"].detach().softmax(-1)
            expected[f"alpha.{name}"] -= weights[draw] * score_EK
    return agree(estimator(problem, run.state.w, alpha)[1], expected)


def _weights_have_slope(bench: Bench) -> Outcome:
    run = bench.run()
    problem, w = bench.problem(run), run.state.w
    alpha = {name: a.detach() for name, a in run.state.alpha.items()}
    gradients = gradients_of(problem.inner(w, alpha, 0), w)
    return agree_along(gradients, lambda at: problem.inner(at, alpha, 0), w, bench.seed)


def _penalties_have_slope(bench: Bench) -> Outcome:
    """Each term against differences at the relaxed coefficients, where it is a smooth function of alpha."""
    run = bench.run()
    mix = {
        name.removeprefix("alpha."): a.detach().softmax(-1) for name, a in run.state.alpha.items() if "alpha" in name
    }
    flat = []
    shown = [term.penalty for term in bench.method.penalties]
    if bench.method.objective is not loss_alone:
        shown.append(lambda mix: bench.method.objective(torch.ones((), dtype=torch.float64), mix))
    for penalty in shown:
        at = {name: x.clone().requires_grad_() for name, x in mix.items()}
        holds, detail = agree(gradients_of(penalty(at), at), slopes(penalty, mix))
        if not holds:
            flat.append(detail)
    return not flat, "; ".join(flat)


def _penalties_reach_alpha(bench: Bench) -> Outcome:
    """What the costs add to the gradient of a step, against differences of the costs themselves."""
    method, run, bare = bench.method, bench.run(), bench.without_penalties()
    loss, without = alpha_gradients(bare.run(), *bench.batches)
    alpha, space, at = run.state.alpha, run.space, run.at

    def relaxed(alpha: Tensors) -> Tensors:
        return relax(method, space, alpha, run.state.alive, run.tau).candidates

    def at_relaxation(alpha: Tensors) -> Tensor:
        mix = relaxed(alpha)
        expected = sum(term.weight(at) * term.penalty(mix) for term in method.penalties if term.expected)
        return method.objective(loss, mix) + expected

    def at_draw(mix: Tensors) -> Tensor:
        sampled = sum(term.weight(at) * term.penalty(mix) for term in method.penalties if not term.expected)
        return sampled + 0 * loss

    total = slopes(at_relaxation, alpha)
    of_loss = slopes(lambda point: method.objective(point["loss"], relaxed(alpha)).detach(), {"loss": loss})["loss"]
    total = {name: total[name] + of_loss * gradient for name, gradient in without.items()}
    if not isinstance(method.hypergradient, ImportanceWeighted):  # there they are part of the losses that weigh draws
        drawn = run.sampler("alpha")(alpha).mix.candidates
        of_mix = slopes(at_draw, {name: x.detach() for name, x in drawn.items()})
        inner = torch.stack([(drawn[name] * slope).sum() for name, slope in of_mix.items()]).sum()
        total = {name: total[name] + g for name, g in gradients_of(inner, alpha).items()}
    elif any(not term.expected for term in method.penalties):
        return True, "costs of draws count as losses"
    _, with_penalties = alpha_gradients(run, *bench.batches)
    added = {name: g - without[name] for name, g in with_penalties.items()}
    expected = {name: g - without[name] for name, g in total.items()}
    return agree(added, expected)


def _alpha_step_is_clean(bench: Bench) -> Outcome:
    """The weight optimiser is replaced by one that does nothing: whatever moves was moved by the alpha step."""
    run = bench.run()
    tensors = {**run.state.w, **dict(run.state.supernet.named_buffers())}
    before = copies(tensors)
    for group in run.state.weight_optimizer.param_groups:
        group["lr"] = 0.0
    search_step(run, *bench.batches)
    moved = changed(tensors, before)
    return not moved, f"moved: {', '.join(moved[:3])}" if moved else ""


def _weight_step_is_clean(bench: Bench) -> Outcome:
    run = bench.run()
    before = copies(run.state.alpha)
    search_step(run, bench.batches[0], None)
    moved = changed(run.state.alpha, before)
    return not moved, f"moved: {', '.join(moved)}" if moved else ""


def _alpha_descends(bench: Bench) -> Outcome:
    run = bench.run()
    if bench.method.protocol.joint or bench.method.protocol.weights_first:  # the gradient that the step will take
        for group in run.state.weight_optimizer.param_groups:
            group["lr"] = 0.0
    gradients, before = bench.gradients(run), copies(run.state.alpha)
    if bench.method.protocol.joint:
        search_step(run, bench.batches[1], None)
    else:
        search_step(run, *bench.batches)
    along = sum(((a.detach() - before[name]) * gradients[name]).sum().item() for name, a in run.state.alpha.items())
    return along < 0, f"the step times the gradient is {along:.1e}"


def _off_means_zero(bench: Bench) -> Outcome:
    run = bench.run()
    wrong = []
    for phase in ("alpha", "weights"):
        mix = run.sampler(phase)(run.state.alpha).mix
        for name, columns in mix.alive.items():
            on = torch.zeros_like(mix.candidates[name], dtype=torch.bool)
            for row, runs in enumerate(columns):
                on[row, list(runs)] = True
            count = int((mix.candidates[name].detach()[~on] != 0).sum())
            wrong += [f"{count} in {name} of the {phase} step"] if count else []
    return not wrong, "; ".join(wrong)


def _derivation_agrees(bench: Bench) -> Outcome:
    space = bench.run().space
    skip = space.primitives.index("skip_connect") if "skip_connect" in space.primitives else None
    for draw in range(20):
        genotype = random_genotype(space, bench.seed * 1000 + draw)
        mix = {}
        for cell_type, cell in genotype.cells.items():
            rows = [[0.0] * len(space.primitives) for _ in space.edges]
            for node, genes in enumerate(cell.nodes):
                for gene in genes:
                    rows[space.rows(space.num_inputs + node)[gene.source]][space.primitives.index(gene.primitive)] = 1.0
            mix[cell_type] = rows
        capped = skip is not None and genotype.normal.count("skip_connect") > 0
        if not capped and bench.method.derivation(space, mix, {}).canonical() != genotype.canonical():
            return False, f"architecture {draw} came back as another one"
    return True, ""
