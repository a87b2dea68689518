"""Measure the trained network of a run on test images."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from rich.console import Console
from torch import Tensor
from tyro.conf import Positional

from fastnas.data import DataConfig, ImageData, evaluation_batches, load_data
from fastnas.data.config import TaskName
from fastnas.errors import invalid
from fastnas.networks.model import Model, Preprocessing, load
from fastnas.ranks import torch_device
from fastnas.supernet.layout import height_and_width
from fastnas.training.numerics import evaluate


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure the trained network of a run on test images.

    Args:
        run: A run folder, that of a retraining, or a model folder.
        space: FILE.py:NAME or module:name of the network's space, if that has operations of your own.
        data: digits, cifar10:ROOT, cifar100:ROOT, imagenet:ROOT, folder:ROOT, shards:ROOT or arrays:FILE.npz, of the
            same classes or outputs.
        batch_size: Images in one pass.
        workers: Processes that decode images; 0 decodes between the passes.
        device: Where to run; auto takes a GPU if there is one.
    """

    run: Positional[Path]
    space: str | None = None
    data: str
    batch_size: int = 256
    workers: int = 0
    device: str = "auto"


def run(command: Evaluate, console: Console) -> None:
    """Print score and loss."""
    device = torch_device(command.device)
    model = load(command.run, str(device), space=command.space)
    data = _load_as_trained(command.data, model, console)
    batches = evaluation_batches(data, data.test, batch_size=command.batch_size, workers=command.workers, device=device)
    with torch.no_grad():
        found = evaluate(model, batches, device, task=model.task)
    score = model.task.score_kind
    line = f"{len(data.test.labels):,} test images: {score.label} {score.show(found.score)}, "
    balanced = found.balanced_accuracy
    line += "" if balanced is None else f"balanced {100 * balanced:.2f} %, "
    line += f"loss {found.loss:.4f}"
    console.out(line)


def _load_as_trained(source: str, model: Model, console: Console) -> ImageData:
    """The images of ``source`` as the network reads them: their size, channels and unit are its own."""
    image = model.preprocessing
    config = DataConfig(task=cast(TaskName, model.task.name))
    if isinstance(image.resolution, int) or len(image.resolution) == 2:  # series and volumes stay as they are
        config = replace(config, resolution=height_and_width(image.resolution), fit=image.fit)
    data = load_data(source, config)
    if tuple(map(str, data.classes)) != model.classes:
        rule = f"{source} must have the classes of the network, {_shorten(model.classes)}"
        raise invalid("evaluate", rule, _shorten(tuple(map(str, data.classes))))
    if {data.channels, image.channels} == {1, 3}:
        console.out(f"images are read in {'grey' if image.channels == 1 else 'colour'}, as the network reads them")
        data = load_data(source, replace(config, image_channels=cast(Literal[1, 3], image.channels)))
    if data.channels != image.channels:
        rule = f"{source} must have images of {image.channels} channels, as the network reads"
        raise invalid("evaluate", rule, data.channels)
    size = (image.resolution,) * 2 if isinstance(image.resolution, int) else tuple(image.resolution)
    if tuple(data.resolution) != size:
        rule = f"{source} must have maps of the size {list(size)}, as the network reads"
        raise invalid("evaluate", rule, list(data.resolution))
    if (data.values is None) != (image.values is None):
        rule = f"{source} must hold {_describe_values(image.values)}, as the network was trained on"
        raise invalid("evaluate", rule, _describe_values(data.values), "Save them in that unit and type.")
    return replace(data, normalise=_AsTrained(image, data.values or image.unit))


@dataclass(frozen=True)
class _AsTrained:
    """The network's own preprocessing of the numbers behind pixels: a source scales its numbers by their own range.

    Args:
        preprocessing: Of the network.
        values: The numbers that became 0 and 255.
    """

    preprocessing: Preprocessing
    values: tuple[float, float]

    def __call__(self, pixels: Tensor) -> Tensor:
        low, high = self.values
        wide = pixels.double()  # a small range may lie far from zero
        return self.preprocessing.normalize(low + wide / 255 * (high - low)).float()


def _describe_values(values: tuple[float, float] | None) -> str:
    return "images of 8 bits" if values is None else f"numbers as those in [{values[0]:g}, {values[1]:g}]"


def _shorten(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")
