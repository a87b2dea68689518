"""What the methods of the library claim of their gradients and coefficients.

Shape suffixes: E edges of a cell, K candidates of an edge.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastnas.bilevel.problem import Tensors
from fastnas.bilevel.score_function import ImportanceWeighted, Reinforce
from fastnas.checks.claims import CentralDifference, Scored, StraightThrough, slope_after_step, slope_of_outer
from fastnas.checks.point import Point, masks
from fastnas.checks.system import Claim, Coefficients
from fastnas.engine.coefficients import relax
from fastnas.errors import invalid
from fastnas.mechanisms.draw import Draw, Sample
from fastnas.mechanisms.pruning import Alive
from fastnas.mechanisms.relaxation import Relaxation, probabilities
from fastnas.methods.method import Method, Term
from fastnas.supernet.architecture import list_input_sets, make_input_mask


def find_claim(point: Point) -> Claim:
    """What the gradient of the point's method is said to be, by the name that its hypergradient has for it."""
    method = point.run.method
    name: str = getattr(method.hypergradient, "claim", None) or "unknown"
    surrogate = _surrogate(point)
    if surrogate is None and name in _CLAIMS:
        return _CLAIMS[name](point)
    if surrogate is not None and name == "slope":
        return _straight_through(point, surrogate)
    remedy = "Pass it: check(..., claim=...), with one of fastnas.checks.claims or a function of your own."
    got = f"hypergradient={method.hypergradient}, draw={method.draw}"
    raise invalid("check", f"the gradient of method {method.name} must have a known formula", got, remedy)


def _claim_scores(point: Point) -> Claim:
    estimator: Any = point.run.method.hypergradient
    rewarded, logits = point.run.method.reads_reward, point.run.state.alpha
    weigh = make_advantage(estimator) if rewarded else make_importance(estimator, len(point.search_batch.labels))

    def choose(alpha: Tensors, draw: int) -> dict[str, Tensor]:
        mix = point.drawn(alpha, draw).mix.candidates
        return {f"alpha.{name}": x.detach() for name, x in mix.items()} | find_inputs_read(point, mix)

    def reward(w: Tensors, alpha: Tensors, draw: int) -> Tensor:
        return point.reward(w, point.drawn(alpha, draw).mix)

    living = {f"alpha.{name}": alive_EK for name, alive_EK in masks(point.run.state.alive).items()}
    living |= {
        name: make_input_mask(point.run.space, torch.device("cpu")) for name in logits if name.startswith("inputs.")
    }
    return Scored(choose, weigh, estimator.draws, point.run.tau, living, reward if rewarded else None)


_CLAIMS: Mapping[str, Callable[[Point], Claim]] = {
    "slope": lambda point: slope_of_outer,
    "slope after a step": lambda point: slope_after_step,
    "slope after a step by differences": lambda point: CentralDifference(
        getattr(point.run.method.hypergradient, "radius", 0.01)
    ),
    "importance-weighted scores": _claim_scores,
    "rewarded scores": _claim_scores,
}
"""By the names that hypergradients have for what they claim."""


@dataclass(frozen=True)
class _Surrogate(Draw):
    """What alpha is differentiated through in place of a draw or a relaxation, as a draw of its own: it gets the seeds
    that the other one gets."""

    of: Callable[[Tensor, Tensor | None, float, int], Tensor]

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: int) -> Sample:
        return Sample(self.of(alpha_EK, alive_EK, tau, seed))


def _surrogate(point: Point) -> _Surrogate | None:
    """``None`` where alpha's gradient is the slope of the coefficients that the loss is taken at."""
    method = point.run.method
    if method.draw is not None:
        alpha_EK = next(a for name, a in point.run.state.alpha.items() if name.startswith("alpha."))
        own = method.draw.surrogate(alpha_EK.detach(), None, 1.0, 0)
        return None if own is None else _Surrogate(method.draw.surrogate)  # type: ignore[arg-type]
    soft = getattr(method.relaxation, "surrogate", None)
    return None if soft is None else _Surrogate(lambda alpha_EK, alive_EK, tau, seed: soft(alpha_EK, alive_EK, tau))


def separate_penalties(method: Method) -> tuple[Term, ...]:
    """The penalties whose gradient for alpha is their slope: all but those of hard choices and of scored draws."""
    if method.draw is None and getattr(method.relaxation, "surrogate", None) is not None:
        return ()
    sampled = (method.draw is None or not method.draw.turns_off) and not method.scores
    return tuple(term for term in method.penalties if term.expected or sampled)


def make_importance(estimator: ImportanceWeighted, num_examples: int) -> Callable[[Tensor], Tensor]:
    """From the losses ``[K]`` of draws to what each counts (Casale et al., 2019, arXiv:1902.05116), written out."""
    temperature = num_examples if estimator.temperature is None else estimator.temperature

    def importance(losses_K: Tensor) -> Tensor:
        likelihood_K = (-losses_K * num_examples / temperature).exp()
        return likelihood_K / (likelihood_K.sum() if estimator.self_normalised else len(losses_K))

    return importance


