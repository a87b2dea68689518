"""Measure the trained network of a run on test images."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from tyro.conf import Positional

from fastnas.data import DataConfig, evaluation_batches, load_data
from fastnas.data.config import TaskName
from fastnas.errors import invalid
from fastnas.networks.model import load
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
    image = model.preprocessing
    data = load_data(
        command.data,
        DataConfig(resolution=height_and_width(image.resolution), fit=image.fit, task=cast(TaskName, model.task.name)),
    )
    if tuple(map(str, data.classes)) != model.classes:
        rule = f"{command.data} must have the classes of the network, {_shorten(model.classes)}"
        raise invalid("evaluate", rule, _shorten(tuple(map(str, data.classes))))
    if data.channels != image.channels:
        rule = f"{command.data} must have images of {image.channels} channels, as the network reads"
        raise invalid("evaluate", rule, data.channels)
    data = replace(data, normalise=image.normalize)  # the network's own statistics
    batches = evaluation_batches(data, data.test, batch_size=command.batch_size, workers=command.workers, device=device)
    with torch.no_grad():
        found = evaluate(model, batches, device, task=model.task)
    score = model.task.score_kind
    line = f"{len(data.test.labels):,} test images: {score.label} {score.show(found.score)}, "
    balanced = found.balanced_accuracy
    line += "" if balanced is None else f"balanced {100 * balanced:.2f} %, "
    line += f"loss {found.loss:.4f}"
    console.out(line)


def _shorten(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")
