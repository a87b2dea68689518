"""
Will it fit? Planning for a GPU of 12 GB
========================================

The plan is made without the GPU, and allocates nothing.
"""

# %%
# PC-DARTS on images of CIFAR-10's size, in batches of 512. A plan says what each phase needs at its peak, which cells
# to evaluate again in the backward pass, and what else would help.

import numpy as np

import fastnas

images, labels = np.zeros((1200, 3, 32, 32), np.uint8), np.arange(1200) % 10
config = fastnas.SearchConfig(channels=16, cells=4, batch_size=512)
print(fastnas.plan("darts", "pc_darts", (images, labels), config, budget="12GB"))