def make_advantage(estimator: Reinforce) -> Callable[[Tensor], Tensor]:
    """From the rewards ``[K]`` of draws to how far each is moved towards (Cai et al., 2019, arXiv:1812.00332, eq. 10,
    less the mean reward of the others), written out."""

    def advantage(rewards_K: Tensor) -> Tensor:
        count = len(rewards_K)
        others = [(rewards_K.sum() - r) / (count - 1) if estimator.baseline else 0 * r for r in rewards_K]
        return (rewards_K - torch.stack(others)) / count

    return advantage


def find_inputs_read(point: Point, mix: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sets of inputs that the coefficients ``[E, K]`` of every cell type read, one-hot under the names of their
    logits; nothing where there are none."""
    space, found = point.run.space, {}
    for name, mix_EK in mix.items():
        logits_BS = point.run.state.alpha.get(f"inputs.{name}")
        if logits_BS is not None:
            read = set((mix_EK.sum(-1) > 0).nonzero().flatten().tolist())
            chosen = [[set(rows) <= read for rows in of_node] for of_node in list_input_sets(space)]
            width = logits_BS.shape[1]
            rows = [[float(s) for s in of_node] + [0.0] * (width - len(of_node)) for of_node in chosen]
            found[f"inputs.{name}"] = torch.tensor(rows, dtype=torch.float64)
    return found


def _straight_through(point: Point, surrogate: _Surrogate) -> StraightThrough:
    """The gradient of a loss at drawn coefficients, through what stands in for them."""
    method, draw = point.run.method, point.run.method.draw
    as_soft = point.with_method(replace(method, draw=surrogate))
    names = point.run.space.cell_types
    offsets = point.drawn(point.run.state.alpha).mix.offsets

    def hard(alpha: Tensors, draw: int) -> dict[str, Tensor]:
        mix = point.drawn(alpha, draw).mix
        return {**mix.candidates, **{f"edges {name}": x for name, x in mix.edges.items()}}

    def soft(alpha: Tensors, draw: int) -> dict[str, Tensor]:
        rows = {name: as_soft.drawn(alpha, draw).mix.candidates[name] for name in names}
        edges = {f"edges {name}": x for name, x in write_out_edges(point, alpha).items()}
        chosen = point.drawn(alpha, draw).mix.candidates
        others = {f"offset {name}": (rows[name] * (chosen[name].detach() == 0)).sum(-1) for name in offsets}
        return {**rows, **edges, **others}

    def selected(alpha: Tensors, draw: int) -> Mapping[str, Tensor]:
        return point.drawn(alpha, draw).mix.candidates

    only = draw is not None and draw.selected_only
    return StraightThrough(hard, soft, _loss_at(point), selected if only else None)


def _loss_at(point: Point) -> Callable[[Tensors, Tensors], Tensor]:
    drawn, run = point.drawn(point.run.state.alpha).mix, point.run
    others = [term for term in run.method.penalties if term not in separate_penalties(run.method)]

    def loss(w: Tensors, at: Tensors) -> Tensor:
        candidates = {name: at[name] for name in drawn.candidates}
        edges = {name: at[f"edges {name}"] for name in drawn.edges}
        offsets = {name: at.get(f"offset {name}", x.detach()) for name, x in drawn.offsets.items()}
        total = point.loss(w, drawn._replace(candidates=candidates, edges=edges, offsets=offsets))
        return total + sum(term.weight(run.at) * term.penalty(candidates) for term in others)

    return loss


def write_out_edges(point: Point, alpha: Tensors) -> dict[str, Tensor]:
    """The coefficients of the edges ``[E]``, summing to one at every node, written out."""
    space = point.run.space
    rows = [space.rows(space.num_inputs + node) for node in range(space.num_nodes)]
    return {
        name.removeprefix("beta."): torch.cat([probabilities(beta_E[row.start : row.stop]) for row in rows])
        for name, beta_E in alpha.items()
        if name.startswith("beta.")
    }


def make_coefficients(point: Point) -> Coefficients:
    """What is claimed of the coefficients of both steps, of the relaxation once something was pruned, and of edges."""
    method, space, state = point.run.method, point.run.space, point.run.state
    pruned = {name: tuple(map(_drop_one, rows)) for name, rows in state.alive.items()}
    living, left = masks(state.alive), masks(pruned)

    def values(alpha: Tensors, draw: int) -> dict[str, Tensor]:
        of_alpha, of_weights = (point.drawn(alpha, draw, phase).mix for phase in ("alpha", "weights"))
        after = relax(method, space, alpha, pruned, point.run.tau)
        rows = {
            f"{phase} {name}": x
            for phase, mix in (("alpha", of_alpha), ("weights", of_weights), ("pruned", after))
            for name, x in mix.candidates.items()
        }
        return {**rows, **_by_node(point, of_alpha.edges)}

    def formula(alpha: Tensors, draw: int) -> dict[str, Tensor]:
        found: dict[str, Tensor | None] = {**_by_node(point, write_out_edges(point, alpha))}
        for name, alive_EK in living.items():
            a_EK, tau = alpha[f"alpha.{name}"], point.run.tau if method.draw is None else 1.0
            found[f"pruned {name}"] = _write_out_relaxation(method.relaxation, a_EK, left[name], tau)
            for phase in ("alpha", "weights"):
                own = method.weight_draw if phase == "weights" else None
                drawn = point.drawn(alpha, draw, phase).mix.candidates[name]
                of_draw = _write_out_draw(own or method.draw, drawn, a_EK, alive_EK)
                relaxed = _write_out_relaxation(method.relaxation, a_EK, alive_EK, tau)
                rows = relaxed if own is None and method.draw is None else of_draw
                found[f"{phase} {name}"] = None if rows is None else rows + _auxiliary(point, alive_EK)
        return {name: x for name, x in found.items() if x is not None}

    def off(alpha: Tensors, draw: int) -> dict[str, Tensor]:
        mix = point.drawn(alpha, draw, "weights").mix
        dead = {f"alpha {name}": ~alive_EK for name, alive_EK in living.items()}
        dead |= {f"pruned {name}": ~alive_EK for name, alive_EK in left.items()}
        return dead | {f"weights {name}": ~_mark_on(rows, living[name]) for name, rows in mix.alive.items()}

    sums = method.on_simplex
    kept = [] if sums or method.draw is not None else ["alpha", "weights"]
    kept += [] if sums else ["pruned"]
    reads_some = any(name.startswith("inputs.") for name in state.alpha)
    scales = method.draw is not None and method.draw.turns_off and not method.draw.one_hot
    adds = method.auxiliary_skip(point.run.at) != 0
    kept += ["alpha", "weights"] if scales or reads_some or adds else []
    exempt = tuple(f"{phase} {name}" for phase in kept for name in living)
    return Coefficients(values=values, formula=formula, exempt=exempt, off=off)


def _by_node(point: Point, edges: Tensors) -> dict[str, Tensor]:
    space = point.run.space
    rows = {node: space.rows(space.num_inputs + node) for node in range(space.num_nodes)}
    return {f"edges {name} {node}": x[row.start : row.stop] for name, x in edges.items() for node, row in rows.items()}


def _auxiliary(point: Point, alive_EK: Tensor) -> Tensor:
    """What both steps add to the coefficients of skip connections."""
    space, added = point.run.space, point.run.method.auxiliary_skip(point.run.at)
    is_skip = torch.tensor([primitive == "skip_connect" for primitive in space.primitives])
    return added * (alive_EK & is_skip).double()


def _drop_one(row: tuple[bool, ...]) -> tuple[bool, ...]:
    """The last candidate that is alive dies, unless it is the only one."""
    alive = [k for k, lives in enumerate(row) if lives]
    return tuple(lives and (len(alive) == 1 or k != alive[-1]) for k, lives in enumerate(row))


def _mark_on(rows: tuple[tuple[int, ...], ...], like_EK: Tensor) -> Tensor:
    on_EK = torch.zeros_like(like_EK)
    for row, columns in enumerate(rows):
        on_EK[row, list(columns)] = True
    return on_EK


def _write_out_relaxation(relaxation: Relaxation, a_EK: Tensor, alive_EK: Tensor, tau: float) -> Tensor | None:
    """A relaxation by its formula; ``None`` for one that brings none."""
    written_out = getattr(relaxation, "written_out", None)
    return None if written_out is None else written_out(a_EK, alive_EK, tau)


def _write_out_draw(draw: Draw | None, drawn_EK: Tensor, a_EK: Tensor, alive_EK: Tensor) -> Tensor | None:
    """One of a row for the draws that choose, and what others write out."""
    if draw is None:
        return None
    if not draw.one_hot:
        return draw.written_out(a_EK, alive_EK)
    read_E1 = drawn_EK.sum(-1, keepdim=True) > 0  # nothing is mixed on the edges that a draw of inputs leaves out
    return torch.nn.functional.one_hot(drawn_EK.argmax(-1), drawn_EK.shape[-1]).to(a_EK) * read_E1


def leave_two(point: Point) -> tuple[dict[str, Alive], list[tuple[str, int, tuple[int, int]]]]:
    """Alive masks that leave two candidates on at most three edges and one on the others, and those edges with their
    pairs: few enough architectures to try them all."""
    space, chosen, alive = point.run.space, [], {}
    places = [(name, row) for name in space.cell_types for row in (0, len(space.edges) - 1)][:3]
    for name, rows in point.run.state.alive.items():
        kept = []
        for row, lives in enumerate(rows):
            columns = [k for k, on in enumerate(lives) if on and space.primitives[k] != "none"]
            left = columns[-2:] if (name, row) in places and len(columns) > 1 else columns[:1]
            kept.append(tuple(k in left for k in range(len(lives))))
            if len(left) > 1:
                chosen.append((name, row, (left[0], left[1])))
        alive[name] = tuple(kept)
    return alive, chosen
