"""The methods: each a frozen value that says where it differs from first-order DARTS.

Settings that belong to a run and not to a method (rates, batch sizes, depth) stand in
:mod:`fastnas.experiment.recipes`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from fastnas.bilevel.hypergradient import UnrolledByDifferences, unrolled
from fastnas.bilevel.score_function import ImportanceWeighted, Reinforce
from fastnas.mechanisms.alpha_optimizer import apg_nag, clip_to_box, keep_pair_probability
from fastnas.mechanisms.control import (
    EigenvalueRollBack,
    EigenvalueStop,
    FirstOf,
    RankStable,
    SkipCount,
    all_decided,
    eigenvalue_rule_of_the_code,
    eigenvalue_rule_of_the_paper,
)
from fastnas.mechanisms.derivation import SkipCap, derive, every_edge, nonzero
from fastnas.mechanisms.draw import (
    BinaryGate,
    Categorical,
    GumbelHard,
    GumbelSoftmax,
    Proximal,
    ProximalEdges,
    TwoPaths,
    gumbel_selected,
    gumbel_selected_with_scalars,
    proximal_value,
)
from fastnas.mechanisms.perturbation import Adversarial, random_smoothing
from fastnas.mechanisms.pruning import BelowThreshold, Stage, at_zero
from fastnas.mechanisms.relaxation import MaxW, raw
from fastnas.mechanisms.schedules import Annealing, Constant, CosinePower, Ramp, SkipDropout, TwoCosines
from fastnas.mechanisms.update_schedule import UpdateSchedule
from fastnas.methods.method import Method, Term
from fastnas.methods.registry import METHODS, register_method
from fastnas.spaces.space import Space
from fastnas_kernels.check import invalid

__all__ = ["METHODS", "REGULARISED", "Method", "Term"]


@register_method
def darts(*, order: int = 1, by_differences: bool = False) -> Method:
    """Mix all candidates by a softmax and descend on both losses in turn, first order
    (Liu et al., 2019, arXiv:1806.09055).

    Args:
        order: 2 differentiates through the next step of the weights.
        by_differences: That derivative by the paper's central difference (its eq. 8, and the published code) instead
            of exactly (its eq. 7). Early in a search its step of 0.01 crosses many kinks of the network, and it saves
            little time (profiling/second_order.py).
    """
    if order not in (1, 2):
        raise invalid("darts", "order must be 1 or 2", order)
    if by_differences and order == 1:
        raise invalid("darts", "by_differences needs order=2", "order=1")
    method = Method(name="darts", source="Liu et al., 2019, arXiv:1806.09055")
    if order == 1:
        return method
    return replace(method, name="darts_2nd", hypergradient=UnrolledByDifferences() if by_differences else unrolled)


@register_method
def darts_2nd(*, by_differences: bool = False) -> Method:
    """DARTS that differentiates through the next step of the weights, second order
    (Liu et al., 2019, arXiv:1806.09055). Exactly, or ``by_differences`` as the published code."""
    return darts(order=2, by_differences=by_differences)


@register_method
def darts_plus(*, by_rank: bool = False) -> Method:
    """DARTS that stops when the normal cell holds two skip connections
    (Liang et al., 2019, arXiv:1909.06035). With ``by_rank`` also when the ranking stood for ten epochs."""
    skips = SkipCount()
    control = FirstOf((skips, RankStable())) if by_rank else skips
    return replace(darts(), name="darts_plus", source="Liang et al., 2019, arXiv:1909.06035", control=control)


@register_method
def robust_darts(*, as_published_code: bool = False, by_differences: bool | None = None) -> Method:
    """Second-order DARTS that stops when the loss becomes sharp in alpha, and returns the architecture of before
    (Zela et al., 2020, arXiv:1909.09656). The paper's rule; ``as_published_code`` measures in every second epoch,
    compares the means of other windows, never asks in the last epoch, and takes the second-order term
    ``by_differences``."""
    rule = eigenvalue_rule_of_the_code() if as_published_code else eigenvalue_rule_of_the_paper()
    return replace(
        darts(order=2, by_differences=as_published_code if by_differences is None else by_differences),
        name="robust_darts",
        source="Zela et al., 2020, arXiv:1909.09656",
        control=EigenvalueStop(rule),
        eigenvalue_every=2 if as_published_code else 1,
    )


@register_method
def robust_darts_ada(*, by_differences: bool = False) -> Method:
    """RobustDARTS that goes back and regularises ten times as much instead of stopping
    (Zela et al., 2020, arXiv:1909.09656, section 5.3). After going back it decides on what was measured up to there;
    the published code decides on the abandoned epochs, too. It takes the second-order term ``by_differences``."""
    before = robust_darts(as_published_code=True, by_differences=by_differences)
    return replace(before, name="robust_darts_ada", control=EigenvalueRollBack())


@register_method
def robust_darts_l2(*, factor: float = 27.0, by_differences: bool = False) -> Method:
    """Second-order DARTS with a stronger weight decay
    (Zela et al., 2020, arXiv:1909.09656, section 5.2). ``factor`` times the configured one: 1, 3, 9, 27 or 81 there,
    and the second-order term ``by_differences`` in the published code."""
    return replace(
        darts(order=2, by_differences=by_differences),
        name="robust_darts_l2",
        source="Zela et al., 2020, arXiv:1909.09656",
        weight_decay_factor=factor,
    )


@register_method
def robust_darts_dp(*, largest: float = 0.2, by_differences: bool = False) -> Method:
    """Second-order DARTS that drops edges and blanks squares of images at random, more and more of them
    (Zela et al., 2020, arXiv:1909.09656, section 5.1). ``largest`` is the last probability of an edge: 0, 0.2, 0.4 or
    0.6 there. That of a cutout grows to 1 beside it, and is 0 where ``largest`` is, as in the published code, which
    takes the second-order term ``by_differences``."""
    return replace(
        darts(order=2, by_differences=by_differences),
        name="robust_darts_dp",
        source="Zela et al., 2020, arXiv:1909.09656",
        drop_path=Ramp(0.0, largest),
        cutout=Ramp(0.0, 1.0 if largest > 0 else 0.0),
    )


@register_method
def sharp_darts(*, detach_max: bool = False) -> Method:
    """Keep the leading candidate at full strength, and anneal the learning rate by a power of a cosine
    (Hundt et al., 2019, arXiv:1903.09900). In the space ``sharpdarts`` with the convolutions of the paper, in any other
    with that space's own."""
    return replace(
        darts(),
        name="sharp_darts",
        source="Hundt et al., 2019, arXiv:1903.09900",
        relaxation=MaxW(detach_max),
        learning_rate=CosinePower(power=2.0, warmup=5, horizon=120),
    )


