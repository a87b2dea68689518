"""The classic mixed operation as a module of its own."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from fastnas.acceleration.evaluation import evaluate, find_modules, find_obstacle
from fastnas.acceleration.shapes import find_candidates
from fastnas.acceleration.wiring import Edge, Wiring, read_candidates
from fastnas.errors import describe
from fastnas.spaces.cell_space import DARTS
from fastnas.supernet.search_cell import CANDIDATES
from fastnas_kernels.check import complaint, invalid, require_shape
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan
from fastnas_kernels.partial_channels import require_partial


class MixedOp(nn.Module):
    """A weighted sum of candidates on one edge, evaluated by the engine.

    Computes ``sum_k weights[k] o_k(x)`` (Liu et al., 2019, arXiv:1806.09055, eq. 2). With partial channels the
    candidates see the first ``channels / partial_channels`` channels, the others pass by, at stride 2 through a 2x2
    max-pool, and a shuffle interleaves both (Xu et al., 2020, arXiv:1907.05737, eq. 3). It can stand where a network
    of that family has its own mixed operation: same call, same names in the ``state_dict``, and running statistics
    that are kept while training and used in eval mode.

    Args:
        channels: Channels that enter and leave.
        stride: 1, or 2 to halve the resolution.
        primitives: Names of the candidates, in the order of the coefficients; ``none`` or a primitive of DARTS.
        partial_channels: The reciprocal of the share of the channels that the candidates see; 1 for all of them.

    Raises:
        ValueError: If a primitive is unknown, all are ``none``, or the channels cannot be shared out.

    Example:
        >>> import torch, fastnas
        >>> mixed = fastnas.MixedOp(16, 1)
        >>> mixed(torch.randn(2, 16, 8, 8), torch.softmax(torch.zeros(8), dim=-1)).shape
        torch.Size([2, 16, 8, 8])
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        primitives: Sequence[str] = DARTS.primitives,
        partial_channels: int = 1,
    ) -> None:
        super().__init__()
        if isinstance(primitives, str) or not isinstance(primitives, Sequence):
            remedy = "The order of arguments is channels, stride, primitives."
            raise invalid("MixedOp", "primitives must be a list of names", describe(primitives), remedy)
        known = ["none", *CANDIDATES]
        unknown = [primitive for primitive in primitives if primitive not in known]
        if unknown:
            raise invalid("MixedOp", f"primitives must be among {known}", unknown)
        if stride not in (1, 2):
            raise invalid("MixedOp", "stride must be 1 or 2", stride)
        candidates = [CANDIDATES.get(primitive) for primitive in primitives]
        live = tuple(candidate for candidate in candidates if candidate is not None)
        if not live:
            raise invalid("MixedOp", "primitives must not all be none", list(primitives))
        reduces = stride == 2 and Candidate("skip") in live
        require_partial("MixedOp", channels, partial_channels, even=reduces)
        self.channels, self.stride, self.k = channels, stride, partial_channels
        mixed = channels // partial_channels
        self._ops = nn.ModuleList(_build(candidate, mixed, stride) for candidate in candidates)
        plan = CellPlan(channels, 1, 1, (EdgePlan(0, 1, live),), stride, partial_channels)
        self._wiring = Wiring(
            plan, (Edge(read_candidates(find_candidates(self)), stride, mixed),), (), ("x", "weights")
        )

    def forward(self, x: Tensor, weights: Tensor | Sequence[Tensor | float]) -> Tensor:
        """The weighted sum of all candidates.

        Args:
            x: Images, ``[N, channels, H, W]``.
            weights: One coefficient for each primitive, ``[K]``, dimensionless; a tensor or K numbers.

        Returns:
            Shape ``[N, channels, H / stride, W / stride]``, rounded up.

        Raises:
            ValueError: If a shape does not fit.
            RuntimeError: If hooks sit on candidates, or only some of their normalisations are in eval mode.
        """
        if x.dim() != 4:
            raise invalid("MixedOp", "x must be images [N, C, H, W]", list(x.shape))
        require_shape("MixedOp", "x", x, [x.shape[0], self.channels, *x.shape[2:]], "the channels that it was made for")
        if len(weights) != len(self._ops):
            raise invalid("MixedOp", f"weights must be {len(self._ops)}", len(weights))
        found = find_modules(self, self._wiring)
        reason = find_obstacle(found)
        if reason is not None:
            raise RuntimeError(complaint("MixedOp", "candidates must be left to the engine", reason))
        result = evaluate(self, self._wiring, found, (x, weights))
        assert result is not None  # it skips no zeros
        return result


class _Nothing(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0


def _build(candidate: Candidate | None, channels: int, stride: int) -> nn.Module:
    """The parameters and buffers of a candidate under the names that the family's checkpoints have for them."""
    if candidate is None:
        return _Nothing(stride)
    if candidate.kind == "max_pool":
        return nn.Sequential(nn.MaxPool2d(3, stride, 1), _norm(channels))
    if candidate.kind == "avg_pool":
        return nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), _norm(channels))
    if candidate.kind == "skip":
        if stride == 1:
            return nn.Identity()
        halves = {name: nn.Conv2d(channels, channels // 2, 1, 2, bias=False) for name in ("conv_1", "conv_2")}
        return nn.ModuleDict({"relu": nn.ReLU(), **halves, "bn": _norm(channels)})
    padding = candidate.dilation * (candidate.kernel // 2)
    layers: list[nn.Module] = []
    for stage in range(candidate.repeats):
        depthwise = nn.Conv2d(
            channels,
            channels,
            candidate.kernel,
            stride if stage == 0 else 1,
            padding,
            candidate.dilation,
            groups=channels,
            bias=False,
        )
        layers += [nn.ReLU(), depthwise, nn.Conv2d(channels, channels, 1, bias=False), _norm(channels)]
    return nn.Sequential(OrderedDict(op=nn.Sequential(*layers)))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False)
