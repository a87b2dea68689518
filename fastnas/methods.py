"""The methods: each a frozen value that says where it differs from first-order DARTS."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from fastnas.bilevel.hypergradient import Hypergradient, first_order
from fastnas.mechanisms.connection import Connection
from fastnas.mechanisms.derivation import derive
from fastnas.mechanisms.relaxation import softmax


@dataclass(frozen=True, kw_only=True)
class Method:
    """One choice on every axis of differentiable architecture search.

    Vary a method with ``dataclasses.replace(pc_darts(), connection=Connection(k=2))``.

    Args:
        name: What runs and reports call it.
        source: Authors, year and arXiv id.
        relaxation: From logits ``[E, K]`` to coefficients ``[E, K]``.
        hypergradient: How alpha gets its gradient.
        connection: Channels that are mixed and weights of the edges.
        derivation: From coefficients to a genotype.
        warmup_share: Share of the epochs in which only weights move, for whoever does not say how many.
    """

    name: str
    source: str
    relaxation: Callable[[Tensor], Tensor] = softmax
    hypergradient: Hypergradient = first_order
    connection: Connection = Connection()  # noqa: RUF009  (frozen)
    derivation: Callable = derive
    warmup_share: float = 0.0


def darts() -> Method:
    """Mix all candidates by a softmax and descend on both losses in turn, first order
    (Liu et al., 2019, arXiv:1806.09055)."""
    return Method(name="darts", source="Liu et al., 2019, arXiv:1806.09055")


def pc_darts(k: int = 4) -> Method:
    """Mix only ``1 / k`` of the channels and normalise the edges; alpha waits while the weights warm up
    (Xu et al., 2020, arXiv:1907.05737)."""
    return replace(
        darts(),
        name="pc_darts",
        source="Xu et al., 2020, arXiv:1907.05737",
        connection=Connection(k=k, edge_normalisation=True),
        warmup_share=15 / 50,
    )


def pc_darts_imagenet() -> Method:
    """PC-DARTS as it searches ImageNet directly: half of the channels, alpha waits for 35 of 50 epochs
    (Xu et al., 2020, arXiv:1907.05737, section 4.3)."""
    return replace(pc_darts(k=2), name="pc_darts_imagenet", warmup_share=35 / 50)


METHODS: Mapping[str, Callable[[], Method]] = {
    "darts": darts,
    "pc_darts": pc_darts,
    "pc_darts_imagenet": pc_darts_imagenet,
}
"""The recipes by the names that the command line knows."""
