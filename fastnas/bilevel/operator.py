"""The Hessian of a loss as a matrix that is never written down."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from fastnas.bilevel.named import LossOf
from fastnas.bilevel.problem import Average, Tensors, skip_average
from fastnas.bilevel.products import Product, average_products, forward_over_reverse, make_product
from fastnas_kernels.check import complaint, invalid

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

Params = TypeVar("Params", Mapping[str, Tensor], Sequence[Tensor])


@dataclass(frozen=True, eq=False)
class HessianOperator:
    """The symmetric matrix of second derivatives of a loss, by products with vectors alone.

    ``H @ v`` takes what the parameters are, a mapping or a list of tensors, and returns the same; or a flat vector
    ``[n]``; or a block of k vectors ``[n, k]``, as columns. The entries of a flat vector are those of all tensors in
    their order, each row by row.

    Args:
        loss: From ``params`` to a scalar, twice differentiable; or several, of which the mean is meant: one is
            evaluated at a time, so that memory does not grow with their number.
        params: Where; a mapping, or a list, of tensors of one dtype and device.
        product: How a product is computed.
        keep_graph: Keep the graph of the gradient, of one loss only, after the first product: the others then cost a
            backward pass through it, in place of which ``product`` computes all anew.
        state: Tensors that evaluating the loss moves, such as ``tuple(network.buffers())``; they are put back.
        allow_unused: Rows of zeros instead of an error for a tensor that does not enter the loss.
        sizes: Examples behind each of several losses, by which it counts; ``None`` if they are of one size.
        average: What makes the product of one process that of all; see :class:`fastnas.bilevel.problem.Bilevel`.

    Raises:
        ValueError: If there are no parameters, or several losses are to keep a graph.

    Example:
        >>> matrix = HessianOperator(lambda at: (at[0] ** 2).sum(), [torch.ones(2)])
        >>> matrix @ torch.eye(2)
        tensor([[2., 0.],
                [0., 2.]])
    """

    loss: Callable[[Any], Tensor] | Sequence[Callable[[Any], Tensor]]
    params: Mapping[str, Tensor] | Sequence[Tensor]
    product: Product = forward_over_reverse
    keep_graph: bool = False
    state: Sequence[Tensor] = ()
    allow_unused: bool = False
    average: Average = skip_average
    sizes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not self.params:
            raise invalid("HessianOperator", "params must not be empty", "none")
        count = 1 if callable(self.loss) else len(self.loss)
        rule, remedy = "keep_graph needs a single loss", "Streaming avoids the graphs of all of them together."
        if count != 1 and self.keep_graph:
            raise invalid("HessianOperator", rule, f"{count} losses", remedy)
        if count <= 0:
            raise invalid("HessianOperator", "loss must not be empty", "none")

    @cached_property
    def at(self) -> dict[str, Tensor]:
        """The parameters by name; those of a list are named by their position."""
        return self._name_rows(self.params)

    @cached_property
    def losses(self) -> list[LossOf]:
        """The losses as functions of ``at``."""
        given = [self.loss] if callable(self.loss) else list(self.loss)
        if isinstance(self.params, Mapping):
            return given
        return [lambda at, one=one: one(list(at.values())) for one in given]

    @property
    def shape(self) -> tuple[int, int]:
        size = sum(x.numel() for x in self.at.values())
        return size, size

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype and on the device of vectors."""
        return next(iter(self.at.values()))

    @property
    def dtype(self) -> np.dtype:
        """That of arrays, for SciPy."""
        known = {torch.float32: np.dtype("float32"), torch.float64: np.dtype("float64")}
        if self.like.dtype not in known:
            rule = "params must be float32 or float64 for arrays"
            raise invalid("HessianOperator", rule, self.like.dtype)
        return known[self.like.dtype]

    @cached_property
    def _kept(self) -> Callable[[Tensors], dict[str, Tensor]]:
        return make_product(self.losses[0], self.at, state=self.state, allow_unused=self.allow_unused)

    def times(self, v: Tensors) -> dict[str, Tensor]:
        """The product with tensors by name."""
        if self.keep_graph:
            return self.average(self._kept(v))
        return self.average(
            average_products(
                self.losses,
                self.at,
                v,
                product=self.product,
                sizes=self.sizes,
                state=self.state,
                allow_unused=self.allow_unused,
            )
        )

    @overload
    def __matmul__(self, v: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, v: Params) -> Params: ...
    def __matmul__(self, v: Any) -> Any:
        if isinstance(v, Tensor):
            return self._flat_product(v)
        named = self._name_rows(v)
        if set(named) != set(self.at):
            raise invalid("HessianOperator", f"v must have the names {list(self.at)}", list(named))
        found = self.times(named)
        return found if isinstance(v, Mapping) else [found[name] for name in named]

    def _flat_product(self, v: Tensor) -> Tensor:
        n = self.shape[0]
        fits = v.ndim in (1, 2) and v.shape[0] == n
        if not fits:
            raise invalid("HessianOperator", f"v must have shape [{n}] or [{n}, k]", list(v.shape))
        if v.ndim == 2:
            columns = [self._flat_product(column) for column in v.unbind(1)]
            return torch.stack(columns, 1) if columns else torch.zeros_like(v)
        return self.flat(self.times(self.unflat(v)))

    def flat(self, tensors: Tensors) -> Tensor:
        """One vector ``[n]`` of all of them."""
        return torch.cat([tensors[name].flatten() for name in self.at])

    def unflat(self, v: Tensor) -> dict[str, Tensor]:
        """The tensors that a vector ``[n]`` consists of."""
        parts = v.split([x.numel() for x in self.at.values()])
        return {name: part.view(x.shape) for part, (name, x) in zip(parts, self.at.items(), strict=True)}

    def to_dense(self) -> Tensor:
        """The matrix ``[n, n]``, by n products: for alpha, and for tests."""
        return self._flat_product(torch.eye(self.shape[0], dtype=self.like.dtype, device=self.like.device))

    def matvec(self, v: np.ndarray) -> np.ndarray:
        """The product with an array ``[n]`` or ``[n, 1]``."""
        vector = torch.as_tensor(np.ascontiguousarray(v)).to(self.like).reshape(-1)
        return self._flat_product(vector).cpu().numpy()

    rmatvec = matvec  # symmetric

    def to_scipy(self) -> "LinearOperator":
        """The same as SciPy knows it, for ``scipy.sparse.linalg``."""
        try:
            from scipy.sparse.linalg import aslinearoperator  # noqa: PLC0415  (nothing else needs it)
        except ImportError as error:
            remedy = "Install scipy, which scikit-learn brings."
            raise ImportError(
                complaint("HessianOperator.to_scipy", "scipy must be installed", "none", remedy)
            ) from error
        return aslinearoperator(self)

    def _name_rows(self, tensors: Mapping[str, Tensor] | Sequence[Tensor]) -> dict[str, Tensor]:
        items = tensors.items() if isinstance(tensors, Mapping) else ((str(i), x) for i, x in enumerate(tensors))
        return dict(items)
