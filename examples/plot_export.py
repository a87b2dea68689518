"""
Export the winner, and predict one image
========================================

A trained network is plain PyTorch with its classes, its preprocessing and its genotype.
"""

# %%
# Train a network that was found before.

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import fastnas
from fastnas.networks.export import export

genotype = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
training = fastnas.RetrainConfig(channels=8, cells=1, epochs=4, batch_size=32)
trained = fastnas.retrain(genotype, "digits", training)

# %%
# A folder holds the whole model: safetensors, and a JSON file that describes the network. Loading it executes nothing.

folder = Path(tempfile.mkdtemp())
trained.save(folder / "model")
network = fastnas.load(folder / "model")
print(network.classes, network.metrics)

# %%
# One image, as a file or a PIL image. ``fastnas predict RUN image.png`` does the same.

pixels = load_digits().images[7] * (255 / 16)
(probabilities,) = network.predict([Image.fromarray(pixels.astype(np.uint8))])
print("this 7 is taken for a", network.classes[int(probabilities.argmax())])

# %%
# What is written for other programs is compared with the network on random input.

difference = export(network, folder / "network.pt2", "torch-export")
print(f"the exported program differs by {difference:.0e}")
