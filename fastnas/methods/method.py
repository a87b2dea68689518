"""What a method is: one choice on every axis of differentiable architecture search."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from fastnas.bilevel.hypergradient import Hypergradient, ImportanceWeighted, first_order
from fastnas.bilevel.reinforce import Reinforce
from fastnas.mechanisms.alpha_optimizer import MakeOptimizer, Settle, adam, as_it_is
from fastnas.mechanisms.connection import Connection
from fastnas.mechanisms.control import Control, EigenvalueRollBack, EigenvalueStop, FirstOf, never
from fastnas.mechanisms.derivation import derive
from fastnas.mechanisms.draw import Draw
from fastnas.mechanisms.penalty import Objective, Penalty, Reward, accuracy_alone, loss_alone
from fastnas.mechanisms.perturbation import Perturbation, unperturbed
from fastnas.mechanisms.protocol import Protocol
from fastnas.mechanisms.pruning import Prune, Stage, keep_everything
from fastnas.mechanisms.relaxation import Relaxation, softmax
from fastnas.mechanisms.schedules import Constant, LearningRate, Schedule, cosine
from fastnas_kernels.check import complaint, require


class Term(NamedTuple):
    """A penalty and how much it counts.

    Args:
        penalty: What is added to the loss.
        weight: Times how much, in units of the loss per unit of the penalty.
        expected: Whether a penalty of coefficients is taken at the relaxation of alpha, and its gradient straight from
            there, instead of at what the step drew.
    """

    penalty: Penalty
    weight: Schedule
    expected: bool = False


@dataclass(frozen=True, kw_only=True)
class Method:
    """One choice on every axis; first-order DARTS on each that is not named.

    Vary a method with ``dataclasses.replace(pc_darts(), connection=Connection(k=2))``. The letters are the axes.

    Args:
        name: What runs and reports call it.
        source: Authors, year and arXiv id.
        relaxation: A. From logits to coefficients; what an architecture is derived from.
        tau: A, B. Temperature of the draw, or of the relaxation where there is no draw.
        draw: B, C. What a step mixes with; ``None`` for the relaxation itself.
        weight_draw: B, C. The same for the weight step where it differs.
        hypergradient: D, E. How alpha gets its gradient.
        weight_average: D. The weights' gradient is that of this many draws, weighted alike; ``None`` for one draw.
        protocol: F. Who moves when.
        warmup_share: F. Share of the epochs of a stage in which only weights move, for whoever does not say how many.
        perturbation: G. Moves the coefficients of the weight step.
        radius: G. How far.
        alpha_optimizer: H. Moves alpha along its gradient.
        settle: H. What is done to alpha after a step.
        alpha_mean: H. Where alpha begins.
        alpha_scale: H. The standard deviation that alpha begins with.
        stages: I. The parts of the search; each begins with fresh weights and logits.
        prune: I. What stays alive, asked at the beginning of an epoch in which alpha moves.
        prune_every: I. Epochs between two such questions.
        connection: J. Channels that are mixed and weights of the edges.
        drop_path: J. Probability of dropping an edge for an image.
        cutout: J. Probability of blanking a square of half its side in an image of a step.
        skip_dropout: J. Probability of dropping an element of a skip connection.
        objective: K. Joins the loss that alpha sees with a cost, which is taken at the relaxation of alpha.
        reward: K. What a sample is worth, for a gradient from rewards; sampled penalties are taken off it.
        penalties: K. Terms of the coefficients of every cell type, added to the loss that alpha sees.
        weight_penalties: K. Terms of the weights, added to the loss that the weights see.
        weight_decay_factor: K. Multiplies the configured weight decay.
        control: L. When the search stops or goes back.
        eigenvalue_every: L. Epochs between two measurements of the dominant eigenvalue; 0 for none.
        derivation: M. From coefficients to a genotype.
        learning_rate: N. Of the weights.
    """

    name: str
    source: str
    relaxation: Relaxation = softmax
    tau: Schedule = Constant(1.0)  # noqa: RUF009  (frozen)
    draw: Draw | None = None
    weight_draw: Draw | None = None
    hypergradient: Hypergradient = first_order
    weight_average: ImportanceWeighted | None = None
    protocol: Protocol = Protocol()  # noqa: RUF009  (frozen)
    warmup_share: float = 0.0
    perturbation: Perturbation = unperturbed
    radius: Schedule = Constant(0.0)  # noqa: RUF009  (frozen)
    alpha_optimizer: MakeOptimizer = adam
    settle: Settle = as_it_is
    alpha_mean: float = 0.0
    alpha_scale: float = 1e-3
    stages: tuple[Stage, ...] = (Stage(),)
    prune: Prune = keep_everything
    prune_every: int = 1
    connection: Connection = Connection()  # noqa: RUF009  (frozen)
    drop_path: Schedule = Constant(0.0)  # noqa: RUF009  (frozen)
    cutout: Schedule = Constant(0.0)  # noqa: RUF009  (frozen)
    skip_dropout: Schedule = Constant(0.0)  # noqa: RUF009  (frozen)
    objective: Objective = loss_alone
    reward: Reward = accuracy_alone
    penalties: tuple[Term, ...] = ()
    weight_penalties: tuple[Term, ...] = ()
    weight_decay_factor: float = 1.0
    control: Control = never
    eigenvalue_every: int = 0
    derivation: Callable = derive
    learning_rate: LearningRate = cosine

    def __post_init__(self) -> None:
        require(0 <= self.warmup_share < 1, "Method", "warmup_share must lie in [0, 1)", self.warmup_share)
        require(len(self.stages) >= 1, "Method", "stages must not be empty", "none")
        require(self.prune_every >= 1, "Method", "prune_every must be at least 1", self.prune_every)
        require(self.eigenvalue_every >= 0, "Method", "eigenvalue_every must not be negative", self.eigenvalue_every)
        require(
            self.weight_decay_factor >= 0,
            "Method",
            "weight_decay_factor must not be negative",
            self.weight_decay_factor,
        )
        for meaningless, first, second, why in self._contradictions():
            if meaningless:
                raise ValueError(
                    complaint(f"method {self.name}", f"{first} must not stand beside {second}", "both", why)
                )

    def _contradictions(self) -> list[tuple[bool, str, str, str]]:
        scored = isinstance(self.hypergradient, ImportanceWeighted | Reinforce)
        estimator = f"hypergradient={type(self.hypergradient).__name__}"
        probable = self.draw is not None and self.draw.has_probability
        of_weights = self.draw if self.weight_draw is None else self.weight_draw
        perturbs = self.perturbation is not unperturbed
        joint = self.protocol.joint
        unrolls = self.hypergradient is not first_order and not scored
        measures = _reads_eigenvalue(self.control)
        return [
            (
                scored and not probable,
                estimator,
                f"draw={self.draw}",
                "It differentiates the log-probability of a discrete draw: use Categorical().",
            ),
            (
                probable and not scored,
                f"draw={self.draw}",
                "a hypergradient by differentiation",
                "The coefficients of this draw are constants, so alpha would never move: use ImportanceWeighted() or "
                "Reinforce().",
            ),
            (
                scored and self.objective is not loss_alone,
                "objective",
                estimator,
                "It sees values of draws and no slope of a cost: add that as a penalty with expected=True.",
            ),
            (
                self.reward is not accuracy_alone and not isinstance(self.hypergradient, Reinforce),
                "reward",
                "a hypergradient other than Reinforce",
                "Nothing else asks what a sample is worth.",
            ),
            (
                self.connection.joint_inputs and not scored,
                "connection with joint_inputs",
                "a hypergradient by differentiation",
                "The choice of inputs is a constant of the loss, so its logits would never move.",
            ),
            (
                self.weight_average is not None and of_weights is None,
                "weight_average",
                "a weight step without a draw",
                "Several draws would all be the same.",
            ),
            (
                perturbs and of_weights is not None and of_weights.turns_off,
                "perturbation",
                f"draw={of_weights}",
                "It would move coefficients of candidates that do not run.",
            ),
            (
                perturbs and self.relaxation is not softmax,
                "perturbation",
                "a relaxation other than softmax",
                "It projects onto the simplex, on which only a softmax lies.",
            ),
            (
                joint and (scored or unrolls or self.weight_average is not None),
                "protocol.joint",
                "hypergradient or weight_average",
                "One backward pass gives both gradients: there is no inner step to look through.",
            ),
            (
                joint and perturbs,
                "protocol.joint",
                "perturbation",
                "Alpha would get the gradient of coefficients that it did not choose.",
            ),
            (
                measures and self.eigenvalue_every == 0,
                "control by eigenvalue",
                "eigenvalue_every=0",
                "Nothing would be measured.",
            ),
            (
                self.eigenvalue_every > 0 and self.draw is not None,
                "eigenvalue_every",
                f"draw={self.draw}",
                "The curvature at a random or discrete choice is not that of the search.",
            ),
            (
                len(self.stages) > 1 and isinstance(self.control, EigenvalueRollBack),
                "stages",
                "control=EigenvalueRollBack",
                "A stage has networks of another size than the one before it.",
            ),
        ]


def _reads_eigenvalue(control: Control) -> bool:
    if isinstance(control, FirstOf):
        return any(_reads_eigenvalue(part) for part in control.controls)
    return isinstance(control, EigenvalueStop | EigenvalueRollBack)
