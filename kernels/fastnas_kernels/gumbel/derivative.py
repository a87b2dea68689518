"""A seeded draw of one candidate on every edge, soft or hard: Gumbel noise, softmax and argmax.

Shape suffixes: E edges, K candidates.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from fastnas_kernels.backend import backend_for
from fastnas_kernels.check import invalid, require_shape
from fastnas_kernels.gumbel.definition import reference_gumbel_softmax

Form = Literal["soft", "straight_through", "argmax"]


class GumbelSample(NamedTuple):
    """Coefficients ``[E, K]`` in the dtype of alpha, and the index of the drawn candidate of every edge ``[E]``."""

    mix: Tensor
    index: Tensor


def _draw(alpha_EK: Tensor, seed: int | Tensor, tau: Tensor, alive_EK: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    if alpha_EK.device.type == "cpu":  # elsewhere, looking at values would wait for the device
        _require_values(alpha_EK, tau, alive_EK)
    if backend_for(alpha_EK.device) == "triton":
        from fastnas_kernels.gumbel import kernel  # noqa: PLC0415  (exists on Linux only)

        return kernel.gumbel_softmax(alpha_EK, seed, tau, alive_EK)
    return reference_gumbel_softmax(alpha_EK, seed, tau, alive_EK)


@torch.library.custom_op("fastnas::gumbel_softmax", mutates_args=())
def _gumbel_softmax_op(
    alpha_EK: Tensor, seed: int, tau: Tensor, alive_EK: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return _draw(alpha_EK, seed, tau, alive_EK)


@torch.library.custom_op("fastnas::seeded_gumbel_softmax", mutates_args=())
def _seeded_op(alpha_EK: Tensor, seed: Tensor, tau: Tensor, alive_EK: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return _draw(alpha_EK, seed, tau, alive_EK)


@_seeded_op.register_fake
@_gumbel_softmax_op.register_fake
def _(alpha_EK: Tensor, seed: int | Tensor, tau: Tensor, alive_EK: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    E, K = alpha_EK.shape
    return alpha_EK.new_empty(E, K), alpha_EK.new_empty(E, K), alpha_EK.new_empty(E, dtype=torch.int64)


def _require_values(alpha_EK: Tensor, tau: Tensor, alive_EK: Tensor | None) -> None:
    if not bool(tau > 0):
        raise invalid("gumbel_softmax", "tau must be positive", float(tau))
    edges = alpha_EK.isnan().any(dim=1).nonzero().flatten().tolist()
    if edges:
        raise invalid("gumbel_softmax", "alpha must not be NaN", f"NaN on edges {edges}", "Lower its learning rate.")
    if alive_EK is not None:
        dead = (~alive_EK.any(dim=1)).nonzero().flatten().tolist()
        if dead:
            raise invalid("gumbel_softmax", "alive must keep a candidate on every edge", f"none on edges {dead}")


class _GumbelSoftmax(torch.autograd.Function):
    """Both samples have the derivative of the soft one: J dy / tau with J = diag(soft) - soft softᵀ of every row."""

    @staticmethod
    def forward(
        alpha_EK: Tensor, seed: int | Tensor, tau: Tensor, alive_EK: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        return (_seeded_op if isinstance(seed, Tensor) else _gumbel_softmax_op)(alpha_EK, seed, tau, alive_EK)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        soft_EK, _, index_E = output
        ctx.mark_non_differentiable(index_E)
        ctx.save_for_backward(soft_EK, inputs[2])

    @staticmethod
    def backward(ctx: Any, dsoft_EK: Tensor, dhard_EK: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        soft_EK, tau = ctx.saved_tensors
        return _jacobian_product(soft_EK, dsoft_EK + dhard_EK, tau), None, None, None


class _GumbelSoftmaxForwardMode(_GumbelSoftmax):
    """Apart, because torch.compile refuses a Function that has a ``jvp``."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _GumbelSoftmax.setup_context(ctx, inputs, output)
        ctx.save_for_forward(output[0], inputs[2])

    @staticmethod
    def jvp(ctx: Any, talpha_EK: Tensor, *_: None) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        soft_EK, tau = ctx.saved_tensors
        tsoft_EK = _jacobian_product(soft_EK, talpha_EK, tau)
        return tsoft_EK, tsoft_EK.clone(), None


def _jacobian_product(soft_EK: Tensor, d_EK: Tensor, tau: Tensor) -> Tensor:
    product_EK = soft_EK * d_EK
    return (product_EK - soft_EK * product_EK.sum(dim=1, keepdim=True)) / tau


