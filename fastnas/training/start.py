"""Weights that a training starts from: those of another run's model, or of the supernet that found the genotype."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from fastnas.data import Batch
from fastnas.errors import invalid
from fastnas.files import write_json
from fastnas.fingerprint import fingerprint
from fastnas.networks.derived import BuildNetwork
from fastnas.networks.inherit import inherit_weights, read_weights, take_weights
from fastnas.networks.model import Model, load
from fastnas.networks.network import DerivedNetwork
from fastnas.run_files import StartFile, read_file
from fastnas.spaces.registry import SPACES, space_by_name
from fastnas.spaces.space import Space

WHERE = "init_from"
SUPERNET = "supernet"
FILE = "init.json"
MOST_BATCHES = 100  # from which running statistics are taken, as a supernet keeps none

Init = Path | str | Model | nn.Module


@dataclass(frozen=True)
class Start:
    """Where the weights of a network come from.

    Args:
        source: The run or model folder, or what the object is.
        identity: Of the weights.
        share: Of the network's parameters, how many are not fresh.
        fresh: Names of those that are.
        unused: Names of weights of the source that the network has no place for.
        score: On the test images before any training; ``None`` where the classifier is fresh.
    """

    source: str
    identity: str
    share: float
    fresh: list[str]
    unused: list[str]
    score: float | None = None

    def describe(self, show: Callable[[float], str]) -> str:
        """In a line: what was taken, what not, and the score before any training."""
        names = ", ".join(self.fresh[:3]) + (f" and {len(self.fresh) - 3} more" if len(self.fresh) > 3 else "")
        text = f"started from {self.source}: {self.share:.1%} of the weights taken"
        text += f"; fresh: {names}" if names else ""
        text += f"; {len(self.unused)} tensors of it not used" if self.unused else ""
        return text + ("" if self.score is None else f"; {show(self.score)} before any training")


def start_from(
    init: Init,
    network: DerivedNetwork,
    space: Space,
    classes: tuple[str, ...],
    build: BuildNetwork | None = None,
) -> Start:
    """Give ``network`` the weights of ``init``.

    Args:
        init: A run or model folder, what :func:`fastnas.load` returns, or a supernet of the same space and size.
        network: The network.
        space: That of its genotype.
        classes: Names of its outputs; the classifier stays fresh where they are others.
        build: The function that made the network, where it is none of the library's.

    Raises:
        ValueError: If there is no such model, or nothing of it fits.
    """
    if isinstance(init, nn.Module) and not isinstance(init, Model):
        if getattr(init, "space", None) != space:
            rule, got = "a supernet must have the space of the genotype", getattr(init, "space", None)
            raise invalid(WHERE, rule, getattr(got, "name", type(init).__name__))
        share = inherit_weights(network, init) / sum(p.numel() for p in network.parameters())
        return Start(SUPERNET, fingerprint(dict(init.named_parameters())), share, [], [])
    if init == SUPERNET:
        remedy = "Name the folder of a run, or search: fastnas search --retrain.init-from supernet."
        raise invalid(WHERE, "supernet needs a search, which has one", "a retraining alone", remedy)
    own = None if space.name in SPACES else space
    model = init if isinstance(init, Model) else load(init, space=own, network=build)
    theirs = space_by_name(model.genotype.space, own)
    taken = take_weights(network, space, read_weights(model.network, theirs), model.classes == classes)
    source = "a model" if isinstance(init, Model) else str(Path(init).resolve())
    return Start(source, fingerprint(model.network.state_dict()), *taken)


@torch.no_grad()
def fill_statistics(network: nn.Module, batches: Iterable[Batch]) -> None:
    """Take the running statistics over all normalisations as means over ``batches``."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    for images, _ in batches:
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def save_start(start: Start, folder: Path) -> None:
    """Write ``init.json``."""
    write_json(folder / FILE, asdict(start), checksum=True)


def read_score(folder: Path) -> float | None:
    """The score before any training that ``init.json`` keeps."""
    content = read_file(folder / FILE, StartFile)
    return None if content is None else content["score"]
