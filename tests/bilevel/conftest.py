"""A small network with every primitive of the DARTS space, and its second derivatives written out."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional as F

from fastnas.supernet.operations import DARTS_OPERATIONS


class Mixed(nn.Module):
    """All primitives side by side, mixed by a softmax, then a linear classifier."""

    def __init__(self, channels, smooth):
        super().__init__()
        names = [name for name in DARTS_OPERATIONS if not (smooth and name == "max_pool_3x3")]
        self.operations = nn.ModuleList(DARTS_OPERATIONS[name](channels, 1, True) for name in names)
        if smooth:
            for operation in self.operations:
                for name, child in list(operation.named_children()):
                    if isinstance(child, nn.ReLU):
                        setattr(operation, name, nn.GELU())
        self.classifier = nn.Linear(channels, 3)

    def forward(self, x, alpha):
        outputs = zip(alpha.softmax(-1), self.operations, strict=True)
        return self.classifier(sum(p * operation(x) for p, operation in outputs).mean((2, 3)))


class Problem(NamedTuple):
    """A network's loss on some batches, as a function of weights and logits together, and where."""

    network: nn.Module
    losses: list
    at: dict

    def loss(self, at):
        return self.losses[0](at)

    @property
    def w(self):
        return {name: x for name, x in self.at.items() if name != "alpha"}

    @property
    def alpha(self):
        return {"alpha": self.at["alpha"]}

    def dense(self, loss=None):
        """The matrix of second derivatives for the names of ``at`` in order, by PyTorch's own double backward."""
        sizes = [x.numel() for x in self.at.values()]

        def of_flat(flat):
            parts = zip(self.at.items(), flat.split(sizes), strict=True)
            return (loss or self.loss)({name: part.view(x.shape) for (name, x), part in parts})

        return hessian(of_flat, self.flat(self.at))

    def rows(self, names):
        """Where the entries of ``names`` stand in :meth:`dense`."""
        start, found = 0, []
        for name, x in self.at.items():
            found += range(start, start + x.numel()) if name in names else []
            start += x.numel()
        return torch.tensor(found)

    def flat(self, tensors):
        return torch.cat([tensors[name].flatten() for name in self.at if name in tensors])

    def direction(self, names, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return {name: torch.randn(self.at[name].shape, generator=generator).to(self.at[name]) for name in names}


def build(dtype, batches=1, smooth=False, channels=2):
    torch.manual_seed(0)
    network = Mixed(channels, smooth).double()
    at = {name: x.detach() for name, x in network.named_parameters()}
    at["alpha"] = torch.randn(len(network.operations), dtype=torch.float64)
    images = torch.randn(batches, 6, channels, 5, 5, dtype=torch.float64)
    labels = torch.randint(3, (batches, 6))

    def loss_on(x, y):
        def loss(at):
            w = {name: p for name, p in at.items() if name != "alpha"}
            return F.cross_entropy(functional_call(network, w, (x.to(at["alpha"].dtype), at["alpha"])), y)

        return loss

    losses = [loss_on(x, y) for x, y in zip(images, labels, strict=True)]
    return Problem(network, losses, {name: x.to(dtype) for name, x in at.items()})


@pytest.fixture(scope="session")
def build_problem():
    """From dtype, number of batches and whether all primitives are smooth to a problem."""
    return build