@register_method
def smooth_darts_rs(*, radius: float = 0.3) -> Method:
    """Train the weights under coefficients with random noise
    (Chen and Hsieh, 2020, arXiv:2002.05283). The radius grows from 0.03 to ``radius``."""
    return replace(
        darts(),
        name="smooth_darts_rs",
        source="Chen and Hsieh, 2020, arXiv:2002.05283",
        perturbation=random_smoothing,
        radius=Ramp(min(0.03, radius), radius, after=1),
    )


@register_method
def smooth_darts_adv(*, radius: float = 0.3) -> Method:
    """Train the weights under the worst coefficients nearby
    (Chen and Hsieh, 2020, arXiv:2002.05283). The radius grows from 0.03 to ``radius``."""
    return replace(smooth_darts_rs(radius=radius), name="smooth_darts_adv", perturbation=Adversarial())


@register_method
def p_darts(*, skips: int = 2, skip_dropout: tuple[float, ...] = (0.0, 0.4, 0.7)) -> Method:
    """Search in three stages of growing depth and shrinking choice, and hold skip connections down
    (Chen et al., 2019, arXiv:1904.12760). The paper's dropout rates; the published code begins with 0.1."""
    return replace(
        darts(),
        name="p_darts",
        source="Chen et al., 2019, arXiv:1904.12760",
        stages=(Stage(), Stage(6, 5, of_cells=5), Stage(12, 3, of_cells=5)),
        warmup_share=10 / 25,
        skip_dropout=SkipDropout(skip_dropout),
        derivation=SkipCap(skips),
    )


@register_method
def snas(*, cost: tuple[Term, ...] = (), all_edges: bool = True, drop_path: float = 0.3) -> Method:
    """Train weights and alpha together on one loss under soft samples that harden
    (Xie et al., 2019, arXiv:1812.09926). ``cost`` holds resource terms of the sampled coefficients. Every edge is
    kept that is not best left out, as in the paper; without ``all_edges`` as many as DARTS keeps. Edges are dropped for
    an image with probability ``drop_path``, the constant of the published search. Alpha has no half of its own: the
    outer loss of the records is of images that were trained on."""
    return replace(
        darts(),
        name="snas",
        source="Xie et al., 2019, arXiv:1812.09926",
        draw=GumbelSoftmax(),
        tau=Ramp(1.0, 0.03, before=1),
        update_schedule=UpdateSchedule(joint=True),
        alpha_lr=6e-3,  # in short searches, too: at 0.03 it settles on skip connections in its first epochs
        alpha_init_mean=1.0,
        alpha_init_std=0.01,
        penalties=cost,
        drop_path=Constant(drop_path),
        derivation=every_edge if all_edges else derive,
    )


