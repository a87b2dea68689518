"""Options that change any method for which they have a meaning: second order, stopping rules, and techniques."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from fastnas.bilevel.hypergradient import Unrolled, first_order
from fastnas.errors import invalid
from fastnas.files import STRICT
from fastnas.mechanisms.control import (
    Control,
    EigenvalueRollBack,
    EigenvalueStop,
    FirstOf,
    RankStable,
    SkipCount,
    eigenvalue_rule_of_the_code,
)
from fastnas.mechanisms.derivation import SkipCap, derive
from fastnas.mechanisms.penalty import l1, mean_logsumexp
from fastnas.mechanisms.perturbation import Adversarial, random_smoothing
from fastnas.mechanisms.schedules import Constant, Ramp, SkipDropout
from fastnas.methods.library import dso_nas, nasp
from fastnas.methods.method import Method, Term

Order = Literal[1, 2]
StopBy = Literal["eigenvalue", "eigenvalue_code", "eigenvalue_ada", "skips", "rank"]
Smoothing = Literal["random", "adversarial"]

_CONTROLS: Mapping[str, tuple[Callable[[], Control], int]] = MappingProxyType(
    {
        "eigenvalue": (EigenvalueStop, 1),
        "eigenvalue_code": (lambda: EigenvalueStop(eigenvalue_rule_of_the_code()), 2),
        "eigenvalue_ada": (EigenvalueRollBack, 2),
        "skips": (SkipCount, 0),
        "rank": (RankStable, 0),
    }
)
"""What each word stands for, and the epochs between two measurements of the eigenvalue."""


@dataclass(frozen=True, kw_only=True)
class Techniques:
    """Parts that any method takes for which they have a meaning; one that is unset is the method's own.

    Args:
        drop_path: Largest probability of dropping an edge for an image; it grows from zero (Zela et al., 2020).
        cutout: Probability of blanking a square of half the side in an image of the search.
        skip_dropout: Operation-level dropout: the rate on skip connections that every stage begins with, which decays
            as in P-DARTS (Chen et al., 2019).
        skip_cap: Most skip connections in the derived normal cell; surplus ones are reset, as in P-DARTS.
        l1: Strength of an L1 penalty on the weights.
        smoothing: Train the weights under coefficients with random noise or under the worst ones nearby, as SmoothDARTS
            (Chen and Hsieh, 2020); the radius grows from 0.03 to 0.3.
        partial_channels: Candidates see 1 / N of the channels, as in PC-DARTS (Xu et al., 2020).
        edge_normalisation: Weigh the edges of a node by a softmax of their own, as in PC-DARTS.
        temperature: First and last temperature of the softmax, or of the draw; between them a straight line.
        beta_decay: Last weight of the mean log-sum-exp of the logits; it grows from zero (Ye et al., 2022).
        auxiliary_skip: First coefficient of an additional skip connection, which fades (Chu et al., 2021).
        proximal: Evaluate and differentiate at the nearest discrete architecture, as NASP (Yao et al., 2020).
        sparsity: Scale candidates freely under an L1 penalty of this strength that ends in exact zeros, as DSO-NAS
            (Zhang et al., 2018); alpha's rate is 0.1 then, unless another is given.
    """

    __pydantic_config__ = STRICT

    drop_path: float | None = None
    cutout: float | None = None
    skip_dropout: float | None = None
    skip_cap: int | None = None
    l1: float | None = None
    smoothing: Smoothing | None = None
    partial_channels: int | None = None
    edge_normalisation: bool | None = None
    temperature: tuple[float, float] | None = None
    beta_decay: float | None = None
    auxiliary_skip: float | None = None
    proximal: bool = False
    sparsity: float | None = None

    def __post_init__(self) -> None:
        for name in ("drop_path", "skip_dropout"):
            if (rate := getattr(self, name)) is not None and not 0 <= rate < 1:
                raise invalid("Techniques", f"{name} must lie in [0, 1)", rate)
        if self.cutout is not None and not 0 <= self.cutout <= 1:
            raise invalid("Techniques", "cutout must lie in [0, 1]", self.cutout)
        for name in ("l1", "beta_decay", "auxiliary_skip", "sparsity"):
            if (value := getattr(self, name)) is not None and not value >= 0:
                raise invalid("Techniques", f"{name} must not be negative", value)
        if self.temperature is not None and not all(tau > 0 for tau in self.temperature):
            raise invalid("Techniques", "temperature must be positive", self.temperature)


def with_techniques(method: Method, techniques: Techniques) -> Method:
    """``method`` with the parts that ``techniques`` sets.

    Args:
        method: Any.
        techniques: What to change.

    Raises:
        ValueError: Where a part has no meaning beside those of the method; the message begins with the option.

    Example:
        >>> from fastnas.methods import gdas
        >>> with_techniques(gdas(), Techniques(drop_path=0.2)).drop_path
        Ramp(start=0.0, end=0.2, before=0, after=0)
    """
    if techniques.skip_cap is not None:
        _require_plain_derivation(method, techniques)
    if techniques.proximal and techniques.sparsity is not None:
        raise ValueError("--proximal does not work with --sparsity: each makes coefficients in its own way.")
    for field in fields(techniques):
        value = getattr(techniques, field.name)
        if value is not None and value is not False:
            option = f"--{field.name.replace('_', '-')}"
            method = _change(method, option, **_PARTS[field.name](method, value))
    return method


def _require_plain_derivation(method: Method, techniques: Techniques) -> None:
    """Raise where a cap of skip connections would drop another rule, or be dropped."""
    name = getattr(method.derivation, "__name__", type(method.derivation).__name__)
    if method.choice is not None:
        why = f"method {method.name} chooses by evaluations, which ask no derivation."
    elif techniques.sparsity is not None:
        why = "it does not work with --sparsity, which derives in its own way."
    elif method.derivation is not derive and not isinstance(method.derivation, SkipCap):
        why = f"method {method.name} derives in its own way ({name}), which it would drop."
    else:
        return
    raise ValueError(f"--skip-cap: {why} Leave one of them out.")


_OF_ALPHA = ("relaxation", "alpha_lr", "alpha_lr_of_several", "alpha_init_mean", "alpha_init_std")


def _take(method: Method, *names: str) -> dict[str, Any]:
    return {name: getattr(method, name) for name in names}


_PARTS: Mapping[str, Callable[[Method, Any], dict[str, Any]]] = MappingProxyType(
    {
        "drop_path": lambda method, rate: {"drop_path": Ramp(0.0, rate)},
        "cutout": lambda method, probability: {"cutout": Constant(probability)},
        "skip_dropout": lambda method, rate: {"skip_dropout": SkipDropout((rate,))},
        "skip_cap": lambda method, limit: {"derivation": SkipCap(limit)},
        "l1": lambda method, weight: {"weight_penalties": (*method.weight_penalties, Term(l1, Constant(weight)))},
        "smoothing": lambda method, kind: {
            "perturbation": random_smoothing if kind == "random" else Adversarial(),
            "radius": Ramp(0.03, 0.3, after=1),
        },
        "partial_channels": lambda method, k: {"partial_channels": k},
        "edge_normalisation": lambda method, on: {"edge_normalisation": on},
        "temperature": lambda method, ends: {"tau": Ramp(*ends)},
        "beta_decay": lambda method, weight: {
            "alpha_penalties": (*method.alpha_penalties, Term(mean_logsumexp, Ramp(0.0, weight, after=1)))
        },
        "auxiliary_skip": lambda method, first: {"auxiliary_skip": Ramp(first, 0.0, after=1)},
        "proximal": lambda method, on: _take(nasp(), "draw", "projection", *_OF_ALPHA),
        "sparsity": lambda method, gamma: _take(
            dso_nas(gamma=gamma), "alpha_optimizer", "derivation", "prune", "prune_every", *_OF_ALPHA
        ),
    }
)
"""The parts of a method that each technique changes."""


def with_order(method: Method, order: Order) -> Method:
    """``method`` with the first-order or the unrolled gradient of alpha.

    Args:
        method: Any whose alpha gets its gradient by differentiation.
        order: 1, or 2 to differentiate through the next step of the weights.
    """
    if method.unrolls == (order == 2) and not method.scores:
        return method
    return _change(method, f"--order {order}", hypergradient=Unrolled() if order == 2 else first_order)


def with_stop(method: Method, stop: StopBy) -> Method:
    """``method`` that also stops, or goes back, when the loss becomes sharp in alpha (Zela et al., 2020,
    arXiv:1909.09656), or by what it derives.

    Args:
        method: Any; for the eigenvalue, one whose coefficients are no random or discrete choice.
        stop: ``eigenvalue`` for the rule of the paper, ``eigenvalue_code`` for that of the published code,
            ``eigenvalue_ada`` to go back and regularise more instead; ``skips`` at two skip connections in the normal
            cell, and ``rank`` when the order of the candidates stood for ten epochs (Liang et al., 2019,
            arXiv:1909.06035).
    """
    option, (make, every) = f"--stop {stop}", _CONTROLS[stop]
    if every > 0 and method.eigenvalue_every > 0:
        raise ValueError(f"{option}: method {method.name} already stops by the eigenvalue. Leave the option out.")
    control = make() if method.control is None else FirstOf((method.control, make()))
    return _change(method, option, control=control, eigenvalue_every=every or method.eigenvalue_every)


def _change(method: Method, option: str, **parts: Any) -> Method:
    """``method`` with other parts; where they have no meaning together, the error begins with the option."""
    try:
        return replace(method, **parts)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None
