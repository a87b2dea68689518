"""What a method is: one choice for every part of a differentiable architecture search."""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple

from fastnas.bilevel.hypergradient import Hypergradient, first_order
from fastnas.bilevel.score_function import ImportanceWeighted
from fastnas.mechanisms.alpha_optimizer import MakeOptimizer, Projection, adam
from fastnas.mechanisms.choice import Choice
from fastnas.mechanisms.control import EIGENVALUE, Control
from fastnas.mechanisms.derivation import derive
from fastnas.mechanisms.draw import Draw
from fastnas.mechanisms.matching import Alignment, GradientMatching
from fastnas.mechanisms.penalty import Objective, Penalty, Reward
from fastnas.mechanisms.perturbation import Perturbation
from fastnas.mechanisms.pruning import Prune, Stage
from fastnas.mechanisms.relaxation import Relaxation, softmax
from fastnas.mechanisms.schedules import Constant, LearningRate, Schedule, cosine
from fastnas.mechanisms.update_schedule import UpdateSchedule
from fastnas_kernels.check import invalid


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


@dataclass(frozen=True, kw_only=True, repr=False)
class Method:
    """A differentiable architecture search: first-order DARTS but for the parts that are named.

    Vary a method with ``dataclasses.replace``; ``repr`` shows the parts that differ from DARTS.

    Args:
        name: What runs and reports call it.
        source: Authors, year and arXiv id.

        relaxation: *Coefficients.* From logits to coefficients; what an architecture is derived from.
        tau: Temperature of the draw, or of the relaxation where there is no draw.
        draw: What a step mixes with; ``None`` for the relaxation itself.
        weight_draw: The same for the weight step where it differs.

        hypergradient: *Gradients.* How alpha gets its gradient.
        weight_average: Importance weights of several draws, over which the weights' gradient is averaged; ``None`` for
            one draw.
        objective: Joins the loss that alpha sees with a cost at the relaxation of alpha; ``None`` for the loss alone.
        reward: What a sample is worth, for a gradient from rewards; ``None`` for its accuracy. Sampled penalties are
            taken off it.
        penalties: Terms of the coefficients of every cell type, added to the loss that alpha sees.
        alpha_penalties: Terms of the logits ``[E, K]`` of every cell type, minus infinity where nothing is alive, added
            to the loss that alpha sees.
        weight_penalties: Terms of the weights, added to the loss that the weights see.

        update_schedule: *Updates.* Which update follows which.
        warmup_share: Share of the epochs of a stage in which only weights move, for configurations that do not say how
            many.
        learning_rate: Of the weights.
        alpha_optimizer: Moves alpha along its gradient.
        alpha_lr: Its learning rate, for configurations that leave it open; ``None`` for one by the number of steps.
        alpha_lr_of_several: The same where ``minutes`` are divided between several searches; ``None`` for no other.
        projection: Onto what alpha is projected after a step; ``None`` for nothing.
        alpha_init_mean: Where alpha begins.
        alpha_init_std: The standard deviation that alpha begins with.

        perturbation: *Regularisation.* Moves the coefficients of the weight step; ``None`` for nothing.
        radius: How far.
        drop_path: Probability of dropping an edge for an image.
        skip_dropout: Probability of dropping an element of a skip connection.
        auxiliary_skip: What is added to the coefficient of every skip connection in both steps, and to none that an
            architecture is derived from.
        cutout: Probability of blanking a square of half its side in an image of a step.
        weight_decay_factor: Multiplies the configured weight decay.
        matching: When the weights of a candidate freeze; ``None`` for never.
        alignment: Lets the cells agree on what to choose; ``None`` for nothing.
        clip_with_alpha: Whether the norm that the weights' gradient is clipped by includes that of alpha on the same
            loss.
        clip_elements: Largest magnitude of an element of a gradient, of the weights or of alpha; 0 for no limit.

        partial_channels: *Supernet.* Candidates see ``1 / partial_channels`` of the channels, the others pass by and a
            shuffle interleaves them (Xu et al., 2020, arXiv:1907.05737, section 3.2). 1 mixes all channels.
        edge_normalisation: Weigh the edges of a node by a softmax over edge logits beta (section 3.3 there); otherwise
            they are added up.
        joint_inputs: Draw which states a node reads, as many as derivation keeps and all of them at once, with logits
            of their own (Casale et al., 2019, arXiv:1902.05116). Nothing in spaces that keep all edges.
        stages: The parts of the search; each begins with fresh weights and logits.
        prune: What stays alive, asked at the beginning of an epoch in which alpha moves; ``None`` for everything.
        prune_every: Epochs between two such questions.

        control: *End of the search.* When it stops or goes back; ``None`` for never.
        eigenvalue_every: Epochs between two measurements of the dominant eigenvalue; 0 for none.
        derivation: From coefficients to a genotype.
        choice: Chooses the architecture at the end, by evaluations of the supernet on the half for alpha; ``None`` for
            what ``derivation`` makes of the coefficients.

    Raises:
        ValueError: If two parts have no meaning together.

    Example:
        >>> from dataclasses import replace
        >>> import fastnas.methods
        >>> replace(fastnas.methods.pc_darts(), partial_channels=2)
        Method(
            name='pc_darts',
            source='Xu et al., 2020, arXiv:1907.05737',
            warmup_share=0.3,
            partial_channels=2,
            edge_normalisation=True,
        )
    """

    name: str
    source: str

    relaxation: Relaxation = softmax
    tau: Schedule = Constant(1.0)
    draw: Draw | None = None
    weight_draw: Draw | None = None

    hypergradient: Hypergradient = first_order
    weight_average: ImportanceWeighted | None = None
    objective: Objective | None = None
    reward: Reward | None = None
    penalties: tuple[Term, ...] = ()
    alpha_penalties: tuple[Term, ...] = ()
    weight_penalties: tuple[Term, ...] = ()

    update_schedule: UpdateSchedule = UpdateSchedule()
    warmup_share: float = 0.0
    learning_rate: LearningRate = cosine
    alpha_optimizer: MakeOptimizer = adam
    alpha_lr: float | None = None
    # What it decides stands in the configuration, and earlier checkpoints do not know it
    alpha_lr_of_several: float | None = field(default=None, metadata={"fingerprint": False})
    projection: Projection | None = None
    alpha_init_mean: float = 0.0
    alpha_init_std: float = 1e-3

    perturbation: Perturbation | None = None
    radius: Schedule = Constant(0.0)
    drop_path: Schedule = Constant(0.0)
    skip_dropout: Schedule = Constant(0.0)
    auxiliary_skip: Schedule = Constant(0.0)
    cutout: Schedule = Constant(0.0)
    weight_decay_factor: float = 1.0
    matching: GradientMatching | None = None
    alignment: Alignment | None = None
    clip_with_alpha: bool = False
    clip_elements: float = 0.0

    partial_channels: int = 1
    edge_normalisation: bool = False
    joint_inputs: bool = False
    stages: tuple[Stage, ...] = (Stage(),)
    prune: Prune | None = None
    prune_every: int = 1

    control: Control | None = None
    eigenvalue_every: int = 0
    derivation: Callable = derive
    choice: Choice | None = None

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, str) and part.name not in ("name", "source"):
                remedy = "Parts are objects, as of fastnas.mechanisms, and not their names."
                raise invalid("Method", f"{part.name} must not be a string", repr(value), remedy)
        if not 0 <= self.warmup_share < 1:
            raise invalid("Method", "warmup_share must lie in [0, 1)", self.warmup_share)
        if not self.stages:
            raise invalid("Method", "stages must not be empty", "none")
        for name in ("prune_every", "partial_channels"):
            if getattr(self, name) < 1:
                raise invalid("Method", f"{name} must be at least 1", getattr(self, name))
        for name in ("eigenvalue_every", "weight_decay_factor", "clip_elements"):
            if not getattr(self, name) >= 0:
                raise invalid("Method", f"{name} must not be negative", getattr(self, name))
        for one, other, why in _conflicts(self):
            raise ValueError(f"method {self.name}: {one} does not work with {other}. {why}")

    @property
    def scores(self) -> bool:
        """Whether alpha's gradient comes from the values of discrete draws and needs no slope."""
        return getattr(self.hypergradient, "scores", False)

    @property
    def unrolls(self) -> bool:
        """Whether alpha's gradient looks through steps of the weights."""
        return getattr(self.hypergradient, "unrolls", False)

    @property
    def reads_reward(self) -> bool:
        """Whether alpha's gradient asks what a draw is worth."""
        return getattr(self.hypergradient, "reads_reward", False)

    @property
    def on_simplex(self) -> bool:
        """Whether the relaxed coefficients of an edge are known to sum to one."""
        return getattr(self.relaxation, "on_simplex", False)

    @property
    def draw_of_weights(self) -> Draw | None:
        """What the weight step mixes with."""
        return self.draw if self.weight_draw is None else self.weight_draw

    @property
    def control_reads(self) -> frozenset[str]:
        """What must be measured for the control."""
        return getattr(self.control, "reads", frozenset())

    @property
    def snapshots(self) -> int:
        """Epochs back that the control may ask to return to."""
        return getattr(self.control, "keeps", 0)

    def __repr__(self) -> str:
        parts = [f"    {name}={_show(value)},\n" for name, value in _different(self)]
        return f"Method(\n{''.join(parts)})"


