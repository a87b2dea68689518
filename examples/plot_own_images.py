"""
Search on images of your own
============================

A folder with ``train/<class>/*`` and ``test/<class>/*`` is data. This example draws its images, so
that it runs anywhere.
"""

# %%
# Two classes: filled discs, and rings.

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import fastnas

photos, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
for part, count in (("train", 96), ("test", 32)):
    for name in ("disc", "ring"):
        folder = photos / part / name
        folder.mkdir(parents=True)
        for number in range(count):
            image = Image.new("RGB", (16, 16), tuple(rng.integers(0, 90, 3)))
            x, y = rng.integers(1, 6, 2)
            colour = tuple(rng.integers(150, 255, 3))
            draw = ImageDraw.Draw(image)
            draw.ellipse((x, y, x + 9, y + 9), fill=colour if name == "disc" else None, outline=colour, width=2)
            image.save(folder / f"{number}.png")

# %%
# What the data turned out to be is printed: sizes, channels, statistics.

data = fastnas.data.load_data(f"folder:{photos}")
print(data.resolution, data.classes)
print("\n".join(data.notes))

# %%
# Search, train what was found, and keep the model. ``fastnas search --data folder:PHOTOS`` does the same and writes a
# report.

sizes = {"channels": 8, "cells": 1, "batch_size": 16}
found = fastnas.search("nasbench201", "single_darts", data, fastnas.SearchConfig(epochs=6, alpha_lr=0.03, **sizes))
trained = fastnas.retrain(found.genotype, data, fastnas.RetrainConfig(epochs=8, **sizes))
trained.save(photos / "model")
print(found.genotype)
print(f"test accuracy {trained.test_accuracy:.1%}")
