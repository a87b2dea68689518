"""Random numbers as pure functions of a seed and a position: no generator, no state, the same on every device.

Both draws are counter-based (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3"), so any part may be
drawn any number of times, in any order. :func:`uniform` is Philox4x32-10, because Triton's ``tl.rand`` is.
:func:`normal_noise` fills whole feature maps with PyTorch's operations, of which SplitMix64 takes 8, Philox 120.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastnas_kernels.tensors import accumulator

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


_PHILOX_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_PHILOX_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_MASK, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox_4x32(counter: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Ten rounds of Philox4x32 (Salmon et al., 2011, doi:10.1145/2063384.2063405).

    Args:
        counter: Four 32-bit words for each position, shape ``[4, *]``.
        seed: The key, 64 bits, the lower word first.

    Returns:
        Four random 32-bit words for each position, shape ``[4, *]``.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        product_0, product_2 = _PHILOX_MULTIPLIERS[0] * c0, _PHILOX_MULTIPLIERS[1] * c2
        c0, c1 = (product_2 >> _HALF) ^ c1 ^ np.uint64(k0), product_2 & _MASK
        c2, c3 = (product_0 >> _HALF) ^ c3 ^ np.uint64(k1), product_0 & _MASK
        k0, k1 = (k0 + _PHILOX_INCREMENTS[0]) & 0xFFFFFFFF, (k1 + _PHILOX_INCREMENTS[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


def uniform(seed: int, count: int) -> NDArray[np.float32]:
    """``count`` numbers in [0, 1), bit for bit those of ``tl.rand(seed, position)`` at positions 0, 1, …

    Triton drops the sign of the first word and scales by a little less than 2⁻³¹, so that the largest number is
    1 - 2⁻²⁴, while 0 occurs.

    Args:
        seed: In ``[0, 2**63)``.
        count: How many; less than 2³², so that a position is one word.
    """
    positions = np.arange(count, dtype=np.uint64)
    first_word = philox_4x32(np.stack([positions, *[np.zeros_like(positions)] * 3]), seed)[0]
    signed = first_word.astype(np.uint32).view(np.int32)
    return np.where(signed < 0, ~signed, signed).astype(np.float32) * np.float32(4.6566127342e-10)


def _word_product(factor: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """The upper and the lower word of products of 32-bit words, which signed integers of 64 bits do not hold."""
    lower, upper = factor * (x & 0xFFFF), factor * (x >> 16)
    middle = (lower >> 16) + upper
    return middle >> 16, (middle & 0xFFFF) << 16 | (lower & 0xFFFF)


def uniform_of(seed: Tensor, count: int) -> Tensor:
    """:func:`uniform` of a seed that lies on a device, 0-d and int64: nobody reads it."""
    mask = 0xFFFFFFFF
    c0 = torch.arange(count, device=seed.device)
    c1 = c2 = c3 = torch.zeros_like(c0)
    k0, k1 = seed & mask, (seed >> 32) & mask
    for _ in range(10):
        high_0, low_0 = _word_product(int(_PHILOX_MULTIPLIERS[0]), c0)
        high_2, low_2 = _word_product(int(_PHILOX_MULTIPLIERS[1]), c2)
        c0, c1, c2, c3 = high_2 ^ c1 ^ k0, low_2, high_0 ^ c3 ^ k1, low_0
        k0, k1 = (k0 + _PHILOX_INCREMENTS[0]) & mask, (k1 + _PHILOX_INCREMENTS[1]) & mask
    positive = torch.where(c0 >= 1 << 31, mask - c0, c0)
    return positive.to(torch.float32) * 4.6566127342e-10