@register_method
def gdas(*, form: GumbelHard = gumbel_selected, last_tau: float = 1.0) -> Method:
    """Run one sampled candidate an edge and differentiate its soft sample
    (Dong and Yang, 2019, arXiv:1910.04465). Other forms of the gradient are ``gumbel_all`` (dense, all candidates run
    in the alpha step) and ``gumbel_selected_with_scalars`` (the published code in NAS-Bench-201); the published
    scripts end at a temperature of 0.1."""
    return replace(
        darts(),
        name="gdas",
        source="Dong and Yang, 2019, arXiv:1910.04465",
        draw=form,
        tau=Ramp(10.0, last_tau),
        update_schedule=UpdateSchedule(weights_first=True),
    )


@register_method
def parsec(*, draws: int = 16, temperature: float | None = None, self_normalised: bool = True) -> Method:
    """Learn a distribution over architectures from samples weighted by their likelihood
    (Casale et al., 2019, arXiv:1902.05116). The likelihood is that of a mean image, since that of a whole batch gives
    one sample all the weight (``temperature=1``); alpha gets no gradient through the network. Where the space keeps a
    number of edges at a node, which states it reads is drawn, too."""
    weighted = ImportanceWeighted(draws, temperature, self_normalised)
    return replace(
        darts(),
        name="parsec",
        source="Casale et al., 2019, arXiv:1902.05116",
        draw=Categorical(),
        hypergradient=weighted,
        weight_average=replace(weighted, self_normalised=True) if draws > 1 else None,
        alpha_init_std=0.0,
        joint_inputs=True,
    )


@register_method
def asap(*, share: float = 0.4) -> Method:
    """Cool the softmax down and remove candidates whose coefficient falls behind, until one is left on every edge
    (Noy et al., 2019, arXiv:1904.04123). Alpha waits while the temperature is above 1."""
    return replace(
        darts(),
        name="asap",
        source="Noy et al., 2019, arXiv:1904.04123",
        tau=Annealing(1.6, 0.95, 50),
        warmup_share=10 / 50,
        prune=BelowThreshold(share),
        control=all_decided,
    )


@register_method
def nasp(*, published_for: Space | None = None) -> Method:
    """Keep alpha continuous but evaluate and differentiate the discrete architecture nearest to it
    (Yao et al., 2020, arXiv:1905.13577). The projection keeps the largest value of an edge. As the published code
    projects in the space ``published_for``, that value becomes 1, and only the best edges of each node stay; alpha
    begins at exactly one half there, and otherwise with noise: a tie chooses the first candidate of every edge, and if
    that is ``none``, as in most spaces, the network passes nothing on and nothing has a gradient."""
    project = proximal_value
    if published_for is not None:
        space = published_for
        rows = tuple(space.rows(space.num_inputs + node) for node in range(space.num_nodes))
        project = ProximalEdges(rows, space.kept_edges or max(map(len, rows)))
    return replace(
        darts(),
        name="nasp",
        source="Yao et al., 2020, arXiv:1905.13577",
        relaxation=raw,
        draw=Proximal(project),
        projection=clip_to_box,
        alpha_lr=3e-3,  # of numbers between 0 and 1, which the rate of a logit crosses in a few dozen steps
        alpha_init_mean=0.5,
        alpha_init_std=1e-3 if published_for is None else 0.0,
    )


@register_method
def dso_nas(*, gamma: float = 1e-3) -> Method:
    """Scale every candidate freely and let a sparse optimiser drive scalings to exact zeros
    (Zhang et al., 2018, arXiv:1811.01567). ``gamma`` is the strength of the L1 penalty. Elements of gradients are
    clipped at 2. Scalings need a rate as of weights to reach zero: 0.1 unless another is given; the published search
    has ``--weight-lr 0.1 --weight-schedule constant``, too. The paper's spaces are ``dso`` and
    ``dso_full``; one that keeps a number of edges at a node keeps it under this method, too."""
    return replace(
        darts(),
        name="dso_nas",
        source="Zhang et al., 2018, arXiv:1811.01567",
        relaxation=raw,
        update_schedule=UpdateSchedule(weights_first=True),
        alpha_optimizer=apg_nag(gamma),
        alpha_lr=0.1,
        clip_elements=2.0,
        alpha_init_mean=1.0,
        alpha_init_std=0.0,
        derivation=nonzero,
        prune=at_zero,
        prune_every=5,
    )


