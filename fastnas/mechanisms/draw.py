"""How candidates are drawn, and by what path alpha gets its gradient from a sample.

A draw is called with the logits, which candidates are alive (``None`` for all), a temperature and a seed, and
returns a :class:`Sample` whose coefficients are exactly zero for what is off. All edges of a cell type are drawn in
one call of :func:`fastnas_kernels.gumbel.gumbel_softmax`, which draws the same on every device.

Shape suffixes: E edges of a cell, K candidates of an edge.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.special import gammaincinv
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from fastnas.seeds import Seed, StepSeed, stream
from fastnas_kernels import gumbel
from fastnas_kernels.gumbel import Form, GumbelSample


class Sample(NamedTuple):
    """What a draw gives one cell type.

    Args:
        mix: Coefficients ``[E, K]``, exactly zero for candidates that are off.
        on: Which are not zero, ``[E, K]`` of bool; ``None`` where all that are alive are on.
        reached: Which alpha's gradient needs the output of; ``None`` for all that are alive.
        log_probability: Of each row's choice, ``[E]``, which alpha is differentiated through, where there is one.
        offset: Numbers ``[E]``, all zero, that are added to every pixel of an edge's output: a path for gradients.
    """

    mix: Tensor
    on: Tensor | None = None
    reached: Tensor | None = None
    log_probability: Tensor | None = None
    offset: Tensor | None = None


class Draw:
    """From ``(alpha [E, K], alive, tau, seed)`` to a sample, and what the engine and the oracle may take for granted.

    A draw of your own is a subclass with ``__call__`` and the attributes that differ.
    """

    turns_off: bool = False
    """Whether candidates that are alive may be off."""
    has_probability: bool = False
    """Whether the samples carry a log-probability."""
    one_hot: bool = False
    """Whether one candidate of an edge has the coefficient one, and the others zero."""
    single: bool = False
    """Whether no more than one candidate of an edge is on, whatever its coefficient."""
    takes_device_seeds: bool = False
    """Whether the host need not know the seed."""
    gates: bool = False
    """Whether alpha's gradient is that of binary gates, whose mean over all architectures is ``J(p) b``."""
    selected_only: bool = False
    """Whether only coefficients that are not zero carry a gradient."""
    paths: int | None = None
    """Candidates of an edge that run for alpha's gradient; ``None`` for all that are alive."""
    once_differentiable: bool = False
    """Whether the samples have a first derivative and no second."""

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: Seed) -> Sample:
        raise NotImplementedError

    def has_offsets(self) -> bool:
        """Whether the samples carry offsets, which PyTorch adds to an edge's output."""
        return False

    def surrogate(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: Seed) -> Tensor | None:
        """Coefficients ``[E, K]`` whose derivative stands in for that of the sample of the same seed; ``None`` where it
        has its own."""
        return None

    def frequencies(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float) -> Tensor | None:
        """How often each candidate is drawn, ``[E, K]``; ``None`` where no single one is."""
        return None

    def written_out(self, alpha_EK: Tensor, alive_EK: Tensor) -> Tensor | None:
        """The coefficients of a sample that is not random, by the formula alone."""
        return None


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.view_as(hard)

    @staticmethod
    def backward(ctx: FunctionCtx, d: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        return None, d


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of ``hard``, bit for bit, and the gradient of ``soft`` (Bengio et al., 2013, arXiv:1308.3432)."""
    return _StraightThrough.apply(hard, soft)  # type: ignore[return-value]


def gumbel_softmax(
    alpha_EK: Tensor, seed: Seed, tau: float = 1.0, form: Form = "soft", alive: Tensor | None = None
) -> GumbelSample:
    """:func:`fastnas_kernels.gumbel.gumbel_softmax` of a seed that may lie on the device."""
    return gumbel.gumbel_softmax(alpha_EK, seed.on_device if isinstance(seed, StepSeed) else seed, tau, form, alive)


def _mask(alpha_EK: Tensor, alive_EK: Tensor | None) -> Tensor:
    return alpha_EK if alive_EK is None else alpha_EK.masked_fill(~alive_EK, -torch.inf)


def _one_hot(scores_EK: Tensor) -> Tensor:
    return torch.zeros_like(scores_EK).scatter_(-1, scores_EK.argmax(-1, keepdim=True), 1.0)


@dataclass(frozen=True)
class GumbelSoftmax(Draw):
    """A soft sample of all candidates, differentiated pathwise: SNAS (Xie et al., 2019, arXiv:1812.09926, eq. 6)."""

    takes_device_seeds = True

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: Seed) -> Sample:
        return Sample(gumbel_softmax(alpha_EK, seed, tau, "soft", alive_EK).mix)


class _GammaQuantile(torch.autograd.Function):
    """The value below which a gamma variable of scale one lies with a given probability; in float64 on the host.

    SciPy is good to some 1e-14, so that the central difference for the concentration is good to some 1e-9.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, concentration: Tensor, uniform: Tensor) -> Tensor:
        ctx.save_for_backward(concentration, uniform)  # type: ignore[attr-defined]
        return torch.as_tensor(gammaincinv(concentration.numpy(), uniform.numpy()))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        concentration, uniform = (x.numpy() for x in ctx.saved_tensors)  # type: ignore[attr-defined]
        step = 1e-5 * concentration
        ahead, behind = (gammaincinv(concentration + sign * step, uniform) for sign in (1, -1))
        return d * torch.as_tensor((ahead - behind) / (2 * step)), None


