"""What compares gradients in the weight step: candidates that freeze, and cells that align."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fastnas.bilevel.problem import Tensors
from fastnas.engine.run import Run
from fastnas.mechanisms.matching import cosine
from fastnas.supernet.mix import Mix


def group_weights(run: Run) -> dict[str, list[str]]:
    """The names of the weights of every candidate that has some, by the candidate's place in the network."""
    groups: dict[str, list[str]] = {}
    for name in run.state.w:
        parts = name.split(".")
        ends = [i for i, part in enumerate(parts) if part in run.space.primitives]
        if ends:
            groups.setdefault(".".join(parts[: ends[0] + 1]), []).append(name)
    return groups


def without_frozen(run: Run, gradients: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """``gradients`` without those of candidates that are frozen, which then stay, without decay or momentum."""
    if not run.state.frozen:
        return dict(gradients)
    groups = group_weights(run)
    held = {name for group in run.state.frozen for name in groups[group]}
    return {name: None if name in held else gradient for name, gradient in gradients.items()}


def match(run: Run, of_weights: Mapping[str, Tensor | None], of_alpha: Mapping[str, Tensor]) -> None:
    """Note how well the gradients of every candidate agree on the two halves, and freeze those that no longer do."""
    rule, state = run.method.matching, run.state
    assert rule is not None
    for group, names in group_weights(run).items():
        if group in state.frozen:
            continue
        pairs = [(of_weights[name], of_alpha[name]) for name in names if of_weights[name] is not None]
        if not pairs:
            continue
        total, count = state.agreement.get(group, (0.0, 0))
        total, count = total + float(cosine(*zip(*pairs, strict=True))), count + 1  # type: ignore[arg-type]
        if count == rule.window:
            if total / count < rule.threshold:
                state.frozen.append(group)
            total, count = 0.0, 0
        state.agreement[group] = (total, count)


def differentiate_alignment(run: Run, mix: Mix, loss_at: Callable[[Tensors, Mix], Tensor]) -> dict[str, Tensor | None]:
    """The gradient of the weights that lets cells align, to be added to that of their loss."""
    rule, w = run.method.alignment, run.state.w
    assert rule is not None
    weight, name = rule.weight(run.at), rule.cell_type
    places = run.state.supernet.places(name)  # type: ignore[operator]
    if weight == 0 or len(places) < 2:
        return dict.fromkeys(w)
    leaves = {place: torch.zeros_like(mix.candidates[name]).requires_grad_() for place in places}
    exactly = rule.radius is None
    loss = loss_at(w, mix._replace(shifts={name: leaves}))
    found = torch.autograd.grad(loss, list(leaves.values()), create_graph=exactly)
    directions = rule.directions({place: g.detach() for place, g in zip(places, found, strict=True)})
    if rule.radius is None:
        agreed = torch.stack([(d * g).sum() for d, g in zip(directions.values(), found, strict=True)]).sum()
        gradients = torch.autograd.grad(agreed, list(w.values()), allow_unused=True)
        return {n: None if g is None else -weight * g for n, g in zip(w, gradients, strict=True)}
    scale = float(rule.radius / torch.stack([d.norm() for d in directions.values()]).norm())

    def gradient(sign: int) -> tuple[Tensor | None, ...]:
        moved = {place: sign * scale * d for place, d in directions.items()}
        return torch.autograd.grad(loss_at(w, mix._replace(shifts={name: moved})), list(w.values()), allow_unused=True)

    pairs = zip(w, gradient(-1), gradient(1), strict=True)
    return {n: None if b is None or a is None else weight * (b - a) / (2 * scale) for n, b, a in pairs}
