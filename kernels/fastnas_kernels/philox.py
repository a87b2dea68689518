"""Random numbers that depend on a seed and a position alone: Philox4x32-10, the generator of Triton's ``tl.rand``."""

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
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
        product_0, product_2 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1 = (product_2 >> _HALF) ^ c1 ^ np.uint64(k0), product_2 & _MASK
        c2, c3 = (product_0 >> _HALF) ^ c3 ^ np.uint64(k1), product_0 & _MASK
        k0, k1 = (k0 + _KEY_INCREMENTS[0]) & 0xFFFFFFFF, (k1 + _KEY_INCREMENTS[1]) & 0xFFFFFFFF
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
