"""The commands ``fastnas predict``, ``fastnas evaluate`` and ``fastnas export``."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from fastnas.data import DataConfig, evaluation_batches, load_data
from fastnas.errors import invalid
from fastnas.networks.export import ENDINGS, TOLERANCE, Format, export
from fastnas.networks.model import load
from fastnas.ranks import torch_device
from fastnas.training.numerics import evaluate


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Say which classes images belong to, by the trained network of a run.

    Args:
        run: A run folder, that of a retraining, or a model folder.
        images: Image files.
        top: Classes to name for each image.
        json: Print JSON, a list with an entry an image.
        batch_size: Images in one pass.
        device: Where to run; auto takes a GPU if there is one.
    """

    run: Positional[Path]
    images: Positional[tuple[Path, ...]]
    top: int = 5
    json: bool = False
    batch_size: int = 64
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure the trained network of a run on test images.

    Args:
        run: A run folder, that of a retraining, or a model folder.
        data: digits, cifar10:ROOT, cifar100:ROOT, imagenet:ROOT, folder:ROOT or shards:ROOT, of the same classes.
        batch_size: Images in one pass.
        workers: Processes that decode images; 0 decodes between the passes.
        device: Where to run; auto takes a GPU if there is one.
    """

    run: Positional[Path]
    data: str
    batch_size: int = 256
    workers: int = 0
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the trained network of a run for other programs, and check what was written on random input.

    Args:
        run: A run folder, that of a retraining, or a model folder.
        to: onnx, torch-export or torchscript.
        out: The file; by default RUN/model.onnx, .pt2 or .pt.
        dynamic_batch: Take any number of images; otherwise one.
        with_preprocessing: Take values in [0, 255] instead of normalised ones.
    """

    run: Positional[Path]
    to: Format = "onnx"
    out: Path | None = None
    dynamic_batch: bool = False
    with_preprocessing: bool = False


def run_predict(command: Predict, console: Console) -> None:
    model = load(command.run, str(torch_device(command.device)))
    top = min(command.top, len(model.classes))
    table, entries = Table("image", "class", "probability"), []
    for start in range(0, len(command.images), command.batch_size):
        files = command.images[start : start + command.batch_size]
        best = model.predict(list(files)).topk(top)
        for file, values, indices in zip(files, best.values.tolist(), best.indices.tolist(), strict=True):
            found = [{"class": model.classes[i], "probability": p} for i, p in zip(indices, values, strict=True)]
            entries.append({"image": str(file), "classes": found})
            for row, one in enumerate(found):
                table.add_row(str(file) if row == 0 else "", one["class"], f"{one['probability']:.4f}")
    if command.json:
        console.print(json.dumps(entries, indent=2), markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(table)


def run_evaluate(command: Evaluate, console: Console) -> None:
    device = torch_device(command.device)
    model = load(command.run, str(device))
    image = model.preprocessing
    data = load_data(command.data, DataConfig(resolution=image.resolution))
    if tuple(map(str, data.classes)) != model.classes:
        rule = f"{command.data} must have the classes of the network, {_shorten(model.classes)}"
        raise invalid("evaluate", rule, _shorten(tuple(map(str, data.classes))))
    if data.channels != image.channels:
        rule = f"{command.data} must have images of {image.channels} channels, as the network reads"
        raise invalid("evaluate", rule, data.channels)
    data = replace(data, normalise=image.normalize)  # the network's own statistics
    batches = evaluation_batches(data, data.test, batch_size=command.batch_size, workers=command.workers, device=device)
    with torch.no_grad():
        found = evaluate(model, batches, device)
    line = f"{len(data.test.labels):,} test images: accuracy {100 * found.accuracy:.2f} %, loss {found.loss:.4f}"
    console.print(line, highlight=False, soft_wrap=True)


def _shorten(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")


def run_export(command: Export, console: Console) -> None:
    model = load(command.run)
    out = command.out or command.run / f"model{ENDINGS[command.to]}"
    difference = export(
        model, out, command.to, dynamic_batch=command.dynamic_batch, with_preprocessing=command.with_preprocessing
    )
    line = f"exported: {out}   (logits on random input differ by {difference:.1e}, allowed {TOLERANCE:.0e})"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