@dataclass(frozen=True)
class DirichletSample(Draw):
    """Coefficients from a Dirichlet distribution of concentrations ``elu(alpha) + 1``, differentiated pathwise: DrNAS
    (Chen et al., 2021, arXiv:2006.10355, section 2.2). The temperature does not count.

    A sample is gamma variables over their sum, each the quantile of a uniform number that the seed decides, so that its
    derivative is that of the quantile (Figurnov et al., 2018, arXiv:1805.08498).

    Args:
        least: Smallest concentration.
    """

    least: float = 1e-3
    once_differentiable = True

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: Seed) -> Sample:
        assert isinstance(seed, int), "it does not take others"
        concentration_EK = (F.elu(alpha_EK) + 1).clamp(min=self.least).cpu().double()
        generator = torch.Generator().manual_seed(seed)
        uniform_EK = torch.rand(alpha_EK.shape, generator=generator, dtype=torch.float64)
        gamma_EK = _GammaQuantile.apply(concentration_EK, uniform_EK)
        gamma_EK = gamma_EK + torch.finfo(torch.float64).tiny  # type: ignore[operator]
        gamma_EK = gamma_EK if alive_EK is None else gamma_EK * alive_EK.cpu()
        return Sample((gamma_EK / gamma_EK.sum(-1, keepdim=True)).to(alpha_EK))


def _all(mix_EK: Tensor) -> Sample:
    return Sample(mix_EK, mix_EK.detach() > 0)


def _select(mix_EK: Tensor) -> Sample:
    hard_EK = mix_EK.detach()
    return Sample(mix_EK * hard_EK, hard_EK > 0, hard_EK > 0)


def _select_with_scalars(mix_EK: Tensor) -> Sample:
    return _select(mix_EK)._replace(offset=(mix_EK * (1 - mix_EK.detach())).sum(-1))


@dataclass(frozen=True)
class GumbelHard(Draw):
    """One candidate an edge by the Gumbel-max trick; alpha is differentiated through the soft sample: GDAS (Dong and
    Yang, 2019, arXiv:1910.04465, eq. 7). Use one of :data:`gumbel_all`, :data:`gumbel_selected` and
    :data:`gumbel_selected_with_scalars`: the same forward pass, three gradients.

    Args:
        route: From the one-hot sample ``[E, K]``, whose derivative is that of the soft one, to what the gradient
            passes through.
        selected_only: Whether that is the selected coefficient alone.
        paths: Candidates of an edge that run for alpha's gradient; ``None`` for all.
    """

    route: Callable[[Tensor], Sample]
    selected_only: bool = False
    paths: int | None = None
    takes_device_seeds = True
    turns_off = True
    one_hot = True

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: Seed) -> Sample:
        return self.route(gumbel_softmax(alpha_EK, seed, tau, "straight_through", alive_EK).mix)

    def has_offsets(self) -> bool:
        return self.route is _select_with_scalars

    def surrogate(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: Seed) -> Tensor:
        return gumbel_softmax(alpha_EK, seed, tau, "soft", alive_EK).mix

    def frequencies(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float) -> Tensor:
        return _mask(alpha_EK, alive_EK).softmax(-1)  # the maximum does not know the temperature


