"""What all derived networks have in common: images in, logits out, in layers of ``torch.nn``."""

from collections.abc import Iterator

from torch import Tensor, nn

from fastnas.supernet.dense import DenseClassifier


class DerivedNetwork(nn.Module):
    """A network built of a genotype; ``network(images)`` are logits, one tensor.

    What only training needs is no part of ``forward``: see :class:`fastnas.networks.training_pass.TrainingPass`.
    Filters are in PyTorch's own memory layout, which pruning needs;
    ``network.to(memory_format=torch.channels_last)`` before a training makes it faster.
    """

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary: nn.Module | None = None  # a second classifier, of training alone
        self.auxiliary_after = 0  # the cell whose output it reads
        self.dense = False  # whether the classifier reads maps, see fastnas.supernet.dense
        self.num_features = 0  # channels of the pooled features that the classifier reads

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one.

        Args:
            num_classes: Size of the logits, 0 for none: the network then returns pooled features.
        """
        old = next(self.parameters())
        features = self.num_features
        fresh = nn.Linear(features, num_classes) if num_classes else nn.Identity()
        if isinstance(self.classifier, DenseClassifier) and isinstance(fresh, nn.Linear):
            fresh = DenseClassifier(fresh, self.classifier.scale, self.classifier.dimensions)
        self.classifier = fresh.to(old.device, old.dtype)
        self.num_features = features

    def units(self) -> list[nn.Module]:
        """The stem and the cells or blocks, in the order in which they run."""
        raise NotImplementedError

    def operations(self) -> Iterator[nn.Module]:
        """The modules that stand for genes: what the search chose."""
        return iter(())

    def droppable(self) -> Iterator[nn.Module]:
        """The modules whose outputs drop-path may leave out, in the order in which they run."""
        return iter(())


class OwnNetwork(DerivedNetwork):
    """A network of one's own for a genotype, such as that of a supernet of one's own.

    Args:
        module: From images to logits ``[N, classes]``.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the module."""
        return self.module(images)

    def units(self) -> list[nn.Module]:
        return [self.module]
