"""Architectures as paths through a trained supernet, and how well these classify."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fastnas.data import BrokenImages, ImageData, evaluation_batches
from fastnas.seeds import stream
from fastnas.spaces.genotype import CellGenotype, Genotype
from fastnas.spaces.space import Edge, Space
from fastnas.supernet.mix import Columns, Mix
from fastnas.training.config import SearchConfig
from fastnas.training.numerics import Means, deterministic, evaluate, find_class_weights


def path_of(space: Space, genotype: Genotype, edges: Mapping[str, Sequence[float]], device: torch.device) -> Mix:
    """The coefficients of the supernet's path that is ``genotype``: one on what it keeps, zero elsewhere.

    Args:
        space: Of both.
        genotype: The architecture.
        edges: Coefficients ``[E]`` of edges, by cell type, if the supernet has some; those of dropped edges go to the
            edges that are kept at the same node.
        device: Of the supernet.
    """
    candidates, alive = {}, {}
    for cell_type, cell in genotype.cells.items():
        columns = _columns(space, cell)
        mix_EK = torch.zeros(len(space.edges), len(space.primitives), device=device)
        for row, of_edge in enumerate(columns):
            mix_EK[row, list(of_edge)] = 1.0
        candidates[cell_type], alive[cell_type] = mix_EK, columns
    kept = {name: _kept(space, values, candidates[name]) for name, values in edges.items()}
    return Mix(candidates, kept, alive)


def _columns(space: Space, cell: CellGenotype) -> Columns:
    columns: list[tuple[int, ...]] = [()] * len(space.edges)
    for node, genes in enumerate(cell.nodes):
        for primitive, source in genes:
            columns[space.row(Edge(source, space.num_inputs + node))] = (space.primitives.index(primitive),)
    return tuple(columns)


def _kept(space: Space, values: Sequence[float], mix_EK: Tensor) -> Tensor:
    edge_E = torch.tensor(values, device=mix_EK.device) * mix_EK.sum(-1)
    for target in space.targets:
        rows = slice(space.rows(target).start, space.rows(target).stop)
        edge_E[rows] /= edge_E[rows].sum().clamp_min(1e-12)
    return edge_E


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
            return evaluate(logits, batches, self.device, self.config.precision, weights=self.weights)
