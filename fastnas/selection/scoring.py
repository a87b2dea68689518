"""How well networks, and paths through a trained supernet, classify images that no weights were trained on."""

import numpy as np
import torch
from torch import Tensor, nn

from fastnas.data import BrokenImages, ImageData, evaluation_batches
from fastnas.seeds import stream
from fastnas.supernet.mix import Mix
from fastnas.training.config import SearchConfig
from fastnas.training.numerics import Means, deterministic, evaluate, find_class_weights


class HeldOut:
    """Images that no weights are trained on, the same for all architectures.

    Args:
        data: Whose training images.
        indices: Of the held-out ones.
        count: How many to use, chosen by the seed of the search; all where there are fewer.
        config: Batch size, arithmetic and seed.
        device: Where to measure.
    """

    def __init__(
        self, data: ImageData, indices: np.ndarray, count: int, config: SearchConfig, device: torch.device
    ) -> None:
        rng = np.random.default_rng(stream(config.seed, "selection"))
        self.indices = rng.permutation(indices)[:count]
        self.data, self.config, self.device = data, config, device
        self.weights = find_class_weights(config, data.train.labels, len(data.classes), device)

    def measure(self, network: nn.Module, mix: Mix | None = None) -> Means:
        """Mean loss and accuracy of a supernet at ``mix``, or of a derived network."""
        batches = evaluation_batches(
            self.data,
            self.data.train,
            self.indices,
            batch_size=self.config.batch_size,
            workers=self.config.workers,
            device=self.device,
            broken=BrokenImages(self.config.max_broken),
        )

        def logits(images: Tensor) -> Tensor:
            return network(images) if mix is None else network(images, mix)

        with torch.no_grad(), deterministic():
            return evaluate(
                logits, batches, self.device, self.config.precision, weights=self.weights, task=self.data.task
            )