gumbel_all = GumbelHard(_all)
"""Alpha's gradient needs every candidate's output: that of SNAS at the discrete point."""
gumbel_selected = GumbelHard(_select, selected_only=True, paths=1)
"""Only the coefficient of the selected candidate carries a gradient, so only that candidate runs."""
gumbel_selected_with_scalars = GumbelHard(_select_with_scalars, selected_only=True, paths=1)
"""As :data:`gumbel_selected`, and the others count as if their output were one everywhere (the published code in
NAS-Bench-201)."""


@dataclass(frozen=True)
class Categorical(Draw):
    """One candidate an edge with the probabilities ``softmax(alpha / tau)``, its coefficient a constant; alpha's
    gradient goes through the log-probability alone.

    Example:
        >>> sample = Categorical()(torch.zeros(3, 4), None, 1.0, 0)
        >>> sample.mix.sum(-1).tolist()  # one candidate an edge
        [1.0, 1.0, 1.0]
    """

    takes_device_seeds = True
    turns_off = True
    has_probability = True
    one_hot = True
    paths = 1

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: Seed) -> Sample:
        logits_EK = _mask(alpha_EK, alive_EK) / tau
        hard_EK, chosen_E = gumbel_softmax(logits_EK, seed, form="argmax", alive=alive_EK)
        log_p_E = logits_EK.log_softmax(-1).gather(-1, chosen_E[:, None]).squeeze(-1)
        return Sample(hard_EK, hard_EK > 0, hard_EK > 0, log_p_E)

    def frequencies(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float) -> Tensor:
        return (_mask(alpha_EK, alive_EK) / tau).softmax(-1)


@dataclass(frozen=True)
class UniformPath(Draw):
    """One candidate an edge, all equally often and whatever alpha is: a uniform path (Guo et al., 2020,
    arXiv:1904.00420, section 3.3)."""

    takes_device_seeds = True
    turns_off = True
    one_hot = True
    paths = 1

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: Seed) -> Sample:
        hard_EK = gumbel_softmax(torch.zeros_like(alpha_EK), seed, form="argmax", alive=alive_EK).mix
        return Sample(hard_EK, hard_EK > 0, hard_EK > 0)

    def frequencies(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float) -> Tensor:
        return _mask(torch.zeros_like(alpha_EK), alive_EK).softmax(-1)


@dataclass(frozen=True)
class BinaryGate(Draw):
    """One path runs, and alpha gets ``J(p) b`` with ``b_k`` the gradient of gate ``k``: ProxylessNAS (Cai et al., 2019,
    arXiv:1812.00332, eq. 4). ``b`` needs the output of every candidate in the alpha step."""

    takes_device_seeds = True
    turns_off = True
    one_hot = True
    gates = True

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: Seed) -> Sample:
        logits_EK = _mask(alpha_EK, alive_EK) / tau
        hard_EK = gumbel_softmax(logits_EK, seed, form="argmax", alive=alive_EK).mix
        return _all(straight_through(hard_EK, logits_EK.softmax(-1)))

    def surrogate(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: Seed) -> Tensor:
        return self.frequencies(alpha_EK, alive_EK, tau)

    def frequencies(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float) -> Tensor:
        return (_mask(alpha_EK, alive_EK) / tau).softmax(-1)


