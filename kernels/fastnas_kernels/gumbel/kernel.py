# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""Triton kernel of the seeded Gumbel sample: noise, softmax, argmax and one-hot of all edges in one launch.

It computes in float64 whatever the dtype: there are hardly a hundred numbers, a float32 logarithm next to one is
inaccurate on GPUs, and so all devices agree on which candidate is the largest.

Shape suffixes: E edges, K candidates.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnas_kernels.backend import on_device_of

BLOCK_E = 16  # edges of a program
SMALLEST_UNIFORM = tl.constexpr(2.0**-32)


@triton.jit
def gumbel_softmax_kernel(
    alpha_ptr,
    alive_ptr,
    tau_ptr,
    soft_ptr,
    hard_ptr,
    index_ptr,
    seed_ptr,
    E,
    K: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    k = tl.arange(0, BLOCK_K)
    ek = e[:, None] * K + k[None, :]
    inside = (e[:, None] < E) & (k[None, :] < K)
    on = k[None, :] < K
    if alive_ptr is not None:
        on = on & (tl.load(alive_ptr + ek, mask=inside, other=1) != 0)
    alpha = tl.load(alpha_ptr + ek, mask=inside, other=0).to(tl.float64)
    uniform = tl.maximum(tl.rand(tl.load(seed_ptr), ek), SMALLEST_UNIFORM).to(tl.float64)
    z = tl.where(on, alpha - tl.log(-tl.log(uniform)), float("-inf"))
    index = tl.argmax(z, axis=1)
    p = tl.exp((z - tl.max(z, axis=1)[:, None]) / tl.load(tau_ptr).to(tl.float64))
    soft = p / tl.sum(p, axis=1)[:, None]
    hard = tl.where(k[None, :] == index[:, None], 1.0, 0.0) + 0.0 * soft  # NaN stays NaN
    tl.store(soft_ptr + ek, soft.to(soft_ptr.dtype.element_ty), mask=inside)
    tl.store(hard_ptr + ek, hard.to(hard_ptr.dtype.element_ty), mask=inside)
    tl.store(index_ptr + e, index.to(tl.int64), mask=e < E)


def gumbel_softmax(
    alpha_EK: Tensor, seed: int | Tensor, tau: Tensor, alive_EK: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The soft sample, the one-hot sample and the index of the largest, of every edge."""
    E, K = alpha_EK.shape
    if not isinstance(seed, Tensor):
        seed = torch.full((), seed, dtype=torch.int64, device=alpha_EK.device)  # filled on the device: no transfer
    soft_EK, hard_EK = (torch.empty(E, K, dtype=alpha_EK.dtype, device=alpha_EK.device) for _ in range(2))
    index_E = torch.empty(E, dtype=torch.int64, device=alpha_EK.device)
    with on_device_of(alpha_EK):
        gumbel_softmax_kernel[(triton.cdiv(E, BLOCK_E),)](
            alpha_EK.contiguous(),
            None if alive_EK is None else alive_EK.contiguous().view(torch.uint8),
            tau,
            soft_EK,
            hard_EK,
            index_E,
            seed,
            E,
            K=K,
            BLOCK_E=BLOCK_E,
            BLOCK_K=triton.next_power_of_2(K),
        )
    return soft_EK, hard_EK, index_E
