"""
Predict numbers and labels
==========================

A task says what the labels are. Here a small network reads from an image where a square is: once as two numbers, once
as two labels, "low" and "right".
"""

# %%
# A bright square on black, and its place in pixels.

import numpy as np

import fastnas
from fastnas import tasks
from fastnas.data import from_arrays

rng = np.random.default_rng(0)
places = rng.integers(2, 14, (160, 2))
images = np.zeros((160, 16, 16), np.uint8)
for image, (y, x) in zip(images, places, strict=True):
    image[y - 2 : y + 3, x - 2 : x + 3] = 200

# %%
# The task belongs to the data. Search and retraining follow it.

search = fastnas.SearchConfig(channels=4, cells=1, epochs=2, batch_size=16)
training = fastnas.RetrainConfig(channels=4, cells=1, epochs=4, batch_size=16)
for task, targets, names in [
    (tasks.regression(), places.astype(float), ("y", "x")),
    (tasks.multi_label(), places > 8, ("low", "right")),
]:
    data = from_arrays((images, targets), classes=names, task=task)
    found = fastnas.search("nasbench201", "darts", data, search)
    trained = fastnas.retrain(found.genotype, data, training)
    print(task.name, trained.score_kind.label, trained.score_kind.show(trained.score), found.genotype)
