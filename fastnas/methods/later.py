"""The methods of 2020 and after: each a frozen value, as in :mod:`fastnas.methods.library`."""

from dataclasses import replace

from fastnas.mechanisms.alpha_optimizer import gradient_descent
from fastnas.mechanisms.choice import Evolution
from fastnas.mechanisms.derivation import AboveThreshold
from fastnas.mechanisms.draw import DirichletSample, UniformPath
from fastnas.mechanisms.matching import Alignment, GradientMatching
from fastnas.mechanisms.penalty import mean_logsumexp, zero_one
from fastnas.mechanisms.relaxation import mirror_softmax, sigmoid
from fastnas.mechanisms.schedules import Constant, Ramp
from fastnas.mechanisms.update_schedule import UpdateSchedule
from fastnas.methods.library import darts
from fastnas.methods.method import Method, Term
from fastnas.methods.registry import register_method


@register_method
def spos(*, population: int = 50, generations: int = 20) -> Method:
    """Train uniform single paths of a supernet and then search among them by evolution
    (Guo et al., 2020, arXiv:1904.00420). Alpha never moves; paths are ranked by their loss on the half for alpha. The
    records of its epochs hold no architecture that means anything."""
    return replace(
        darts(),
        name="spos",
        source="Guo et al., 2020, arXiv:1904.00420",
        draw=UniformPath(),
        update_schedule=UpdateSchedule(alpha_moves=False),
        choice=Evolution(population, generations),
    )


@register_method
def drnas() -> Method:
    """Draw coefficients from Dirichlet distributions and learn their concentrations
    (Chen et al., 2021, arXiv:2006.10355). The pull to a flat distribution is alpha's weight decay. Its progressive
    widening of partial channels is not there; ``partial_channels`` holds for the whole search."""
    return replace(darts(), name="drnas", source="Chen et al., 2021, arXiv:2006.10355", draw=DirichletSample())


@register_method
def gaea(*, single_level: bool = True) -> Method:
    """Descend on the coefficients by exponentiated gradient, which keeps them on the simplex and makes them sparse
    (Li et al., 2021, arXiv:2004.07802). Alpha and the weights move at once on all images; without ``single_level`` each
    has half of them, and a step of its own. Alpha's rate is 0.1, as published."""
    return replace(
        darts(),
        name="gaea",
        source="Li et al., 2021, arXiv:2004.07802",
        relaxation=mirror_softmax,
        alpha_optimizer=gradient_descent,
        alpha_lr=0.1,
        alpha_init_std=0.0,
        update_schedule=UpdateSchedule(joint=single_level),
    )


@register_method
def beta_darts(*, largest: float = 50.0) -> Method:
    """Hold the logits down by the mean of their log-sum-exp, more and more
    (Ye et al., 2022, arXiv:2203.01665). Its weight grows from 0 to ``largest``: 50 over the 100 epochs of the published
    search in NAS-Bench-201, 25 over the 50 in the space of DARTS."""
    return replace(
        darts(),
        name="beta_darts",
        source="Ye et al., 2022, arXiv:2203.01665",
        alpha_penalties=(Term(mean_logsumexp, Ramp(0.0, largest, after=1)),),
    )


@register_method
def fair_darts(*, strength: float = 10.0, threshold: float = 0.85) -> Method:
    """Let candidates cooperate by a sigmoid each, push these to zero or one, and keep what is above a threshold
    (Chu et al., 2020, arXiv:1911.12126)."""
    return replace(
        darts(),
        name="fair_darts",
        source="Chu et al., 2020, arXiv:1911.12126",
        relaxation=sigmoid,
        penalties=(Term(zero_one, Constant(strength)),),
        alpha_init_std=0.0,
        derivation=AboveThreshold(threshold),
    )


@register_method
def darts_minus(*, first: float = 1.0) -> Method:
    """Add a skip connection to every edge that has one to choose, and let it fade
    (Chu et al., 2021, arXiv:2009.01027). Its coefficient falls from ``first`` to zero in a straight line. It shares the
    weights of the one to choose where that has any, at stride 2; in the published code it has its own."""
    return replace(
        darts(),
        name="darts_minus",
        source="Chu et al., 2021, arXiv:2009.01027",
        auxiliary_skip=Ramp(first, 0.0, after=1),
    )


@register_method
def oles(*, window: int = 20, threshold: float = 0.4) -> Method:
    """Freeze a candidate when its gradients on the two halves of the images no longer agree
    (Jiang et al., 2023, NeurIPS 36). Each pair of gradients is taken at the same weights and as one vector; the
    published code compares with the step before, and averages over the parts of filters."""
    return replace(
        darts(), name="oles", source="Jiang et al., 2023, NeurIPS 36", matching=GradientMatching(window, threshold)
    )


@register_method
def lambda_darts(*, weight: float = 0.125, radius: float | None = None) -> Method:
    """Train the weights so that all cells agree on what to choose
    (Movahedi et al., 2023, arXiv:2210.07998). The weight of the mean cosine of their gradients grows from 0 to
    ``weight``. Its second derivatives are exact; with ``radius=1e-4`` differences, as in the published code. Needs two
    normal cells; with fewer it is DARTS."""
    return replace(
        darts(),
        name="lambda_darts",
        source="Movahedi et al., 2023, arXiv:2210.07998",
        alignment=Alignment(Ramp(0.0, weight), radius),
    )


@register_method
def single_darts() -> Method:
    """DARTS that moves alpha and the weights at once, by the gradients of one loss on one batch of all training images
    (Hou et al., 2021, arXiv:2108.08128). A step costs one pass instead of two. Alpha's rate is 0.03 in
    one search, and the published 3e-4 where minutes are divided between several: chosen in searches of some 2,000 steps
    (profiling/quality.py)."""
    source = "Hou et al., 2021, arXiv:2108.08128"
    joint = UpdateSchedule(joint=True)
    return replace(
        darts(), name="single_darts", source=source, alpha_lr=0.03, alpha_lr_of_several=3e-4, update_schedule=joint
    )
