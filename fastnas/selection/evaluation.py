"""How well networks, and paths through a trained supernet, classify images that no weights were trained on."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastnas.data import BrokenImages, ImageData, evaluation_batches, training_batches
from fastnas.seeds import stream, torch_seed
from fastnas.spaces.formats import genotype_to_text
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.space import Space
from fastnas.supernet.layout import lay_out
from fastnas.supernet.mix import Mix
from fastnas.tasks import require_unbalanced
from fastnas.training.checkpoint import load_checkpoint, save_checkpoint
from fastnas.training.config import RetrainConfig, SearchConfig
from fastnas.training.networks import build_network_for, parameter_groups
from fastnas.training.numerics import Means, autocast, deterministic, evaluate, find_class_weights


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
        require_unbalanced(data.task, config.is_balanced, config.class_weights == "balanced")
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


class ShortTraining:
    """One architecture on its way up the ladder. Every rung has a cosine of its own down to a rate of zero, so that
    what is compared has converged (Loshchilov and Hutter, 2017, arXiv:1608.03983); all architectures begin from the
    same seed and see the same batches.

    Args:
        genotype: What to train.
        data: The images.
        indices: Those to train on.
        size: Size and optimiser of the network, as in its retraining.
        config: Arithmetic, seed, and how images are read.
        device: Where to train.
        space: Of the genotype.
        path: Where to keep the state between rungs; ``None`` for nowhere.
    """

    def __init__(
        self,
        genotype: Genotype,
        data: ImageData,
        indices: np.ndarray,
        size: RetrainConfig,
        config: SearchConfig,
        device: torch.device,
        space: Space,
        path: Path | None = None,
    ) -> None:
        self.data, self.indices, self.size, self.config, self.device = data, indices, size, config, device
        self.path, self.step, seed = path, 0, stream(config.seed, "ladder")
        self.weights = None
        if config.class_weights == "balanced":
            self.weights = find_class_weights(config, data.train.labels[indices], len(data.classes), device)
        with torch_seed(seed):
            network = build_network_for(data, genotype, replace(size, auxiliary=0), space)
        self.seed, self.network = seed, lay_out(network.to(device))
        self.identity = f"{genotype_to_text(genotype)} {asdict(size)} {len(indices)} {config.seed} {data.name}"
        self.identity += f" {config.balancing}" if config.is_balanced else ""
        self.optimizer = torch.optim.SGD(
            parameter_groups(self.network, size),
            size.lr,
            momentum=size.momentum,
            nesterov=size.nesterov,
            weight_decay=size.weight_decay,
            foreach=True,
        )
        if path is not None and path.exists():
            saved = load_checkpoint(path, self.identity, device)
            self.network.load_state_dict(saved["network"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step = saved["step"]

    def train_to(self, steps: int) -> nn.Module:
        """Train until ``steps`` are done, and return the network, ready to be measured."""
        first, batch_size = self.step, min(self.size.batch_size, len(self.indices))
        batches = training_batches(
            self.data,
            self.indices,
            batch_size=batch_size,
            seed=self.seed,
            first_step=first,
            num_steps=steps - first,
            workers=self.config.workers,
            cutout=self.size.cutout,
            sampling=self.config.sampling,
            device=self.device,
            broken=BrokenImages(self.config.max_broken),
        )
        self.network.train()
        with deterministic():
            for images, labels in batches:
                share = (self.step - first) / (steps - first)
                for group in self.optimizer.param_groups:
                    group["lr"] = self.size.lr * (1 + math.cos(math.pi * share)) / 2
                with autocast(self.device, self.config.precision):
                    logits = self.network(images)
                loss = self.data.task.loss(logits, labels, self.weights, self.size.label_smoothing)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if self.size.grad_clip > 0:
                    nn.utils.clip_grad_norm_(self.network.parameters(), self.size.grad_clip)
                self.optimizer.step()
                self.step += 1
        diverged = not all(p.isfinite().all() for p in self.network.parameters())
        if self.path is not None and not diverged:  # whoever goes on sees it diverge again
            state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "step": steps}
            save_checkpoint(self.path, self.identity, state)
        return self.network.eval()
