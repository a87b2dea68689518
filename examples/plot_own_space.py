"""
A space with an operation of your own
=====================================

A space is a value, too: its primitives, and the graph of a cell. An operation is a function of
``(channels, stride, searching)``.
"""

# %%
# The space of NAS-Bench-201, with channel attention in place of the average pool.

from dataclasses import replace

from torch import nn

import fastnas
from fastnas.spaces import NASBENCH201


class ChannelAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.scale(x)


space = replace(
    NASBENCH201,
    name="with_attention",
    primitives=("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "attention"),
    operations={"attention": lambda channels, stride, searching: ChannelAttention(channels)},
)

# %%
# It is searched like any other. On the command line it is ``--space FILE.py:space``.

config = fastnas.SearchConfig(channels=4, cells=1, epochs=4, batch_size=32, train_fraction=0.3, alpha_lr=0.03)
found = fastnas.search(space, "single_darts", "digits", config)
print(found.genotype)

# %%
# The derived network is plain PyTorch, with the operation inside where an edge chose it.

training = fastnas.RetrainConfig(channels=4, cells=1, epochs=2, batch_size=32)
trained = fastnas.retrain(found.genotype, "digits", training, own=space)
print(f"test accuracy {trained.test_accuracy:.1%} after two epochs")
