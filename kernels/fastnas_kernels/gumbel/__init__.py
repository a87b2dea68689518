"""A seeded draw of one candidate on every edge, soft or hard."""

from fastnas_kernels.gumbel.derivative import Form, GumbelSample, gumbel_softmax

__all__ = ["Form", "GumbelSample", "gumbel_softmax"]
