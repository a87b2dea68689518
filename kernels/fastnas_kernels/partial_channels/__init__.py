"""Partial channels: the mixture sees 1/k of the channels, the rest passes by, and a shuffle interleaves both."""

from fastnas_kernels.partial_channels.definition import channel_shuffle, require_partial
from fastnas_kernels.partial_channels.derivative import merge_channels

__all__ = ["channel_shuffle", "merge_channels", "require_partial"]