def _conflicts(method: Method) -> Iterator[tuple[str, str, str]]:  # noqa: PLR0912, PLR0915  (a list)
    """The names of two parts that have no meaning together, and why: the one place that knows."""
    gradient, draw = f"hypergradient={_show(method.hypergradient)}", f"draw={_show(method.draw)}"
    control, of_weights = f"control={_show(method.control)}", method.draw_of_weights
    probable = method.draw is not None and method.draw.has_probability
    turns_off = method.draw is not None and method.draw.turns_off
    needs_twice = getattr(method.hypergradient, "needs_twice", False)
    joint, reads_eigenvalue = method.update_schedule.joint, EIGENVALUE in method.control_reads
    if method.scores and not probable:
        yield gradient, draw, "It differentiates the log-probability of a discrete draw: use draw=Categorical()."
    if probable and not method.scores:
        why = "The coefficients of this draw are constants, so alpha would never move: "
        why += "use ImportanceWeighted() or Reinforce()."
        yield draw, gradient, why
    if method.unrolls and turns_off:
        yield gradient, draw, "Its gradient is that of a surrogate, and the weights step with a choice of their own."
    if not method.update_schedule.alpha_moves and method.choice is None:
        yield "update_schedule.alpha_moves=False", "choice=None", "Nothing would choose the architecture."
    if not method.update_schedule.alpha_moves:
        for part in ("penalties", "alpha_penalties", "objective"):
            if getattr(method, part):
                yield part, "update_schedule.alpha_moves=False", "It is of the loss that alpha sees."
    if method.matching is not None and (joint or method.weight_average is not None or of_weights is not None):
        why = "It compares the gradients of all candidates on both halves."
        yield "matching", "update_schedule.joint, weight_average or a draw", why
    if method.alignment is not None and (joint or method.weight_average is not None or of_weights is not None):
        why = "It compares what cells make of the same coefficients."
        yield "alignment", "update_schedule.joint, weight_average or a draw", why
    if needs_twice and method.draw is not None and method.draw.once_differentiable:
        yield gradient, draw, "Its samples have a first derivative and no second: use UnrolledByDifferences()."
    if method.auxiliary_skip != Constant(0.0) and (turns_off or (of_weights is not None and of_weights.turns_off)):
        why = "It adds to a skip connection that may not run."
        yield "auxiliary_skip", draw if turns_off else f"weight_draw={_show(of_weights)}", why
    if method.scores and method.objective is not None:
        why = "It sees values of draws and no slope of a cost: add that as a penalty with expected=True."
        yield "objective", gradient, why
    if method.reward is not None and not method.reads_reward:
        yield "reward", gradient, "Only Reinforce asks what a sample is worth."
    if method.joint_inputs and not method.scores:
        why = "The choice of inputs is a constant of the loss, so its logits would never move."
        yield "joint_inputs", gradient, why
    if method.joint_inputs and (method.partial_channels > 1 or method.edge_normalisation):
        yield "joint_inputs", "partial_channels or edge_normalisation", "They add up all edges of a node."
    if method.weight_average is not None and of_weights is None:
        yield "weight_average", "a weight step without a draw", "Several draws would all be the same."
    if method.perturbation is not None and of_weights is not None and of_weights.turns_off:
        yield "perturbation", f"draw={_show(of_weights)}", "It would move coefficients of candidates that do not run."
    if method.perturbation is not None and not method.on_simplex:
        why = "It projects onto the simplex, on which only a softmax lies."
        yield "perturbation", f"relaxation={_show(method.relaxation)}", why
    if joint and (method.scores or method.unrolls or method.weight_average is not None):
        why = "One backward pass gives both gradients: there is no inner step to look through."
        yield "update_schedule.joint", "weight_average" if method.weight_average is not None else gradient, why
    if method.clip_with_alpha and (joint or method.weight_average is not None or method.perturbation is not None):
        why = "The weight step must have a gradient of alpha beside that of the weights, of one draw."
        yield "clip_with_alpha", "update_schedule.joint, weight_average or perturbation", why
    if joint and method.perturbation is not None:
        why = "Alpha would get the gradient of coefficients that it did not choose."
        yield "update_schedule.joint", "perturbation", why
    if method.choice is not None and method.control is not None and getattr(method.control, "stops", True):
        why = "A stop names the epoch whose architecture it returns."
        yield f"choice={_show(method.choice)}", control, why
    if reads_eigenvalue and method.eigenvalue_every == 0:
        yield control, "eigenvalue_every=0", "The eigenvalue would not be measured."
    if method.eigenvalue_every > 0 and method.draw is not None:
        yield "eigenvalue_every", draw, "The curvature at a random or discrete choice is not that of the search."
    if method.eigenvalue_every > 0 and joint:
        yield "eigenvalue_every", "update_schedule.joint", "Alpha has no batch of its own to measure on."
    if len(method.stages) > 1 and (reads_eigenvalue or method.snapshots > 0):
        why = "Each stage begins with fresh weights and logits, and networks of another size."
        yield control, f"{len(method.stages)} stages", why


def _different(part: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a dataclass that do not have their defaults."""
    for one in fields(part):
        value = getattr(part, one.name)
        if one.repr and value != _default(one):
            yield one.name, value


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _show(value: Any) -> str:
    """A part as one would write it down."""
    if isinstance(value, partial):
        arguments = [_show(x) for x in value.args] + [f"{name}={_show(x)}" for name, x in value.keywords.items()]
        return f"{_show(value.func)}({', '.join(arguments)})"
    if is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}({', '.join(f'{name}={_show(x)}' for name, x in _different(value))})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_show, value))}{',' * (len(value) == 1)})"
    return getattr(value, "__name__", repr(value))
