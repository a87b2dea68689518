"""Parts of a method that have no meaning together, and why: the one place that knows."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastnas.mechanisms.control import EIGENVALUE
from fastnas.mechanisms.schedules import Constant

if TYPE_CHECKING:
    from fastnas.methods.method import Method


def conflicts(method: "Method", show: Callable[[Any], str]) -> list[tuple[bool, str, str, str]]:
    """Whether two parts are there that do not work together, their names, and why they do not.

    Args:
        method: To look at.
        show: From a part to how one writes it.
    """
    gradient, draw = f"hypergradient={show(method.hypergradient)}", f"draw={show(method.draw)}"
    control, of_weights = f"control={show(method.control)}", method.draw_of_weights
    probable = method.draw is not None and method.draw.has_probability
    turns_off = method.draw is not None and method.draw.turns_off
    needs_twice = getattr(method.hypergradient, "needs_twice", False)
    joint, reads_eigenvalue = method.update_schedule.joint, EIGENVALUE in method.control_reads
    return [
        (
            method.scores and not probable,
            gradient,
            draw,
            "It differentiates the log-probability of a discrete draw: use draw=Categorical().",
        ),
        (
            probable and not method.scores,
            draw,
            gradient,
            "The coefficients of this draw are constants, so alpha would never move: use ImportanceWeighted() or "
            "Reinforce().",
        ),
        (
            method.unrolls and turns_off,
            gradient,
            draw,
            "Its gradient is that of a surrogate, and the weights step with a choice of their own.",
        ),
        (
            not method.update_schedule.alpha_moves and method.choice is None,
            "update_schedule.alpha_moves=False",
            "choice=None",
            "Nothing would choose the architecture.",
        ),
        (
            method.matching is not None and (joint or method.weight_average is not None or of_weights is not None),
            "matching",
            "update_schedule.joint, weight_average or a draw",
            "It compares the gradients of all candidates on both halves.",
        ),
        (
            method.alignment is not None and (joint or method.weight_average is not None or of_weights is not None),
            "alignment",
            "update_schedule.joint, weight_average or a draw",
            "It compares what cells make of the same coefficients.",
        ),
        (
            needs_twice and method.draw is not None and method.draw.once_differentiable,
            gradient,
            draw,
            "Its samples have a first derivative and no second: use UnrolledByDifferences().",
        ),
        (
            method.auxiliary_skip != Constant(0.0) and (turns_off or (of_weights is not None and of_weights.turns_off)),
            "auxiliary_skip",
            draw if turns_off else f"weight_draw={show(of_weights)}",
            "It adds to a skip connection that may not run.",
        ),
        (
            method.scores and method.objective is not None,
            "objective",
            gradient,
            "It sees values of draws and no slope of a cost: add that as a penalty with expected=True.",
        ),
        (
            method.reward is not None and not method.reads_reward,
            "reward",
            gradient,
            "Only Reinforce asks what a sample is worth.",
        ),
        (
            method.joint_inputs and not method.scores,
            "joint_inputs",
            gradient,
            "The choice of inputs is a constant of the loss, so its logits would never move.",
        ),
        (
            method.joint_inputs and (method.partial_channels > 1 or method.edge_normalisation),
            "joint_inputs",
            "partial_channels or edge_normalisation",
            "They add up all edges of a node.",
        ),
        (
            method.weight_average is not None and of_weights is None,
            "weight_average",
            "a weight step without a draw",
            "Several draws would all be the same.",
        ),
        (
            method.perturbation is not None and of_weights is not None and of_weights.turns_off,
            "perturbation",
            f"draw={show(of_weights)}",
            "It would move coefficients of candidates that do not run.",
        ),
        (
            method.perturbation is not None and not method.on_simplex,
            "perturbation",
            f"relaxation={show(method.relaxation)}",
            "It projects onto the simplex, on which only a softmax lies.",
        ),
        (
            joint and (method.scores or method.unrolls or method.weight_average is not None),
            "update_schedule.joint",
            "weight_average" if method.weight_average is not None else gradient,
            "One backward pass gives both gradients: there is no inner step to look through.",
        ),
        (
            method.clip_with_alpha and (joint or method.weight_average is not None or method.perturbation is not None),
            "clip_with_alpha",
            "update_schedule.joint, weight_average or perturbation",
            "The weight step must have a gradient of alpha beside that of the weights, of one draw.",
        ),
        (
            joint and method.perturbation is not None,
            "update_schedule.joint",
            "perturbation",
            "Alpha would get the gradient of coefficients that it did not choose.",
        ),
        (
            reads_eigenvalue and method.eigenvalue_every == 0,
            control,
            "eigenvalue_every=0",
            "The eigenvalue would not be measured.",
        ),
        (
            method.eigenvalue_every > 0 and method.draw is not None,
            "eigenvalue_every",
            draw,
            "The curvature at a random or discrete choice is not that of the search.",
        ),
        (
            method.eigenvalue_every > 0 and joint,
            "eigenvalue_every",
            "update_schedule.joint",
            "Alpha has no batch of its own to measure on.",
        ),
        (
            len(method.stages) > 1 and (reads_eigenvalue or method.snapshots > 0),
            control,
            f"{len(method.stages)} stages",
            "Each stage begins with fresh weights and logits, and networks of another size.",
        ),
    ]
