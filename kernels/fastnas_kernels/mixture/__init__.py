"""Weighted sums of candidate outputs: the relaxed edge and the node."""

from fastnas_kernels.mixture.derivative import mixed_sum

__all__ = ["mixed_sum"]