@dataclass(frozen=True)
class TwoPaths(Draw):
    """Two candidates an edge are drawn without replacement, and their gates share the probability of both:
    ProxylessNAS in the memory of two paths (Cai et al., 2019, arXiv:1812.00332, section 3.2.1).

    One of the two is active, the other has coefficient zero and is there for its gate's gradient. The two logits
    move by the softmax over the pair; see :func:`fastnas.mechanisms.alpha_optimizer.keep_pair_probability`.
    """

    takes_device_seeds = True
    turns_off = True
    one_hot = True
    gates = True
    paths = 2

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: Seed) -> Sample:
        logits_EK = _mask(alpha_EK, alive_EK) / tau
        # the two largest perturbed logits are a draw without replacement (Efraimidis and Spirakis, 2006), and the
        # soft sample is as large as they are
        pair_E2 = gumbel_softmax(logits_EK.detach(), seed, alive=alive_EK).mix.topk(2, -1).indices
        q_E2 = logits_EK.gather(-1, pair_E2).softmax(-1)
        active_E2 = gumbel_softmax(q_E2.detach().log(), stream(seed, "active"), form="argmax").mix
        mix_EK = torch.zeros_like(alpha_EK).scatter(-1, pair_E2, straight_through(active_E2, q_E2))
        hard_EK = mix_EK.detach() > 0
        # an edge on which one candidate is left has a partner of probability zero, which must not run
        reached_EK = torch.zeros_like(hard_EK).scatter_(-1, pair_E2, q_E2 > 0)
        return Sample(mix_EK, hard_EK, reached_EK)

    def surrogate(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: Seed) -> Tensor:
        pair_EK = self(alpha_EK, alive_EK, tau, seed).reached
        return (_mask(alpha_EK, pair_EK) / tau).softmax(-1)


def proximal_value(a_EK: Tensor, alive_EK: Tensor | None = None) -> Tensor:
    """The nearest point with one non-zero entry a row: the largest keeps its value (Yao et al., 2020,
    arXiv:1905.13577, proposition 1).

    Example:
        >>> proximal_value(torch.tensor([[0.25, 0.75, 0.5]])).tolist()
        [[0.0, 0.75, 0.0]]
    """
    return a_EK * proximal_one(a_EK, alive_EK)


def proximal_one(a_EK: Tensor, alive_EK: Tensor | None = None) -> Tensor:
    """One-hot of the largest magnitude in each row."""
    return _one_hot(_mask(a_EK.abs(), alive_EK))


@dataclass(frozen=True)
class ProximalEdges:
    """:func:`proximal_one` on the edges of each node whose largest value is greatest, zero on the others: how the
    published code of NASP discretises.

    Args:
        rows: The rows of each node's incoming edges.
        kept: Edges that stay at a node.
    """

    rows: tuple[range, ...]
    kept: int

    def __call__(self, a_EK: Tensor, alive_EK: Tensor | None = None) -> Tensor:
        hard_EK = proximal_one(a_EK, alive_EK)
        best_E = (a_EK * hard_EK).abs().sum(-1)
        stays_E = torch.zeros_like(best_E)
        for row in self.rows:
            kept = best_E[row.start : row.stop].topk(min(self.kept, len(row))).indices + row.start
            stays_E[kept] = 1
        return hard_EK * stays_E[:, None]


@dataclass(frozen=True)
class Proximal(Draw):
    """Evaluate and differentiate at the discretised point: NASP (Yao et al., 2020, arXiv:1905.13577, algorithm 2).

    ``d loss / d alpha`` is taken at the projection and applied to the continuous variables, densely: the alpha step
    runs every candidate, the weight step the one that is kept.

    Args:
        project: :func:`proximal_value` (the paper) or a :class:`ProximalEdges` (the published code).
    """

    project: Callable[[Tensor, Tensor | None], Tensor] = proximal_value
    takes_device_seeds = True
    turns_off = True
    single = True

    def __call__(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: Seed) -> Sample:
        hard_EK = self.project(alpha_EK.detach(), alive_EK)
        return _all(straight_through(hard_EK, alpha_EK))

    def surrogate(self, alpha_EK: Tensor, alive_EK: Tensor | None, tau: float, seed: Seed) -> Tensor:
        return alpha_EK

    def written_out(self, alpha_EK: Tensor, alive_EK: Tensor) -> Tensor | None:
        if self.project != proximal_value:
            return None
        size_EK = alpha_EK.abs().masked_fill(~alive_EK, -torch.inf)
        return alpha_EK * (size_EK == size_EK.amax(-1, keepdim=True))