def _as_tensor(where: str, tau: float | Tensor, device: torch.device) -> Tensor:
    if not isinstance(tau, Tensor):
        if not tau > 0:
            raise invalid(where, "tau must be positive", tau)
        return torch.full((), tau, dtype=torch.float64, device=device)  # filled on the device: no transfer
    if tau.ndim != 0:
        raise invalid(where, "tau must be a number or a 0-d tensor", f"shape {list(tau.shape)}")
    if tau.requires_grad:
        raise invalid(where, "tau must be constant", "a tensor that requires a gradient")
    if tau.device != device:
        raise invalid(where, f"tau must be on {device}", tau.device)
    return tau


def gumbel_softmax(
    alpha: Tensor, seed: int | Tensor, tau: float | Tensor = 1.0, form: Form = "soft", alive: Tensor | None = None
) -> GumbelSample:
    """Draw a candidate on every edge with probability ``softmax(alpha)``, or a soft mixture near such a draw.

    With ``G = -log(-log u)`` and ``soft = softmax((alpha + G) / tau)`` over the candidates of an edge (Jang et al.,
    2017, arXiv:1611.01144, eq. 2; Maddison et al., 2017, arXiv:1611.00712), ``mix`` is

    - ``"soft"``: ``soft`` itself (SNAS: Xie et al., 2019, arXiv:1812.09926),
    - ``"straight_through"``: exact ones and zeros at ``argmax(alpha + G)`` with the derivatives of ``soft`` (GDAS:
      Dong and Yang, 2019, arXiv:1910.04465),
    - ``"argmax"``: the same ones and zeros, constant: a plain categorical draw (PARSEC, ProxylessNAS), whatever
      ``tau`` is.

    The drawn ``index`` is that of the largest ``alpha + G`` in all three. One launch serves all edges and nothing
    waits for the device. The numbers ``u`` depend on ``seed`` and on the position in ``alpha`` alone (Philox4x32-10),
    the arithmetic is float64 and rounded once: every rank, device and backend draws the same. ``u = 0`` is replaced
    by 2⁻³², half the smallest positive one, and ``u`` never exceeds 1 - 2⁻²⁴, so G lies in [-3.11, 16.64].

    Args:
        alpha: Logits (dimensionless), shape ``[E, K]``.
        seed: In ``[0, 2**63)``; the same seed gives the same draw. A 0-d int64 tensor on the device of ``alpha`` is not
            read by the host, so that a graph may replay the draw with another one.
        tau: Temperature (dimensionless), positive: a number or a constant 0-d tensor on the device of ``alpha``.
        form: See above.
        alive: Which candidates take part, shape ``[E, K]``, bool. The others get exactly zero and no gradient.

    Returns:
        ``mix``, shape ``[E, K]``, and ``index``, shape ``[E]``, int64.

    Raises:
        ValueError: If a shape, dtype, device, ``seed`` or ``form`` is wrong, or, for tensors on the CPU (elsewhere
            the check would wait for the device, and the row of ``mix`` becomes NaN instead): if ``alpha`` is NaN, or
            an edge has no candidate alive, or ``tau`` is not positive. A number ``tau`` is checked on every device.
    """
    where = "gumbel_softmax"
    if alpha.ndim != 2 or alpha.shape[1] == 0:
        raise invalid(where, "alpha must have shape [E, K]", list(alpha.shape))
    if not alpha.is_floating_point():
        raise invalid(where, "alpha must be floating-point", alpha.dtype)
    if isinstance(seed, Tensor):
        if seed.shape != () or seed.dtype != torch.int64 or seed.device != alpha.device:
            found = f"{seed.dtype} of shape {list(seed.shape)} on {seed.device}"
            raise invalid(where, f"seed must be a 0-d int64 tensor on {alpha.device}", found)
    elif not 0 <= seed < 2**63:
        raise invalid(where, "seed must be in [0, 2**63)", seed)
    if form not in get_args(Form):
        raise invalid(where, f"form must be one of {', '.join(get_args(Form))}", repr(form))
    if alive is not None:
        require_shape(where, "alive", alive, alpha.shape, "one flag for each logit")
        if alive.dtype != torch.bool:
            raise invalid(where, "alive must be bool", alive.dtype)
        if alive.device != alpha.device:
            raise invalid(where, f"alive must be on {alpha.device}", alive.device)
    temperature = _as_tensor(where, tau, alpha.device)
    function = _GumbelSoftmax if torch.compiler.is_compiling() else _GumbelSoftmaxForwardMode
    soft, hard, index = function.apply(alpha, seed, temperature, alive)  # type: ignore[misc]
    if form == "argmax":
        hard = hard.detach()
    return GumbelSample(soft if form == "soft" else hard, index)
