"""Derived networks as backbones, made as timm makes models."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastnas.errors import invalid
from fastnas.networks.derived import derived_network
from fastnas.networks.model import load
from fastnas.networks.network import DerivedNetwork
from fastnas.spaces.formats import as_genotype
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.known import KNOWN
from fastnas.spaces.registry import space_by_name
from fastnas.spaces.space import Space

SIDE = {True: 224, False: 32}  # of the images by which strides are found: of ImageNet and of CIFAR


class FeatureNetwork(nn.Module):
    """A derived network that returns its maps, the last one at every resolution, in place of logits.

    Args:
        network: Whose maps.
        in_chans: Channels of its images.
        side: Of an image by which the strides are found, in pixels.
    """

    def __init__(self, network: DerivedNetwork, in_chans: int, side: int) -> None:
        super().__init__()
        self.network = network
        maps = self._maps(torch.zeros(2, in_chans, side, side))
        last = {x.shape[-1]: place for place, x in enumerate(maps)}
        self.places = sorted(last.values())
        self.feature_info = [
            {"num_chs": maps[place].shape[1], "reduction": round(side / maps[place].shape[-1])} for place in self.places
        ]

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []

        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            maps.append(output[-1] if isinstance(output, tuple) else output)

        hooks = [unit.register_forward_hook(keep) for unit in self.network.units()]
        was_training = self.training
        try:
            if not hasattr(self, "places"):  # the strides alone are asked for: running statistics stay as they are
                self.network.eval()
            self.network(images)
        finally:
            self.network.train(was_training)
            for hook in hooks:
                hook.remove()
        return maps

    def forward(self, images: Tensor) -> list[Tensor]:
        """From ``[N, in_chans, H, W]`` to maps ``[N, num_chs, H / reduction, W / reduction]``, see ``feature_info``."""
        maps = self._maps(images)
        return [maps[place] for place in self.places]


def create_model(
    name: str | Path | Genotype,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    features_only: bool = False,
    large: bool | None = None,
    channels: int | None = None,
    cells: int | None = None,
    own: Space | None = None,
) -> nn.Module:
    """A derived network for a task of your own, as ``timm.create_model`` makes models.

    Args:
        name: A known genotype (``"DARTS_V2"``), a genotype, its file or text, or the folder of a trained run. The
            network of a run keeps its weights and sizes; a new head or stem is fresh.
        num_classes: Size of the logits, 0 for none: the pooled features. By default 1,000, or that of the run.
        in_chans: Channels of the images. By default 3, or those of the run.
        features_only: Return the list of maps, the last one at each resolution; ``feature_info`` says their channels
            and strides.
        large: Whether the stem halves the resolution, for images of hundreds of pixels. By default as the space allows.
        channels: Of the first cells. By default those of the papers: 48 where large, otherwise 36; 16 in nasbench201
            and chains.
        cells: Depth. By default that of the papers: 14 where large, otherwise 20; 5 in a stage of nasbench201.
        own: The genotype's space, if it is not registered.

    Raises:
        ValueError: For names and sizes that do not fit together.

    Example:
        >>> import fastnas
        >>> network = fastnas.create_model("DARTS_V2", num_classes=5, channels=4, cells=3)
        >>> network.reset_classifier(7)
        >>> network.classifier.out_features
        7
    """
    folder = Path(name) if isinstance(name, str | Path) and len(str(name)) < 300 else None
    if folder is not None and folder.is_dir():
        fixed = {"large": large, "channels": channels, "cells": cells, "own": own}
        given = [option for option, value in fixed.items() if value is not None]
        if given:
            raise invalid("create_model", "the network of a run has its own sizes", ", ".join(given), "Leave them out.")
        network, image_channels, large = _load_run(folder, num_classes, in_chans)
    else:
        genotype = as_genotype(name, own, "create_model")
        space = space_by_name(genotype.space, own)
        large = not space.no_large_images if large is None else large
        if large and space.no_large_images:
            raise invalid("create_model", f"large must be off in {space.name}", large, space.no_large_images)
        if channels is None:
            channels = (48 if large else 36) if space.has_auxiliary_head else 16
        if cells is None:
            cells = space.depth or ((14 if large else 20) if space.has_auxiliary_head else 5)
        space.require_depth(cells)
        image_channels = 3 if in_chans is None else in_chans
        size = 1000 if num_classes is None else num_classes
        network = derived_network(space, genotype, max(size, 1), channels, cells, image_channels, 224, large, False)
        if size == 0:
            network.reset_classifier(0)
    return FeatureNetwork(network, image_channels, SIDE[large]) if features_only else network


def _load_run(folder: Path, num_classes: int | None, in_chans: int | None) -> tuple[DerivedNetwork, int, bool]:
    model = load(folder)
    info, network = model.info, model.network
    image = info.preprocessing.channels
    if in_chans not in (None, image):
        fresh = info.build(image_channels=in_chans).state_dict()
        known = network.state_dict()
        network = info.build(image_channels=in_chans)
        network.load_state_dict({k: known[k] if known[k].shape == fresh[k].shape else fresh[k] for k in fresh})
        image = in_chans or image
    if num_classes not in (None, len(info.classes)):
        network.reset_classifier(num_classes or 0)
    return network.train(), image, info.large


def register_with_timm() -> list[str]:
    """Let ``timm.create_model`` make the known genotypes: ``fastnas_darts_v2`` and so on. Returns their names."""
    try:
        from timm.models import register_model  # noqa: PLC0415  (not needed otherwise)
    except ImportError:
        raise invalid("timm", "timm must be installed", "nothing", "pip install timm") from None
    names = []
    for genotype in KNOWN:
        names.append(f"fastnas_{genotype.lower()}")
        if not hasattr(sys.modules[__name__], names[-1]):
            entry = _timm_entry(genotype, names[-1])
            setattr(sys.modules[__name__], names[-1], entry)
            register_model(entry)
    return names


def _timm_entry(genotype: str, name: str) -> Any:
    ours = {"num_classes", "in_chans", "features_only", "large", "channels", "cells"}

    def entry(pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise invalid("timm", f"pretrained must be off for {name}", pretrained, "fastnas ships no weights.")
        return create_model(genotype, **{key: value for key, value in options.items() if key in ours})

    entry.__name__ = entry.__qualname__ = name
    return entry
