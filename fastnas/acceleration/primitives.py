"""What a foreign candidate computes, read off the modules it is made of: names of classes mean nothing.

Reading is a guess; :mod:`fastnas.acceleration.proof` proves it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import nn

from fastnas_kernels.mixed_op.plan import Candidate, CellPlan


class Unrecognised(ValueError):
    """Why a module is left as it is; the text is for the user."""


class Layer(NamedTuple):
    """A candidate without a kernel of its own, evaluated once for all edges that leave a state.

    Args:
        kind: ``conv`` is ReLU, convolution and normalisation; pools have no normalisation; ``same`` is the identity.
        kernel, stride, padding, dilation: In pixels.
    """

    kind: Literal["conv", "max_pool", "avg_pool", "same"]
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1


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
        biases: For each normalisation, names of the convolutions whose biases are added right before it.
        layer: What it is, if it is known and has no kernel.
        by_itself: Name of the candidate if the engine does not know it, so that it runs itself beside the engine.
        why: The engine does not know it, in words.
        path: Name of the candidate, if the engine knows it.
    """

    candidate: Candidate | None
    stride: int
    channels: int | None = None
    convolutions: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    eps: tuple[float, ...] = ()
    biases: tuple[tuple[str, ...], ...] = ()
    layer: Layer | None = None
    by_itself: str | None = None
    why: str = ""
    path: str = ""

    @property
    def contributes(self) -> bool:
        """Whether it adds anything to the sum."""
        return self.candidate is not None or self.layer is not None or self.by_itself is not None


class LoosePlan(CellPlan):
    """A cell of which some candidates have no kernel, so that a node may have none that does."""

    def __post_init__(self) -> None:
        pass


_LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d)


def read_primitive(module: nn.Module) -> Primitive:
    """The candidate that ``module`` seems to be."""
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
    if len(convolutions) == len(norms) == 1 and not pools and (layer := _read_dense(*convolutions.values())):
        primitive = Primitive(None, layer.stride, next(iter(convolutions.values())).in_channels, layer=layer)
    elif len(pools) == 1 and not convolutions and not norms:
        primitive = _read_pool(pools[0], normalised=False)
    elif len(pools) == 1 and not convolutions and len(norms) == 1:
        primitive = _read_pool(pools[0], normalised=True)
        primitive = replace(primitive, channels=next(iter(norms.values())).num_features)
    elif convolutions and not pools:
        primitive = _read_convolutions(convolutions, len(norms))
    elif not norms and not pools:
        return _probe(module)
    else:
        counts = f"{len(convolutions)} convolutions, {len(pools)} pools and {len(norms)} normalisations"
        raise Unrecognised(f"{counts} together are no known candidate")
    if primitive.layer is None:
        _require_plain(norms)
    if any(norm.num_features != primitive.channels for norm in norms.values()):
        raise Unrecognised("it does not keep the number of channels")
    eps = tuple(norm.eps for norm in norms.values())
    return replace(primitive, convolutions=tuple(convolutions), norms=tuple(norms), eps=eps)


def _require_plain(norms: dict[str, nn.BatchNorm2d]) -> None:
    for name, norm in norms.items():
        if norm.affine:
            raise Unrecognised(f"its normalisation {name} has a scale and a shift of its own (affine=True)")


def _read_pool(pool: nn.MaxPool2d | nn.AvgPool2d, normalised: bool) -> Primitive:
    stride = _side(pool.stride)
    if (_side(pool.kernel_size), _side(pool.padding), pool.ceil_mode) != (3, 1, False):
        raise Unrecognised("its pool is not over 3x3 pixels with a border of one")
    kind: Literal["max_pool", "avg_pool"] = "max_pool"
    if isinstance(pool, nn.MaxPool2d):
        if _side(pool.dilation) != 1 or pool.return_indices:
            raise Unrecognised("its max-pool is dilated or returns indices")
    elif pool.count_include_pad or pool.divisor_override is not None:
        raise Unrecognised("its average pool divides by more than the pixels that exist (count_include_pad)")
    else:
        kind = "avg_pool"
    if normalised:
        return Primitive(Candidate(kind), stride, biases=((),))
    return Primitive(None, stride, layer=Layer(kind, 3, stride, 1))


def _read_dense(layer: nn.Conv2d) -> Layer | None:
    """A convolution that mixes all channels and keeps their number, if ``layer`` is one."""
    kernel, padding, dilation = (_side(x) for x in (layer.kernel_size, layer.padding, layer.dilation))
    plain = layer.groups == 1 and layer.padding_mode == "zeros" and layer.in_channels == layer.out_channels
    return Layer("conv", kernel, _side(layer.stride), padding, dilation) if plain else None


def _read_convolutions(named: dict[str, nn.Conv2d], num_norms: int) -> Primitive:
    convolutions = list(named.values())
    channels = convolutions[0].in_channels
    for layer in convolutions:
        if layer.padding_mode != "zeros" or layer.in_channels != channels:
            raise Unrecognised("its convolutions have another padding than zeros, or change the channels")
        if layer.bias is not None and _side(layer.kernel_size) != 1:
            raise Unrecognised("its convolutions have a bias that is not added right before a normalisation")
    strides = [_side(layer.stride) for layer in convolutions]
    sides = [_side(layer.kernel_size) for layer in convolutions]
    outputs = [layer.out_channels for layer in convolutions]
    groups = [layer.groups for layer in convolutions]
    biased = [(name,) if layer.bias is not None else () for name, layer in named.items()]
    paddings, dilations = ([_side(getattr(c, name)) for c in convolutions] for name in ("padding", "dilation"))
    if (sides, strides, groups, paddings) == ([1, 1], [2, 2], [1, 1], [0, 0]) and outputs == [channels // 2] * 2:
        if num_norms != 1:
            raise Unrecognised(f"a factorised reduction has one normalisation, it has {num_norms}")
        if len({len(names) for names in biased}) > 1:
            raise Unrecognised("one half of its factorised reduction has a bias")
        return Primitive(Candidate("skip"), 2, channels, biases=(biased[0] + biased[1],))
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
        and not any(biased[::2])
    )
    if not alternate:
        raise Unrecognised("its convolutions are neither depthwise and 1x1 in turn nor a factorised reduction")
    candidate = Candidate("depthwise", sides[0], dilations[0], repeats)
    return Primitive(candidate, strides[0], channels, biases=tuple(biased[1::2]))


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
