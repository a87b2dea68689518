"""Weight-sharing networks and the networks that are derived from them."""

from fastnas.supernet.operations import batch_norm

__all__ = ["batch_norm"]