@register_method
def proxyless_nas(*, two_paths: bool = True, alpha_every: int = 5, cost: tuple[Term, ...] = ()) -> Method:
    """Train one sampled path at a time and move the logits of two by the gradients of their gates
    (Cai et al., 2019, arXiv:1812.00332). Without ``two_paths`` the alpha step runs every candidate for the gradient of
    every gate, the default of the published scripts. ``cost`` holds resource terms of the sampled coefficients. The
    warm-up of the weights has a cosine of its own from twice the rate."""
    return replace(
        darts(),
        name="proxyless_nas",
        source="Cai et al., 2019, arXiv:1812.00332",
        draw=TwoPaths() if two_paths else BinaryGate(),
        weight_draw=Categorical(),
        projection=keep_pair_probability,
        update_schedule=UpdateSchedule(weights_first=True, alpha_every=alpha_every),
        warmup_share=41 / 160,
        learning_rate=TwoCosines(),
        penalties=cost,
    )


@register_method
def proxyless_nas_r(*, draws: int = 10, baseline: bool = True) -> Method:
    """Train one sampled path at a time and move the logits by the rewards of sampled networks, which need no slope
    (Cai et al., 2019, arXiv:1812.00332, section 3.3.2). The published script makes 300 updates after each epoch, on
    1,000 images; here they are spread over the epoch, each on a batch. The reward is the accuracy on it;
    ``replace(method, reward=CostReward(table, target))`` gives that of the paper, with the latency."""
    return replace(
        proxyless_nas(),
        name="proxyless_nas_r",
        draw=Categorical(),
        weight_draw=None,
        hypergradient=Reinforce(draws, baseline),
        projection=None,
    )


@register_method
def pc_darts(k: int = 4) -> Method:
    """Mix only ``1 / k`` of the channels and normalise the edges; alpha waits while the weights warm up
    (Xu et al., 2020, arXiv:1907.05737)."""
    return replace(
        darts(),
        name="pc_darts",
        source="Xu et al., 2020, arXiv:1907.05737",
        partial_channels=k,
        edge_normalisation=True,
        warmup_share=15 / 50,
    )


@register_method
def pc_darts_imagenet() -> Method:
    """PC-DARTS as it searches ImageNet directly: half of the channels, alpha waits for 35 of 50 epochs
    (Xu et al., 2020, arXiv:1907.05737, section 4.3)."""
    return replace(pc_darts(k=2), name="pc_darts_imagenet", warmup_share=35 / 50)


@register_method
def darts_nasbench201() -> Method:
    """First-order DARTS as the code of NAS-Bench-201 runs it: the weights move first, and alpha's gradient counts for
    the norm that clips theirs (Dong and Yang, 2020, arXiv:2001.00326). Alpha's gradient is that of the weights'
    loss; in the published code what the last step of alpha left behind is added to it."""
    return replace(
        darts(),
        name="darts_nasbench201",
        source="Dong and Yang, 2020, arXiv:2001.00326",
        update_schedule=UpdateSchedule(weights_first=True),
        clip_with_alpha=True,
    )


@register_method
def gdas_nasbench201() -> Method:
    """GDAS as the code of NAS-Bench-201 runs it: temperatures down to 0.1, a gradient for every scalar, and alpha's
    counting for the norm that clips the weights' (Dong and Yang, 2020, arXiv:2001.00326). See
    :func:`darts_nasbench201` for that norm."""
    return replace(
        gdas(form=gumbel_selected_with_scalars, last_tau=0.1),
        name="gdas_nasbench201",
        source="Dong and Yang, 2020, arXiv:2001.00326",
        clip_with_alpha=True,
    )


REGULARISED: Mapping[str, Callable[[float], Method]] = {
    "robust_darts_l2": lambda strength: robust_darts_l2(factor=strength),
    "robust_darts_dp": lambda strength: robust_darts_dp(largest=strength),
    "dso_nas": lambda strength: dso_nas(gamma=strength),
}
"""The recipes that regularise, as functions of how much; R-DARTS is the best of four runs of one of the first two
(Zela et al., 2020, arXiv:1909.09656, section 5.4)."""
