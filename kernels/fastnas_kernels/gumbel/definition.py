"""The seeded Gumbel sample in plain PyTorch: the specification of the kernel.

Shape suffixes: E edges, K candidates.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from fastnas_kernels.random_numbers import uniform, uniform_of


def reference_gumbel_softmax(
    alpha_EK: Tensor, seed: int | Tensor, tau: Tensor, alive_EK: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The soft sample, the one-hot sample and the index of the largest, of every edge; computed in float64."""
    count = alpha_EK.numel()
    u = uniform_of(seed, count) if isinstance(seed, Tensor) else torch.from_numpy(uniform(seed, count))
    u = u.view(alpha_EK.shape)
    noise_EK = -torch.log(-torch.log(u.double().clamp_min(2.0**-32)))
    z_EK = alpha_EK.double() + noise_EK.to(alpha_EK.device)
    if alive_EK is not None:
        z_EK = z_EK.masked_fill(~alive_EK, -torch.inf)
    peak_E1, index_E1 = z_EK.max(dim=1, keepdim=True)
    soft_EK = ((z_EK - peak_E1) / tau).softmax(dim=1)
    hard_EK = F.one_hot(index_E1.squeeze(1), alpha_EK.shape[1]) + 0 * soft_EK  # NaN stays NaN
    return soft_EK.to(alpha_EK.dtype), hard_EK.to(alpha_EK.dtype), index_E1.squeeze(1).clone()
