"""What a foreign candidate computes, read off the modules it is made of: names of classes mean nothing.

Reading is a guess; :mod:`fastnas.acceleration.trial` proves it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fastnas_kernels.mixed_op.plan import Candidate


class Unrecognised(ValueError):
    """Why a module is left as it is; the text is for the user."""


@dataclass(frozen=True)
class Primitive:
    """A candidate of a mixed operation.

    Args:
        candidate: What the engine calls it; ``None`` for the primitive that contributes nothing.
        stride: Of its first stage.
        channels: That it reads and writes; ``None`` if it takes any.
        convolutions: Names of its convolutions, in the order in which the engine takes their weights.
        norms: Names of its normalisations, in the order of the engine's statistics.
        eps: Of its normalisations.
        by_itself: Name of the candidate if the engine does not know it, so that it runs itself beside the engine.
        why: The engine does not know it, in words.
    """

    candidate: Candidate | None
    stride: int
    channels: int | None = None
    convolutions: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    eps: tuple[float, ...] = ()
    by_itself: str | None = None
    why: str = ""


_LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d)


def read_primitive(module: nn.Module) -> Primitive:
    """The candidate that ``module`` seems to be.

    Raises:
        Unrecognised: If it is none that the engine knows.
    """
    leaves = {name: leaf for name, leaf in module.named_modules() if not list(leaf.children())}
    for name, leaf in leaves.items():
        if isinstance(leaf, nn.Dropout) and leaf.p > 0:
            raise Unrecognised(f"{name or 'it'} drops values at random (p={leaf.p:g}), which the engine does not do")
    for name, part in module.named_modules():
        owns = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        if owns and not isinstance(part, _LAYERS):
            raise Unrecognised(
                f"the engine knows no layer like {type(part).__name__} ({name or 'the candidate itself'})"
            )
    convolutions = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, nn.Conv2d)}
    norms = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, nn.BatchNorm2d)}
    pools = [leaf for leaf in leaves.values() if isinstance(leaf, (nn.MaxPool2d, nn.AvgPool2d))]
    _require_plain(norms)
    if convolutions and not pools:
        candidate, stride = _read_convolutions(list(convolutions.values()), len(norms))
        channels = next(iter(convolutions.values())).in_channels
    elif len(pools) == 1 and not convolutions:
        candidate, stride = _read_pool(pools[0], len(norms))
        channels = next(iter(norms.values())).num_features
    elif not norms and not pools:
        return _probe(module)
    else:
        raise Unrecognised(f"{len(convolutions)} convolutions and {len(pools)} pools together are no known candidate")
    if any(norm.num_features != channels for norm in norms.values()):
        raise Unrecognised("it does not keep the number of channels")
    eps = tuple(norm.eps for norm in norms.values())
    return Primitive(candidate, stride, channels, tuple(convolutions), tuple(norms), eps)


def _require_plain(norms: dict[str, nn.BatchNorm2d]) -> None:
    for name, norm in norms.items():
        if norm.affine:
            raise Unrecognised(f"its normalisation {name} has a scale and a shift of its own (affine=True)")


def _read_pool(pool: nn.MaxPool2d | nn.AvgPool2d, num_norms: int) -> tuple[Candidate, int]:
    if num_norms != 1:
        raise Unrecognised(f"a pool needs one normalisation after it, it has {num_norms}")
    stride = _side(pool.stride)
    if (_side(pool.kernel_size), _side(pool.padding), pool.ceil_mode) != (3, 1, False):
        raise Unrecognised("its pool is not over 3x3 pixels with a border of one")
    if isinstance(pool, nn.MaxPool2d):
        if _side(pool.dilation) != 1 or pool.return_indices:
            raise Unrecognised("its max-pool is dilated or returns indices")
        return Candidate("max_pool"), stride
    if pool.count_include_pad or pool.divisor_override is not None:
        raise Unrecognised("its average pool divides by more than the pixels that exist (count_include_pad)")
    return Candidate("avg_pool"), stride


def _read_convolutions(convolutions: Sequence[nn.Conv2d], num_norms: int) -> tuple[Candidate, int]:
    channels = convolutions[0].in_channels
    for layer in convolutions:
        if layer.bias is not None or layer.padding_mode != "zeros" or layer.in_channels != channels:
            raise Unrecognised("its convolutions have a bias, another padding than zeros, or change the channels")
    strides = [_side(layer.stride) for layer in convolutions]
    sides = [_side(layer.kernel_size) for layer in convolutions]
    outputs = [layer.out_channels for layer in convolutions]
    groups = [layer.groups for layer in convolutions]
    paddings, dilations = ([_side(getattr(c, name)) for c in convolutions] for name in ("padding", "dilation"))
    if (sides, strides, groups, paddings) == ([1, 1], [2, 2], [1, 1], [0, 0]) and outputs == [channels // 2] * 2:
        if num_norms != 1:
            raise Unrecognised(f"a factorised reduction has one normalisation, it has {num_norms}")
        return Candidate("skip"), 2
    repeats = len(convolutions) // 2
    alternate = (
        repeats in (1, 2)
        and num_norms == repeats
        and groups == [channels, 1] * repeats
        and outputs == [channels] * len(convolutions)
        and sides == [sides[0], 1] * repeats
        and dilations == [dilations[0], 1] * repeats
        and paddings == [dilations[0] * (sides[0] // 2), 0] * repeats
        and strides[1:] == [1] * (2 * repeats - 1)
        and sides[0] % 2 == 1
    )
    if not alternate:
        raise Unrecognised("its convolutions are neither depthwise and 1x1 in turn nor a factorised reduction")
    return Candidate("depthwise", sides[0], dilations[0], repeats), strides[0]


def _side(value: object) -> int:
    """The one number that a layer's argument holds for both directions."""
    sides = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    if len(sides) != 2 or sides[0] != sides[1] or not isinstance(sides[0], int):
        raise Unrecognised(f"one of its layers is not the same in both directions ({value})")
    return sides[0]


def _probe(module: nn.Module) -> Primitive:
    """A module without weights and pools is what it does to an image."""
    x = torch.linspace(-1, 2, 2 * 4 * 6 * 6).reshape(2, 4, 6, 6)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        y = module.forward(x.clone())
    if y.shape == x.shape and torch.equal(x, y):
        return Primitive(Candidate("skip"), 1)
    if not y.any() and y.shape[:2] == x.shape[:2] and y.shape[2] in (6, 3):
        return Primitive(None, 6 // y.shape[2])
    raise Unrecognised(f"{type(module).__name__} has no weights and neither passes its input on nor returns zero")
