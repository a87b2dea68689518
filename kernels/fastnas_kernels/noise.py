"""Normal noise as a pure function of integers: no generator, no state, the same on every device.

The draw is counter-based (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3"): element ``i`` of
stream ``seed`` is a hash of ``seed`` and ``i``, so any part may be drawn any number of times, in any order.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastnas_kernels.precision import accumulator

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_UNITS = 1 << 24  # values of a uniform draw: what float32 holds exactly


def _signed(x: int) -> int:
    """The 64-bit integer of the same bits that PyTorch's signed arithmetic knows."""
    x &= 0xFFFFFFFFFFFFFFFF
    return x - (1 << 64) if x >= 1 << 63 else x


def _hash(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele et al., 2014) on int64, whose products wrap around."""
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        x = (x ^ _shifted(x, shift)) * _signed(multiplier)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # the shift of signed integers repeats the sign; the mask drops it


def normal_noise(shape: Sequence[int], seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Independent standard normal numbers, decided by ``seed`` alone.

    Box and Muller's transform of two 24-bit uniforms; the largest magnitude is ``sqrt(2 log 2^25)``, about 5.9.

    Args:
        shape: Of the result.
        seed: Names the stream, a non-negative integer below ``2**63``.
        device: Where to draw; the integers behind the numbers are the same everywhere.
        dtype: Of the result; drawn in float32, or in float64 for that.
    """
    wide = accumulator(dtype)
    counter = torch.arange(math.prod(shape), device=device) * _signed(_GOLDEN)
    bits = _hash(counter + _signed(int(seed) * _MULTIPLIERS[0] + _GOLDEN))
    radius = ((_shifted(bits, 40).to(wide) + 0.5) / _UNITS).log_().mul_(-2).sqrt_()
    angle = (bits & (_UNITS - 1)).to(wide) * (2 * math.pi / _UNITS)
    return (radius * angle.cos_()).to(dtype).view(*shape)
